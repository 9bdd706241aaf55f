//! The self-test's own cgroup, with a memory limit. Dropping it removes it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::NotCaused;

/// Prefix of its name. The pid of the self-test follows.
const PREFIX: &str = "tapio-selftest-";
/// Attempts to remove it: a process stays in its cgroup for a moment after it exits.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// The cgroup, by its directory.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Its memory limit.
    pub const LIMIT_BYTES: usize = 32 << 20;

    /// Creates it below the root of the hierarchies.
    pub(super) fn new(root: &Path) -> Result<Self, NotCaused> {
        let (parent, file) = memory(root).ok_or_else(|| NotCaused::Impossible {
            reason: format!("no cgroup hierarchy at {} has the memory controller", root.display()),
            remedy: "run it on the host, with the memory controller enabled".to_owned(),
        })?;
        let path = parent.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| NotCaused::Impossible {
            reason: format!("the cgroup {} cannot be created: {error}", path.display()),
            remedy: "run it as root, with /sys/fs/cgroup writable".to_owned(),
        })?;
        let cgroup = Self(path);
        fs::write(cgroup.0.join(file), Self::LIMIT_BYTES.to_string())
            .map_err(|error| format!("{} cannot be limited: {error}", cgroup.0.display()))?;
        Ok(cgroup)
    }

    /// Moves a process into it.
    ///
    /// # Errors
    /// The process cannot be moved.
    pub fn add(&self, pid: u32) -> Result<(), String> {
        fs::write(self.0.join("cgroup.procs"), pid.to_string())
            .map_err(|error| format!("its process cannot be moved into {}: {error}", self.0.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..TRIES {
            match fs::remove_dir(&self.0) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => thread::sleep(PAUSE),
                _ => return,
            }
        }
    }
}

/// Removes cgroups of earlier runs and returns their names. A cgroup that still has a process stays.
pub(super) fn remove_stale(root: &Path) -> Vec<String> {
    let Some((parent, _)) = memory(root) else { return Vec::new() };
    let entries = fs::read_dir(&parent).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let ours = names.filter(|name| name.starts_with(PREFIX));
    let running =
        |name: &str| name.strip_prefix(PREFIX).is_some_and(|pid| Path::new("/proc").join(pid).exists());
    ours.filter(|name| !running(name) && fs::remove_dir(parent.join(name)).is_ok()).collect()
}

/// Finds where cgroups with a memory limit can be created, and the name of the limit's file.
fn memory(root: &Path) -> Option<(PathBuf, &'static str)> {
    let passed_on = fs::read_to_string(root.join("cgroup.subtree_control")).unwrap_or_default();
    if passed_on.split_whitespace().any(|name| name == "memory") {
        return Some((root.to_owned(), "memory.max"));
    }
    let version_1 = root.join("memory");
    version_1.join("memory.limit_in_bytes").is_file().then_some((version_1, "memory.limit_in_bytes"))
}
