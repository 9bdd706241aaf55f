//! A cgroup as a container runtime makes one for a container. It ends with its handle.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

pub(crate) struct Cgroup {
    path: PathBuf,
    /// Those that were made here, the deepest first.
    made: Vec<PathBuf>,
    pub(crate) container_id: String,
}

impl Cgroup {
    /// Makes one, or says why none can be had.
    pub(crate) fn container() -> Result<Self, String> {
        let root = mount().ok_or("no cgroup2 file system is mounted")?;
        let container_id = format!("{:032x}{:032x}", fastrand::u128(..), fastrand::u128(..));
        let id = format!("{:032x}", fastrand::u128(..));
        let pod = format!("pod{}-{}-{}-{}-{}", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]);
        let mut cgroup = Self { path: root, made: Vec::new(), container_id };
        for name in ["kubepods", "burstable", &pod, &cgroup.container_id.clone()] {
            cgroup.path.push(name);
            match fs::create_dir(&cgroup.path) {
                Ok(()) => cgroup.made.insert(0, cgroup.path.clone()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(format!("{} cannot be made: {error}", cgroup.path.display())),
            }
        }
        Ok(cgroup)
    }

    /// Moves a process into it.
    pub(super) fn add(&self, pid: u32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that has just ended is still in it for a moment.
        let deadline = Instant::now() + Duration::from_secs(2);
        for path in &self.made {
            while let Err(error) = fs::remove_dir(path) {
                if error.kind() == io::ErrorKind::NotFound || Instant::now() > deadline {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Where cgroup2 is mounted.
fn mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut lines = mounts.lines().map(|line| line.split(' '));
    let found = lines.find_map(|mut words| {
        let path = words.nth(1)?;
        (words.next()? == "cgroup2").then(|| Path::new(path).to_owned())
    });
    found.filter(|path| path.is_dir())
}
