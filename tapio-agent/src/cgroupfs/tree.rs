//! Finds the cgroups to sample.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    fs,
    os::unix::fs::DirEntryExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tapio_common::{CGROUP_V1, node::SERVICES};
use tapio_occurrence::Workload;

use super::hierarchy::Hierarchy;
use crate::enrich::cgroups::parse_path;

/// A node has hundreds of cgroups, a large one thousands. Any more are not sampled.
const MAX_GROUPS: usize = 20_000;
/// Deeper nesting than containers in containers is an attack or a mistake.
const MAX_DEPTH: usize = 64;
/// The tree is walked when its number of cgroups has changed, and at least this often.
const WALK_INTERVAL: Duration = Duration::from_secs(60);

/// The cgroup of a container or a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// Its id in the hierarchy that identity uses.
    pub(crate) id: u64,
    /// Its id in the memory controller's hierarchy.
    pub(crate) memory_id: u64,
    /// The path below the root of each hierarchy.
    pub(crate) path: PathBuf,
    /// Whether other containers or units are below it.
    pub(crate) inner: bool,
    /// One more than its index in [`SERVICES`]; 0 for none of them.
    pub(crate) service: u64,
    /// The innermost cgroup above it that belongs to no workload, as an index into [`Tree::above`].
    pub(crate) above: Option<usize>,
    /// Its depth below the root.
    pub(crate) depth: usize,
}

/// A cgroup above containers and units, such as a pod or a slice. Everything below shares its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Above {
    /// Its id, for identity and for memory.
    pub(crate) id: u64,
    pub(crate) path: PathBuf,
    /// The next such cgroup above it.
    pub(crate) above: Option<usize>,
    pub(crate) depth: usize,
}

/// The cgroups found by the last walk.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    hierarchy: Hierarchy,
    /// `/proc/cgroups`, which counts the cgroups of cgroup v1.
    counts: PathBuf,
    groups: Vec<Group>,
    above: Vec<Above>,
    walked: Option<Instant>,
    count: Option<u64>,
}

impl Tree {
    pub(crate) fn new(hierarchy: Hierarchy, proc_root: &Path) -> Self {
        Self {
            hierarchy,
            counts: proc_root.join("cgroups"),
            groups: Vec::new(),
            above: Vec::new(),
            walked: None,
            count: None,
        }
    }

    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The cgroups above containers and units. Each comes after those above it.
    pub(crate) fn above(&self) -> &[Above] {
        &self.above
    }

    /// Records that a listed cgroup was gone.
    pub(crate) fn is_stale(&mut self) {
        self.walked = None;
    }

    /// Walks the tree again if there is a reason to.
    pub(crate) fn update(&mut self) {
        let count = self.hierarchy.count(&self.counts);
        let is_fresh = self.walked.is_some_and(|walked| walked.elapsed() < WALK_INTERVAL);
        if !is_fresh || count.is_none() || count != self.count {
            let (groups, above) = walk(&self.hierarchy);
            let before = std::mem::replace(&mut self.groups, groups);
            self.above = above;
            self.keep_services(before);
            self.walked = Some(Instant::now());
            self.count = count;
        }
    }

    /// Keeps services of the node that the walk did not find, but that have not ended: a directory above could not be read,
    /// or there are too many.
    fn keep_services(&mut self, before: Vec<Group>) {
        for group in before.into_iter().filter(|group| group.service != 0) {
            let is_missed = self.groups.iter().all(|found| found.path != group.path);
            if is_missed && self.hierarchy.may_have(&group.path) {
                self.groups.push(Group { above: None, ..group });
            }
        }
    }
}

/// A directory that is still to be read.
struct Directory {
    /// The path below the root.
    path: PathBuf,
    depth: usize,
    workload: Option<Workload>,
    /// The container or unit that it is in, as an index into those found.
    within: Option<usize>,
    /// The innermost cgroup at or above it that belongs to no workload, as an index into those found.
    above: Option<usize>,
}

fn walk(hierarchy: &Hierarchy) -> (Vec<Group>, Vec<Above>) {
    let mut groups: Vec<Group> = Vec::new();
    let mut others: Vec<Above> = Vec::new();
    let Some(root) = hierarchy.root() else { return (groups, others) };
    let root_directory =
        Directory { path: PathBuf::new(), depth: 0, workload: None, within: None, above: None };
    // The outermost first: if there are too many, services of the node, which are far out, are not those left out.
    let mut waiting = VecDeque::from([root_directory]);
    let mut seen = 0;
    while let Some(directory) = waiting.pop_front() {
        // It may have vanished since it was listed.
        let Ok(entries) = fs::read_dir(root.join(&directory.path)) else { continue };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            seen += 1;
            if seen > MAX_GROUPS || directory.depth >= MAX_DEPTH {
                break;
            }
            let path = directory.path.join(entry.file_name());
            // Cgroups inside a container have limits of their own, whatever workload their names claim.
            let workload = parse_path(&path.to_string_lossy()).innermost();
            let is_subject = workload != directory.workload
                && workload.as_ref().is_some_and(|w| w.container_id.is_some() || w.unit.is_some());
            let mut within = directory.within;
            let mut above = directory.above;
            let depth = directory.depth + 1;
            let memory_id = match hierarchy {
                Hierarchy::One { .. } => entry.ino() | CGROUP_V1,
                Hierarchy::None | Hierarchy::Two { .. } => entry.ino(),
            };
            if is_subject {
                if let Some(above) = within.and_then(|at| groups.get_mut(at)) {
                    above.inner = true;
                }
                within = Some(groups.len());
                let id = twin(hierarchy, &path, workload.as_ref()).unwrap_or(memory_id);
                let service = workload.as_ref().map_or(0, service);
                groups.push(Group { id, memory_id, path: path.clone(), inner: false, service, above, depth });
            } else {
                others.push(Above { id: memory_id, path: path.clone(), above, depth });
                above = Some(others.len() - 1);
            }
            waiting.push_back(Directory { path, depth, workload, within, above });
        }
    }
    let above = keep_above(&mut groups, others);
    (groups, above)
}

/// See [`Group::service`].
fn service(workload: &Workload) -> u64 {
    let is_of = |name: &&str| workload.container_id.is_none() && workload.unit.as_deref() == Some(name);
    SERVICES.iter().position(is_of).map_or(0, |at| at as u64 + 1)
}

/// Keeps those cgroups outside workloads that have containers or units below them.
fn keep_above(groups: &mut [Group], others: Vec<Above>) -> Vec<Above> {
    let mut is_above = vec![false; others.len()];
    for group in groups.iter() {
        let mut at = group.above;
        while let Some(here) = at.filter(|here| !is_above[*here]) {
            is_above[here] = true;
            at = others[here].above;
        }
    }
    // A cgroup is found before those below it.
    let mut places = vec![None; others.len()];
    let mut kept: Vec<Above> = Vec::new();
    for (at, other) in others.into_iter().enumerate().filter(|(at, _)| is_above[*at]) {
        places[at] = Some(kept.len());
        kept.push(Above { above: other.above.and_then(|above| places[above]), ..other });
    }
    for group in groups {
        group.above = group.above.and_then(|above| places[above]);
    }
    kept
}

/// The id of the same cgroup in the cgroup2 hierarchy, by which identity knows it if that hierarchy exists
/// beside cgroup v1. There the cgroup2 hierarchy is reliable for containers only.
fn twin(hierarchy: &Hierarchy, path: &Path, workload: Option<&Workload>) -> Option<u64> {
    let Hierarchy::One { unified: Some(root), .. } = hierarchy else { return None };
    workload?.container_id.as_ref()?;
    let metadata = fs::metadata(root.join(path)).ok()?;
    Some(std::os::unix::fs::MetadataExt::ino(&metadata))
}

/// Whether a hierarchy's directory, such as `cpu,cpuacct`, has this controller.
pub(crate) fn has_controller(name: &OsStr, controller: &str) -> bool {
    name.to_str().is_some_and(|name| name.split(',').any(|part| part == controller))
}
