//! Relates cgroups above containers and units to those below them: which cgroup below uses most of a shared
//! CPU or memory limit, and whether limits further down explain the shortage.

use std::{
    collections::{HashMap, HashSet},
    iter, mem,
};

use tapio_common::node::{self, MAX_NAME, Sample, UNKNOWN, UNLIMITED};

use super::tree::{Above, Group, Tree};

/// Data that one scan collects for the cgroups above those that it samples.
#[derive(Debug, Default)]
pub(super) struct Shared {
    below: Vec<Below>,
    /// Cgroup ids with a memory limit in this scan, and in the previous one.
    limited: HashSet<u64>,
    were_limited: HashSet<u64>,
    /// CPU time of each cgroup in this scan, and in the previous one, microseconds.
    used: HashMap<u64, u64>,
    before: HashMap<u64, u64>,
}

/// Data about the cgroups below one of them.
#[derive(Clone, Copy, Debug, Default)]
struct Below {
    cpu: Most,
    memory: Most,
    filled: u64,
    throttled: u64,
}

/// The cgroup with the highest value.
#[derive(Clone, Copy, Debug, Default)]
struct Most {
    value: u64,
    id: u64,
    depth: usize,
}

impl Most {
    const fn take(&mut self, value: u64, group: &Group) {
        if value > self.value {
            *self = Self { value, id: group.id, depth: group.depth };
        }
    }
}

impl Shared {
    /// Begins a scan.
    pub(super) fn begin(&mut self, tree: &Tree) {
        self.below = vec![Below::default(); tree.above().len()];
        // Cgroups that this scan does not see are forgotten.
        self.before = mem::take(&mut self.used);
        self.were_limited = mem::take(&mut self.limited);
    }

    /// Whether a cgroup above this one had a memory limit in the previous scan.
    pub(super) fn is_limited(&self, tree: &Tree, group: &Group) -> bool {
        upwards(tree.above(), group.above)
            .any(|at| tree.above().get(at).is_some_and(|above| self.were_limited.contains(&above.id)))
    }

    /// Adds the sample of a cgroup.
    pub(super) fn add(&mut self, tree: &Tree, group: &Group, sample: &Sample) {
        if group.above.is_none() {
            return;
        }
        let mut used = 0;
        if sample.cpu_us != UNKNOWN {
            let before = self.before.get(&group.id);
            used = before.map_or(0, |before| sample.cpu_us.saturating_sub(*before));
            self.used.insert(group.id, sample.cpu_us);
        }
        let own = Below::of(sample);
        for at in upwards(tree.above(), group.above) {
            let Some(below) = self.below.get_mut(at) else { continue };
            below.explain(&own);
            below.cpu.take(used, group);
            if sample.held_bytes != UNKNOWN {
                below.memory.take(sample.held_bytes, group);
            }
        }
    }

    /// The record of one cgroup above others. Call it after the samples of the cgroups below.
    pub(super) fn record(&mut self, tree: &Tree, at: usize, sample: Sample) -> Option<node::Ancestor> {
        let above = tree.above().get(at)?;
        if is_set(sample.limit_bytes) {
            self.limited.insert(above.id);
        }
        let own = Below::of(&sample);
        for at in upwards(tree.above(), above.above) {
            if let Some(below) = self.below.get_mut(at) {
                below.explain(&own);
            }
        }
        let Below { cpu, memory, filled, throttled } = self.below.get(at).copied()?;
        let levels = |most: Most| most.depth.saturating_sub(above.depth).try_into().unwrap_or(u32::MAX);
        Some(node::Ancestor {
            sample,
            cpu_cgroup: cpu.id,
            memory_cgroup: memory.id,
            filled,
            throttled,
            cpu_levels: if cpu.id == 0 { 0 } else { levels(cpu) },
            memory_levels: if memory.id == 0 { 0 } else { levels(memory) },
            name: name(above),
        })
    }
}

impl Below {
    /// The parts of a cgroup's own limits that explain a shortage in the cgroups above it.
    fn of(sample: &Sample) -> Self {
        let mut own = Self::default();
        if is_set(sample.limit_bytes) && sample.held_bytes != UNKNOWN {
            let share = u128::from(sample.held_bytes) * 1024 / u128::from(sample.limit_bytes.max(1));
            own.filled = u64::try_from(share).unwrap_or(u64::MAX);
        }
        if is_set(sample.quota_us) && sample.throttled != UNKNOWN {
            own.throttled = sample.throttled;
        }
        own
    }

    fn explain(&mut self, other: &Self) {
        self.filled = self.filled.max(other.filled);
        self.throttled = self.throttled.saturating_add(other.throttled);
    }
}

/// Whether a limit is known and set.
pub(super) const fn is_set(limit: u64) -> bool {
    !matches!(limit, UNKNOWN | UNLIMITED)
}

/// The indices from one cgroup up to the root.
fn upwards(above: &[Above], from: Option<usize>) -> impl Iterator<Item = usize> {
    iter::successors(from, |at| above.get(*at)?.above)
}

fn name(above: &Above) -> [u8; MAX_NAME] {
    let mut padded = [0; MAX_NAME];
    let name = above.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name.bytes().all(|byte| byte.is_ascii_graphic())
        && let Some(place) = padded.get_mut(..name.len())
    {
        place.copy_from_slice(name.as_bytes());
    }
    padded
}
