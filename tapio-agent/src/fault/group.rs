//! A cgroup of the self-test's own, with a limit on its memory. Dropping it takes it away.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::NotCaused;

/// Begins its name; the pid of the self-test follows.
const PREFIX: &str = "tapio-selftest-";
/// A process that has just ended is still in its group for a moment.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// The group.
#[derive(Debug)]
pub struct Group(PathBuf);

impl Group {
    /// The memory that its processes may take.
    pub const LIMIT_BYTES: usize = 32 << 20;

    /// Makes it below the root of the hierarchies.
    pub(super) fn new(root: &Path) -> Result<Self, NotCaused> {
        let (parent, file) = memory(root).ok_or_else(|| NotCaused::Impossible {
            reason: format!("no cgroup below {} has memory", root.display()),
            remedy: "run it on the host, with the memory controller on".to_owned(),
        })?;
        let path = parent.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| NotCaused::Impossible {
            reason: format!("the cgroup {} cannot be made: {error}", path.display()),
            remedy: "run it as root, with /sys/fs/cgroup writable".to_owned(),
        })?;
        let group = Self(path);
        fs::write(group.0.join(file), Self::LIMIT_BYTES.to_string())
            .map_err(|error| format!("{} cannot be limited: {error}", group.0.display()))?;
        Ok(group)
    }

    /// Moves a process into it.
    ///
    /// # Errors
    /// There is no way into it.
    pub fn add(&self, pid: u32) -> Result<(), String> {
        fs::write(self.0.join("cgroup.procs"), pid.to_string())
            .map_err(|error| format!("no way into {}: {error}", self.0.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..TRIES {
            match fs::remove_dir(&self.0) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => thread::sleep(PAUSE),
                _ => return,
            }
        }
    }
}

/// Takes away what an earlier run left behind. One that a process is in stays.
pub(super) fn remove_stale(root: &Path) -> Vec<String> {
    let Some((parent, _)) = memory(root) else { return Vec::new() };
    let entries = fs::read_dir(&parent).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let ours = names.filter(|name| name.starts_with(PREFIX));
    let running =
        |name: &str| name.strip_prefix(PREFIX).is_some_and(|pid| Path::new("/proc").join(pid).exists());
    ours.filter(|name| !running(name) && fs::remove_dir(parent.join(name)).is_ok()).collect()
}

/// Where groups with memory can be made, and the file with the limit.
fn memory(root: &Path) -> Option<(PathBuf, &'static str)> {
    let passed_on = fs::read_to_string(root.join("cgroup.subtree_control")).unwrap_or_default();
    if passed_on.split_whitespace().any(|name| name == "memory") {
        return Some((root.to_owned(), "memory.max"));
    }
    let version_1 = root.join("memory");
    version_1.join("memory.limit_in_bytes").is_file().then_some((version_1, "memory.limit_in_bytes"))
}
