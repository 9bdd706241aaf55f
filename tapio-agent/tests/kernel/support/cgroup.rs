//! A cgroup like the one that a container runtime creates for a container. It is removed on drop.

use std::{
    fs, io,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

pub(crate) struct Cgroup {
    /// One directory in each hierarchy.
    pub(super) paths: Vec<PathBuf>,
    /// The directories created here, the deepest first.
    made: Vec<PathBuf>,
    pub(crate) container_id: String,
}

/// The hierarchies in which container runtimes create cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// cgroup v1: each controller has a separate hierarchy, which sockets do not know.
    One,
    /// cgroup v2: one hierarchy for everything, including sockets.
    Two,
    /// All hierarchies of this machine, with the same path.
    Any,
}

impl Cgroup {
    /// Creates a cgroup in all hierarchies of a version, or returns why this is impossible.
    pub(crate) fn container(version: Version) -> Result<Self, String> {
        let mounts = mounts(version);
        if mounts.is_empty() {
            return Err(match version {
                Version::One => "no cgroup file system of version 1 is mounted".to_owned(),
                Version::Any => "no cgroups are mounted".to_owned(),
                Version::Two => {
                    "no cgroup2 file system is mounted, so that a socket has no cgroup".to_owned()
                }
            });
        }
        let container_id = format!("{:032x}{:032x}", fastrand::u128(..), fastrand::u128(..));
        let id = format!("{:032x}", fastrand::u128(..));
        let pod = format!("pod{}-{}-{}-{}-{}", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]);
        let mut cgroup = Self { paths: Vec::new(), made: Vec::new(), container_id };
        let names = ["kubepods", "burstable", &pod, &cgroup.container_id.clone()];
        mounts.into_iter().try_for_each(|mount| cgroup.make(mount, &names))?;
        Ok(cgroup)
    }

    /// Creates the cgroup of a systemd unit in all hierarchies, or returns why this is impossible.
    pub(crate) fn unit(name: &str) -> Result<Self, String> {
        let mut cgroup = Self { paths: Vec::new(), made: Vec::new(), container_id: String::new() };
        let slice = format!("tapio-test-{}.slice", fastrand::u32(..));
        mounts(Version::Any).into_iter().try_for_each(|mount| cgroup.make(mount, &[&slice, name]))?;
        Ok(cgroup)
    }

    /// Creates the directories of one hierarchy, each in the one before.
    fn make(&mut self, mut path: PathBuf, names: &[&str]) -> Result<(), String> {
        for name in names {
            path.push(name);
            match fs::create_dir(&path) {
                Ok(()) => self.made.insert(0, path.clone()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(format!("{} cannot be made: {error}", path.display())),
            }
        }
        self.paths.push(path);
        Ok(())
    }

    /// Creates another one in the same pod, as when a container restarts. Drop it before this one.
    pub(crate) fn beside(&self) -> Self {
        let container_id = format!("{:032x}{:032x}", fastrand::u128(..), fastrand::u128(..));
        let paths: Vec<_> = self.paths.iter().map(|path| path.with_file_name(&container_id)).collect();
        paths.iter().for_each(|path| fs::create_dir(path).unwrap());
        Self { made: paths.clone(), paths, container_id }
    }

    /// Creates one with memory accounting if this kernel has it, or returns why this is impossible.
    pub(crate) fn with_memory() -> Result<Self, String> {
        let has_memory = |path: PathBuf| {
            let controllers = fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
            controllers.split_whitespace().any(|name| name == "memory")
        };
        let version =
            if mounts(Version::Two).into_iter().any(has_memory) { Version::Two } else { Version::One };
        let cgroup = Self::container(version)?;
        for path in cgroup.paths.iter().filter(|_| version == Version::Two) {
            // From the root down to the container, each cgroup enables the controller for those below.
            for above in path.ancestors().skip(1).take(4).collect::<Vec<_>>().into_iter().rev() {
                fs::write(above.join("cgroup.subtree_control"), "+memory")
                    .map_err(|error| format!("{} lets no group have memory: {error}", above.display()))?;
            }
        }
        match cgroup.memory() {
            Some(_) => Ok(cgroup),
            None => Err("no cgroup has memory".to_owned()),
        }
    }

    /// Its directory with the memory controller, and the name of the limit file.
    fn memory(&self) -> Option<(&PathBuf, &'static str)> {
        ["memory.max", "memory.limit_in_bytes"]
            .into_iter()
            .find_map(|file| Some((self.paths.iter().find(|path| path.join(file).exists())?, file)))
    }

    /// Limits its memory.
    pub(crate) fn limit(&self, bytes: u64) {
        let (path, file) = self.memory().unwrap();
        fs::write(path.join(file), bytes.to_string()).unwrap();
    }

    /// Limits the memory of its pod.
    pub(crate) fn limit_pod(&self, bytes: u64) {
        let (path, file) = self.memory().unwrap();
        fs::write(path.parent().unwrap().join(file), bytes.to_string()).unwrap();
    }

    /// The UID of its pod.
    pub(crate) fn pod_uid(&self) -> String {
        let pod = self.paths[0].parent().unwrap().file_name().unwrap().to_str().unwrap();
        pod.trim_start_matches("pod").to_owned()
    }

    /// Moves a process into it.
    pub(crate) fn add(&self, pid: u32) {
        for path in &self.paths {
            fs::write(path.join("cgroup.procs"), pid.to_string()).unwrap();
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.made);
    }
}

/// Removes cgroups, the deepest first.
pub(super) fn remove(groups: &[PathBuf]) {
    // A process that has just exited stays in the cgroup for a moment.
    let deadline = Instant::now() + Duration::from_secs(2);
    for path in groups {
        while let Err(error) = fs::remove_dir(path) {
            if error.kind() == io::ErrorKind::NotFound || Instant::now() > deadline {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// cgroup v1 controllers that these tests avoid: a new cpuset cgroup accepts no process until it has CPUs,
/// and before kernel 5.15 the first process in a net_prio cgroup permanently takes the cgroup reference from
/// every socket of the machine.
const UNFIT: [&str; 2] = ["cpuset", "net_prio"];

/// The mount points of the hierarchies.
fn mounts(version: Version) -> Vec<PathBuf> {
    let kinds: &[&str] = match version {
        Version::One => &["cgroup"],
        Version::Two => &["cgroup2"],
        Version::Any => &["cgroup", "cgroup2"],
    };
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let of_kind = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (path, found, options) = (words.next()?, words.next()?, words.next()?);
        let is_fit = !options.split(',').any(|option| UNFIT.contains(&option));
        (kinds.contains(&found) && is_fit).then(|| PathBuf::from(path))
    });
    of_kind.filter(|path| path.is_dir()).collect()
}
