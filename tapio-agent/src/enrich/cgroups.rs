//! Identity without Kubernetes: from the id of a control group, by its path, to container, runtime and pod UID, or
//! to the systemd unit.
//!
//! The id is the inode number of the group's directory in the cgroup2 hierarchy, or with [`VERSION_1`] in that of the
//! memory controller, and is never used again while the host is up. An owner that is not certain is left out.

mod path;
mod process;

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

pub use path::parse_path;
pub use process::in_host_pid_namespace;

use tapio_common::VERSION_1;

use super::REMEMBER;
use crate::occurrence::Workload;

/// The control groups of this host. Reads files: not for an async task's own thread where there are thousands.
#[derive(Debug)]
pub struct Cgroups {
    mount: Option<Mount>,
    /// The hierarchy that the memory controller has for itself.
    memory: Option<PathBuf>,
    /// Where processes are looked up; `None` where they go by other pids than the kernel's, and would be others.
    proc_root: Option<PathBuf>,
    known: HashMap<u64, Group>,
    /// How long a group that vanished is remembered.
    remember: Duration,
}

/// What is known of a control group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Whose it is.
    Known(Arc<Workload>),
    /// It is there, or was, and is no one's: that of the whole host, or one outside containers and units.
    Unowned,
    /// It is not there, or not yet.
    Unknown,
}

impl Lookup {
    /// Whose it is, where that is certain.
    #[must_use]
    pub fn workload(self) -> Option<Arc<Workload>> {
        match self {
            Self::Known(workload) => Some(workload),
            Self::Unowned | Self::Unknown => None,
        }
    }
}

#[derive(Debug)]
struct Mount {
    path: PathBuf,
    /// Version 1 hierarchies stand beside it, which containers may be in instead.
    hybrid: bool,
}

#[derive(Debug)]
struct Group {
    /// Below the root of its hierarchy.
    path: Box<Path>,
    workload: Option<Arc<Workload>>,
    gone: Option<Instant>,
}

/// A node has hundreds of groups, a large one thousands.
const MAX_GROUPS: usize = 20_000;
/// Groups nest by container in container; more is someone's play. As deep as paths of names of 16 bytes can be.
const MAX_DEPTH: usize = 256;

impl Cgroups {
    /// Finds the cgroup2 hierarchy at or under `root` (usually `/sys/fs/cgroup`). Where there is none, only
    /// processes are looked at.
    #[must_use]
    pub fn new(root: &Path, proc_root: &Path) -> Self {
        let is_cgroup2 = |path: &Path| path.join("cgroup.controllers").is_file();
        let unified = root.join("unified");
        let mount = if is_cgroup2(root) {
            Some(Mount { path: root.to_owned(), hybrid: false })
        } else {
            is_cgroup2(&unified).then_some(Mount { path: unified, hybrid: true })
        };
        let memory = Some(root.join("memory")).filter(|path| path.join("memory.limit_in_bytes").is_file());
        let proc_root =
            process::has_host_pids(proc_root, in_host_pid_namespace()).then(|| proc_root.to_owned());
        Self { mount, memory, proc_root, known: HashMap::new(), remember: REMEMBER }
    }

    /// Remembers groups that vanished for this long.
    #[must_use]
    pub fn remembering(self, remember: Duration) -> Self {
        Self { remember, ..self }
    }

    /// Where the cgroup2 hierarchy is.
    #[must_use]
    pub fn mount(&self) -> Option<&Path> {
        self.mount.as_ref().map(|mount| mount.path.as_path())
    }

    /// Where a group is, or was.
    #[must_use]
    pub fn directory(&self, id: u64) -> Option<PathBuf> {
        let group = self.known.get(&id)?;
        let root = if id & VERSION_1 == 0 { self.mount() } else { self.memory.as_deref() };
        root.map(|root| root.join(&group.path))
    }

    /// What is known of a group without looking at the hierarchy again.
    #[must_use]
    pub fn cached(&self, id: u64) -> Lookup {
        match self.known.get(&id) {
            None => Lookup::Unknown,
            Some(Group { workload: None, .. }) => Lookup::Unowned,
            Some(Group { workload: Some(workload), .. }) => Lookup::Known(Arc::clone(workload)),
        }
    }

    /// What is known of a group. One that is not known costs a walk through the whole hierarchy, some milliseconds
    /// for a thousand groups: the caller limits how often.
    pub fn lookup(&mut self, id: u64, now: Instant) -> Lookup {
        if id != 0 && self.cached(id) == Lookup::Unknown {
            self.walk(now);
        }
        self.cached(id)
    }

    /// The owner of what happened at `at_ns` (boot clock) in a group and a process, of which each may be 0 for not
    /// known. Beside version 1 hierarchies only a container's group is believed: a process in a container then has
    /// the group of the daemon that started it, and where it is in truth its version 1 groups say.
    /// Looks into what is cached: [`Self::lookup`] comes first.
    pub fn owner(&self, id: u64, pid: u32, at_ns: u64) -> Lookup {
        let found = self.cached(id);
        let hybrid = self.mount.as_ref().is_none_or(|mount| mount.hybrid);
        match &found {
            Lookup::Known(workload) if !hybrid || workload.container_id.is_some() => return found,
            Lookup::Unowned if !hybrid => return found,
            // Nothing else has a group of the memory controller than whom it is of.
            Lookup::Known(_) | Lookup::Unowned if id & VERSION_1 != 0 => return found,
            _ => {}
        }
        let proc_root = self.proc_root.as_deref().filter(|_| pid != 0);
        let process = proc_root.and_then(|proc_root| process::workload(proc_root, pid, at_ns));
        match process {
            Some(workload) => Lookup::Known(Arc::new(workload)),
            // Where that controller has a hierarchy, who is in its root is in no container.
            None if found == Lookup::Unknown && (self.memory.is_none() || id & VERSION_1 != 0) => {
                Lookup::Unknown
            }
            None => Lookup::Unowned,
        }
    }

    /// Takes in the groups that are there, and forgets those that have been gone for long.
    fn walk(&mut self, now: Instant) {
        let unified = self.mount.iter().map(|mount| (mount.path.clone(), 0));
        let trees: Vec<_> = unified.chain(self.memory.iter().map(|path| (path.clone(), VERSION_1))).collect();
        let mut here = HashMap::with_capacity(self.known.len());
        let mut whole = true;
        for (root, mark) in trees {
            whole &= self.walk_tree(&root, mark, &mut here);
        }
        // What is left was not met: it is gone, unless the walk ended early.
        let mut left: Vec<(u64, Group)> =
            self.known.drain().filter(|(id, _)| !here.contains_key(id)).collect();
        for (_, group) in &mut left {
            group.gone = group.gone.or(Some(now).filter(|_| whole));
        }
        left.retain(|(_, group)| group.gone.is_none_or(|gone| now.duration_since(gone) < self.remember));
        left.sort_by_key(|(_, group)| group.gone.map(|gone| now.duration_since(gone)));
        left.truncate(MAX_GROUPS);
        here.extend(left);
        self.known = here;
    }

    /// Takes in the groups of one hierarchy, whose ids bear a mark. False where not all of them were looked at.
    fn walk_tree(&mut self, root: &Path, mark: u64, here: &mut HashMap<u64, Group>) -> bool {
        let Ok(metadata) = fs::metadata(root) else { return false };
        let whole_host = Group { path: Path::new("").into(), workload: None, gone: None };
        here.insert(metadata.ino() | mark, whole_host);
        let mut waiting = vec![(root.to_owned(), 0)];
        let mut whole = true;
        while let Some((directory, depth)) = waiting.pop() {
            // It may have vanished since it was listed.
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                if here.len() >= MAX_GROUPS || depth >= MAX_DEPTH {
                    whole = false;
                    break;
                }
                let (path, id) = (entry.path(), entry.ino() | mark);
                let known = self.known.remove(&id);
                let group = known.unwrap_or_else(|| Group::new(path.strip_prefix(root).unwrap_or(&path)));
                here.insert(id, Group { gone: None, ..group });
                waiting.push((path, depth + 1));
            }
        }
        whole
    }
}

impl Group {
    fn new(path: &Path) -> Self {
        let workload = parse_path(&path.to_string_lossy()).map(Arc::new);
        Self { path: path.into(), workload, gone: None }
    }
}

#[cfg(test)]
mod tests;
