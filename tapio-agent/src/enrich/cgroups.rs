//! Identity without Kubernetes: from the id of a cgroup, by its path, to container, runtime and pod UID, or
//! to the systemd unit.
//!
//! The id is the inode number of the group's directory in the cgroup2 hierarchy, or with [`CGROUP_V1`] in that of the
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

use tapio_common::CGROUP_V1;
use tapio_occurrence::Workload;

pub use path::{Named, parse_path};
pub use process::in_host_pid_namespace;

use super::REMEMBER;

/// The cgroups of this host. Reads files: not for an async task's own thread where there are thousands.
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

/// What is known of a cgroup.
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
    /// By the host's own names.
    workload: Option<Arc<Workload>>,
    /// The path names others further in.
    has_claims: bool,
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
        let root = if id & CGROUP_V1 == 0 { self.mount() } else { self.memory.as_deref() };
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

    /// The owner, by the host's own names, of what happened at `at_ns` (boot clock) in a group and a process, of which each
    /// may be 0 for not known; and who is further in by names from inside.
    ///
    /// Beside version 1 hierarchies only a container's group is believed: a process in a container then has
    /// the group of the daemon that started it, and where it is in truth its version 1 groups say.
    /// Looks into what is cached: [`Self::lookup`] comes first.
    #[must_use]
    pub fn owner(&self, id: u64, pid: u32, at_ns: u64) -> (Lookup, Vec<Workload>) {
        let found = self.cached(id);
        let hybrid = self.mount.as_ref().is_none_or(|mount| mount.hybrid);
        let is_sure = match &found {
            Lookup::Known(workload) if !hybrid || workload.container_id.is_some() => true,
            Lookup::Unowned if !hybrid => true,
            // Nothing else has a group of the memory controller than whom it is of.
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
            // Where that controller has a hierarchy, who is in its root is in no container.
            None if found == Lookup::Unknown && (self.memory.is_none() || id & CGROUP_V1 != 0) => {
                Lookup::Unknown
            }
            None => Lookup::Unowned,
        };
        (self.checked(owner), process.claims)
    }

    /// Without the id of a user's container where the host has that container in another place: users choose the names
    /// of the cgroups that they make.
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

    /// Who is further in than the owner of a group, by names that were given from inside.
    #[must_use]
    pub fn claims(&self, id: u64) -> Vec<Workload> {
        let group = self.known.get(&id).filter(|group| group.has_claims);
        group.map(|group| parse_path(&group.path.to_string_lossy()).claims).unwrap_or_default()
    }

    /// Whether the host itself names a group after this container, or after this pod where the claim has no container:
    /// then whoever says so from the inside of another is not it.
    #[must_use]
    pub fn contradict(&self, claim: &Workload) -> bool {
        let mut owners = self.known.values().filter_map(|group| group.workload.as_deref());
        owners.any(|owner| match &claim.container_id {
            // A user's own container is itself a claim.
            Some(_) => owner.unit.is_none() && owner.container_id == claim.container_id,
            None => owner.pod_uid == claim.pod_uid,
        })
    }

    /// Takes in the groups that are there, and forgets those that have been gone for long.
    fn walk(&mut self, now: Instant) {
        let unified = self.mount.iter().map(|mount| (mount.path.clone(), 0));
        let trees: Vec<_> = unified.chain(self.memory.iter().map(|path| (path.clone(), CGROUP_V1))).collect();
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
