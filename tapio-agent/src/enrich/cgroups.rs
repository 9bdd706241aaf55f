//! Identity without Kubernetes: maps a cgroup id, by the cgroup's path, to container, runtime and pod UID, or
//! to the systemd unit.
//!
//! The id is the inode number of the cgroup's directory in the cgroup2 hierarchy; with [`CGROUP_V1`], in that
//! of the memory controller. It is never reused while the host is up. An owner that is not certain is left
//! out.

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

use tapio_common::CGROUP_V1;
use tapio_occurrence::Workload;

pub use path::{Named, parse_path};
pub(crate) use process::has_host_pids;
pub use process::in_host_pid_namespace;

use super::REMEMBER;

/// The cgroups of this host. It reads files, so do not use it on an async worker thread where there are
/// thousands of cgroups.
#[derive(Debug)]
pub struct Cgroups {
    mount: Option<Mount>,
    /// The memory controller's own hierarchy (cgroup v1).
    memory: Option<PathBuf>,
    /// The root for process lookups; `None` if the pids there are not the kernel's and would name other
    /// processes.
    proc_root: Option<PathBuf>,
    known: HashMap<u64, Group>,
    /// How long a vanished cgroup is remembered.
    remember: Duration,
}

/// The owner of a cgroup, if known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The workload that owns it.
    Known(Arc<Workload>),
    /// The cgroup exists, or existed, and belongs to no workload: the root cgroup, or one outside containers
    /// and units.
    Unowned,
    /// The cgroup does not exist, or not yet.
    Unknown,
}

impl Lookup {
    /// The workload, if it is certain.
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
    /// cgroup v1 hierarchies exist beside this one, and containers may be in those instead.
    hybrid: bool,
}

#[derive(Debug)]
struct Group {
    /// Relative to the root of its hierarchy.
    path: Box<Path>,
    /// The workload according to names that the host gave.
    workload: Option<Arc<Workload>>,
    /// The path names further workloads inside that one.
    has_claims: bool,
    gone: Option<Instant>,
}

/// A node has hundreds of cgroups, a large one thousands.
const MAX_GROUPS: usize = 20_000;
/// Deeper nesting than containers in containers is an attack or a mistake. This is as deep as paths with
/// names of 16 bytes can be.
const MAX_DEPTH: usize = 256;

impl Cgroups {
    /// Finds the cgroup2 hierarchy at or under `root` (usually `/sys/fs/cgroup`). Without one, only processes
    /// are looked up.
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
        let proc_root = has_host_pids(proc_root, in_host_pid_namespace()).then(|| proc_root.to_owned());
        Self { mount, memory, proc_root, known: HashMap::new(), remember: REMEMBER }
    }

    /// Remembers vanished cgroups for this long.
    #[must_use]
    pub fn remembering(self, remember: Duration) -> Self {
        Self { remember, ..self }
    }

    /// The root of the cgroup2 hierarchy.
    #[must_use]
    pub fn mount(&self) -> Option<&Path> {
        self.mount.as_ref().map(|mount| mount.path.as_path())
    }

    /// The directory that a cgroup has, or had.
    #[must_use]
    pub fn directory(&self, id: u64) -> Option<PathBuf> {
        let group = self.known.get(&id)?;
        let root = if id & CGROUP_V1 == 0 { self.mount() } else { self.memory.as_deref() };
        root.map(|root| root.join(&group.path))
    }

    /// The owner of a cgroup, without a walk.
    #[must_use]
    pub fn cached(&self, id: u64) -> Lookup {
        match self.known.get(&id) {
            None => Lookup::Unknown,
            Some(Group { workload: None, .. }) => Lookup::Unowned,
            Some(Group { workload: Some(workload), .. }) => Lookup::Known(Arc::clone(workload)),
        }
    }

    /// The owner of a cgroup. An unknown one costs a walk over the whole hierarchy, some milliseconds for a
    /// thousand cgroups, so the caller limits how often.
    pub fn lookup(&mut self, id: u64, now: Instant) -> Lookup {
        if id != 0 && self.cached(id) == Lookup::Unknown {
            self.walk(now);
        }
        self.cached(id)
    }

    /// The owner, by the host's own names, of what happened at `at_ns` (boot clock) in a cgroup and a process
    /// (either id may be 0 for unknown), and the workloads further in, by names given from inside.
    ///
    /// Beside cgroup v1 hierarchies, only a container's cgroup is believed: a process in a container then has
    /// the cgroup2 cgroup of the daemon that started it, and its v1 cgroups show where it really is. This
    /// reads the cache only, so call [`Self::lookup`] first.
    #[must_use]
    pub fn owner(&self, id: u64, pid: u32, at_ns: u64) -> (Lookup, Vec<Workload>) {
        let found = self.cached(id);
        let hybrid = self.mount.as_ref().is_none_or(|mount| mount.hybrid);
        let is_sure = match &found {
            Lookup::Known(workload) if !hybrid || workload.container_id.is_some() => true,
            Lookup::Unowned if !hybrid => true,
            // A cgroup of the memory controller contains only the processes of its owner.
            Lookup::Known(_) | Lookup::Unowned => id & CGROUP_V1 != 0,
            Lookup::Unknown => false,
        };
        if is_sure {
            return (self.checked(found), self.claims(id));
        }
        let proc_root = self.proc_root.as_deref().filter(|_| pid != 0);
        let process =
            proc_root.and_then(|proc_root| process::named(proc_root, pid, at_ns)).unwrap_or_default();
        let owner = match process.outermost {
            Some(workload) => Lookup::Known(Arc::new(workload)),
            // If that controller has a hierarchy, a process in its root is in no container.
            None if found == Lookup::Unknown && (self.memory.is_none() || id & CGROUP_V1 != 0) => {
                Lookup::Unknown
            }
            None => Lookup::Unowned,
        };
        (self.checked(owner), process.claims)
    }

    /// Removes the id of a user's container if the host has that container elsewhere, because users choose
    /// the names of the cgroups that they create.
    fn checked(&self, owner: Lookup) -> Lookup {
        match owner {
            Lookup::Known(workload)
                if workload.unit.is_some()
                    && workload.container_id.is_some()
                    && self.contradict(&workload) =>
            {
                let unit = workload.unit.clone();
                Lookup::Known(Arc::new(Workload { unit, ..Workload::default() }))
            }
            owner => owner,
        }
    }

    /// The workloads inside the owner of a cgroup, by names that were given from inside.
    #[must_use]
    pub fn claims(&self, id: u64) -> Vec<Workload> {
        let group = self.known.get(&id).filter(|group| group.has_claims);
        group.map(|group| parse_path(&group.path.to_string_lossy()).claims).unwrap_or_default()
    }

    /// Whether the host itself names a cgroup after this container, or after this pod if the claim has no
    /// container. If so, a claim to that name from inside another container is false.
    #[must_use]
    pub fn contradict(&self, claim: &Workload) -> bool {
        let mut owners = self.known.values().filter_map(|group| group.workload.as_deref());
        owners.any(|owner| match &claim.container_id {
            // A user's own container is itself only a claim.
            Some(_) => owner.unit.is_none() && owner.container_id == claim.container_id,
            None => owner.pod_uid == claim.pod_uid,
        })
    }

    /// Adds the cgroups that exist, and forgets those that vanished long ago.
    fn walk(&mut self, now: Instant) {
        let unified = self.mount.iter().map(|mount| (mount.path.clone(), 0));
        let trees: Vec<_> = unified.chain(self.memory.iter().map(|path| (path.clone(), CGROUP_V1))).collect();
        let mut here = HashMap::with_capacity(self.known.len());
        let mut whole = true;
        for (root, mark) in trees {
            whole &= self.walk_tree(&root, mark, &mut here);
        }
        // The walk did not find the remaining ones: they have vanished, unless the walk ended early.
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

    /// Adds the cgroups of one hierarchy, with `mark` in their ids. False if it did not see all of them.
    fn walk_tree(&mut self, root: &Path, mark: u64, here: &mut HashMap<u64, Group>) -> bool {
        let Ok(metadata) = fs::metadata(root) else { return false };
        let whole_host = Group { path: Path::new("").into(), workload: None, has_claims: false, gone: None };
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
        let Named { outermost, claims } = parse_path(&path.to_string_lossy());
        Self {
            path: path.into(),
            workload: outermost.map(Arc::new),
            has_claims: !claims.is_empty(),
            gone: None,
        }
    }
}

#[cfg(test)]
mod tests;
