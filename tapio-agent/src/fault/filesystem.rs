//! The self-test's own file system, in memory. Dropping it unmounts it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{NotCaused, package::Package, role::COMM};

const UTIL_LINUX: Package = Package("util-linux");
const DIRECTORY: &str = "/run";
/// What the host has mounted.
const OF_HOST: &str = "/proc/1/mountinfo";
/// Prefix of its mount point's name. The pid of the self-test follows.
const PREFIX: &str = "tapio-selftest-";
const SIZE_BYTES: usize = 1 << 20;

/// The file system, by its mount point.
#[derive(Debug)]
pub struct Filesystem(PathBuf);

impl Filesystem {
    /// Mounts it where the host sees it.
    pub(super) fn new() -> Result<Self, NotCaused> {
        let filesystem = Self(mount_point(std::process::id()));
        let point = filesystem.0.display().to_string();
        fs::create_dir(&filesystem.0).map_err(|error| format!("{point} cannot be created: {error}"))?;
        let (source, options) = (COMM.to_string_lossy(), format!("size={SIZE_BYTES},mode=700"));
        UTIL_LINUX.run(
            "mount",
            &["-t", "tmpfs", "-o", &options, &source, &point],
            "run as root on the host: mounting takes CAP_SYS_ADMIN",
        )?;
        let seen =
            fs::read_to_string(OF_HOST).map_err(|error| format!("{OF_HOST} cannot be read: {error}"))?;
        if !seen.contains(&point) {
            return Err(NotCaused::Impossible {
                reason: "the host does not see what is mounted here".to_owned(),
                remedy: "run it as root on the host".to_owned(),
            });
        }
        Ok(filesystem)
    }

    /// Writes until there is no room.
    ///
    /// # Errors
    /// There is more room than it should have.
    pub fn fill(&self) -> Result<(), String> {
        match fs::write(self.0.join("fill"), vec![1; 2 * SIZE_BYTES]) {
            Err(_) => Ok(()),
            Ok(()) => Err(format!("{} has more room than {SIZE_BYTES} bytes", self.0.display())),
        }
    }
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// The mount point of the self-test with this pid.
pub fn mount_point(pid: u32) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{PREFIX}{pid}"))
}

/// Unmounts those of earlier runs and returns their mount points.
pub(super) fn remove_stale() -> Vec<String> {
    let entries = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let is_stale = |name: &String| {
        name.strip_prefix(PREFIX)
            .is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
    };
    let points = names.filter(is_stale).map(|name| Path::new(DIRECTORY).join(name));
    points.filter(|point| remove(point)).map(|point| point.display().to_string()).collect()
}

/// Unmounts it, and removes its mount point. If it is not mounted, only that.
fn remove(point: &Path) -> bool {
    let _ = UTIL_LINUX.run("umount", &[&point.display().to_string()], "");
    fs::remove_dir(point).is_ok()
}
