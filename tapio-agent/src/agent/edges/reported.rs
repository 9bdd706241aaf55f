//! Which edges are due: each when it is new, and again while it lasts, an hour later at the earliest.

use std::{
    collections::{BTreeMap, HashMap},
    hash::RandomState,
};

use bytemuck::{Pod, Zeroable};
use lru::LruCache;
use tapio_common::network::{
    Destination, Path,
    edge::{Contacts, Edge},
};

/// Maximum number of edges that are reported at a time.
pub(super) const MAX_DUE: usize = 200;
/// How many edges of one [`Turn`] go out before it is the next one's: enough that few digests carry many edges.
const TURN: usize = 16;
/// After this time, an edge that lasts is reported again.
const AGAIN_NS: u64 = 3_600_000_000_000;
/// Maximum number of edges of which it is known when they were reported; more than the kernel's maps hold.
const MAX_REPORTED: usize = 32_768;

/// When each edge was reported.
#[derive(Debug)]
pub(super) struct Reported(LruCache<Edge, Report, RandomState>);

/// What was reported of an edge. Times are of the boot clock.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
struct Report {
    at_ns: u64,
    /// When the destination's segments were last found unchanged; at first `at_ns`.
    checked_ns: u64,
    /// [`Contacts::last_ns`] as it was.
    last_ns: u64,
    /// [`Path::segments`] as it was.
    segments: u32,
    /// Zero.
    reserved: u32,
}

/// An edge that is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub(super) edge: Edge,
    pub(super) contacts: Contacts,
    /// Round trips of its destination, over all workloads; `None` if there are none yet.
    pub(super) path: Option<Path>,
}

/// The edges that are due now, and how many others wait, by cgroup.
#[derive(Debug, Default)]
pub(super) struct Choice {
    pub(super) due: Vec<Due>,
    pub(super) waiting: HashMap<u64, u64>,
}

/// Edges of one cgroup and direction, either connected or only failed ones: each of these takes turns with the others, so
/// that neither a scan nor the clients of a public service delay what others have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    cgroup_id: u64,
    direction: u16,
    only_failed: bool,
}

impl Reported {
    /// Continues with the bytes that an earlier [`Self::bytes`] returned.
    pub(super) fn restored(bytes: &[u8]) -> Self {
        let mut reported = Self(LruCache::unbounded_with_hasher(RandomState::new()));
        for entry in bytes.chunks_exact(size_of::<Edge>() + size_of::<Report>()) {
            let (edge, report) = entry.split_at(size_of::<Edge>());
            reported.put(bytemuck::pod_read_unaligned(edge), bytemuck::pod_read_unaligned(report));
        }
        reported
    }

    /// The table, the earliest report first.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let entries = self.0.iter().rev();
        entries
            .flat_map(|(edge, report)| [bytemuck::bytes_of(edge), bytemuck::bytes_of(report)].concat())
            .collect()
    }

    /// Chooses up to [`MAX_DUE`] edges that are due, and records them as reported. Cgroups take turns, and of each the
    /// edge comes first that has been due for the longest time.
    pub(super) fn choose(
        &mut self,
        seen: impl IntoIterator<Item = (Edge, Contacts)>,
        now_ns: u64,
        path: impl Fn(&Destination) -> Option<Path>,
    ) -> Choice {
        let mut turns: BTreeMap<Turn, Vec<(u64, Edge, Contacts)>> = BTreeMap::new();
        for (edge, contacts) in seen.into_iter().filter(|(_, contacts)| contacts.any()) {
            if let Some(since_ns) = self.due_since(&edge, &contacts, now_ns, &path) {
                let turn = Turn {
                    cgroup_id: edge.cgroup_id,
                    direction: edge.destination.direction,
                    only_failed: contacts.connections == 0,
                };
                turns.entry(turn).or_default().push((since_ns, edge, contacts));
            }
        }
        let mut rounds = Vec::new();
        for mut edges in turns.into_values() {
            edges.sort_by_key(|(since_ns, ..)| *since_ns);
            rounds.extend(edges.chunks(TURN).enumerate().map(|(round, chunk)| (round, chunk.to_vec())));
        }
        rounds.sort_by_key(|(round, chunk)| (*round, chunk.first().map(|(since_ns, ..)| *since_ns)));
        let mut choice = Choice::default();
        for (at, (_, edge, contacts)) in rounds.into_iter().flat_map(|(_, chunk)| chunk).enumerate() {
            if at >= MAX_DUE {
                *choice.waiting.entry(edge.cgroup_id).or_default() += 1;
                continue;
            }
            let path = path(&edge.destination);
            self.put(edge, Report::of(&contacts, path.as_ref(), now_ns));
            choice.due.push(Due { edge, contacts, path });
        }
        choice
    }

    /// Since when an edge is due; `None` if it is not. An edge lasts if it has had a connection since it was reported, or
    /// its destination was sent segments: connections stay open for long.
    fn due_since(
        &mut self,
        edge: &Edge,
        contacts: &Contacts,
        now_ns: u64,
        path: &impl Fn(&Destination) -> Option<Path>,
    ) -> Option<u64> {
        let Some(report) = self.0.peek_mut(edge) else { return Some(contacts.first_ns) };
        let again_ns = report.at_ns.saturating_add(AGAIN_NS);
        if now_ns < again_ns {
            return None;
        }
        if contacts.last_ns > report.last_ns {
            return Some(again_ns);
        }
        if now_ns < report.checked_ns.saturating_add(AGAIN_NS) {
            return None;
        }
        if path(&edge.destination).is_some_and(|path| path.segments != report.segments) {
            return Some(again_ns);
        }
        report.checked_ns = now_ns;
        None
    }

    fn put(&mut self, edge: Edge, report: Report) {
        self.0.put(edge, report);
        if self.0.len() > MAX_REPORTED {
            self.0.pop_lru();
        }
    }
}

impl Report {
    fn of(contacts: &Contacts, path: Option<&Path>, now_ns: u64) -> Self {
        Self {
            at_ns: now_ns,
            checked_ns: now_ns,
            last_ns: contacts.last_ns,
            segments: path.map_or(0, |path| path.segments),
            reserved: 0,
        }
    }
}

#[cfg(test)]
mod tests;
