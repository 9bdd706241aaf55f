//! Coverage: what was looked at, so that absence means something.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tapio_occurrence::kubernetes::Synced;

use crate::fact::Heartbeat;

/// After so long without a heartbeat nobody looks at a node: three of the default interval.
const SILENT_NS: u64 = 90_000_000_000;
/// After so long without news Kubernetes is not watched.
const LOST_NS: u64 = 180_000_000_000;
/// Times that are kept of a node, and of Kubernetes.
const MAX_SPANS: usize = 64;
/// Nodes that are kept; if there are more, those that were not heard of for a day are let go.
pub(crate) const MAX_NODES: usize = 20_000;
/// How long a node is kept after its last heartbeat, if there are too many.
const KEPT_NS: u64 = 24 * 3_600_000_000_000;

/// When each node and the API server were looked at.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    nodes: BTreeMap<String, Node>,
    /// When the first complete view of Kubernetes was there.
    synced_ns: Option<u64>,
    last_kubernetes_ns: Option<u64>,
    /// Times in which Kubernetes was watched: from one sign of life to when the next one was due. The oldest first.
    watched: Vec<Span>,
    /// Kinds that cannot be watched, with the reason.
    missing_kinds: BTreeMap<String, String>,
    /// Heartbeats of nodes that are not kept since there are too many.
    pub(crate) refused: u64,
}

/// From when until when.
type Span = (u64, u64);

#[derive(Debug, Default)]
struct Node {
    /// Times in which heartbeats followed each other, the oldest first.
    spans: Vec<Span>,
    missing: BTreeMap<String, String>,
    dropped: u64,
    last_ns: u64,
    stopped: bool,
}

/// Coverage, as it is part of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Coverage {
    /// Nodes whose agent reports.
    pub nodes: usize,
    /// Nodes that are known.
    pub of_nodes: usize,
    /// Nodes whose agent does not report, with the reason.
    pub silent: Vec<String>,
    /// Observers that do not run somewhere, with the reason.
    pub degraded: Vec<String>,
    /// Age of the last news from Kubernetes in seconds; absent where there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_age_s: Option<u64>,
    /// Kinds of objects that cannot be watched, with the reason.
    pub missing_kinds: Vec<String>,
    /// Anomalies that agents had to drop.
    pub dropped: u64,
}

impl Seen {
    pub(crate) fn heartbeat(&mut self, heartbeat: Heartbeat, at_ns: u64) {
        if self.nodes.len() >= MAX_NODES && !self.nodes.contains_key(&heartbeat.node) {
            self.refused += 1;
            return;
        }
        let node = self.nodes.entry(heartbeat.node).or_default();
        node.dropped = node.dropped.saturating_add(heartbeat.dropped);
        if at_ns >= node.last_ns {
            (node.last_ns, node.missing, node.stopped) = (at_ns, heartbeat.missing, heartbeat.stops);
        }
        let end = if heartbeat.stops { at_ns } else { at_ns.saturating_add(SILENT_NS) };
        join(&mut node.spans, (at_ns, end));
    }

    /// Lets go of nodes that were not heard of for a day, if there are too many.
    pub(crate) fn expire(&mut self, now_ns: u64) {
        if self.nodes.len() >= MAX_NODES {
            self.nodes.retain(|_, node| node.last_ns.saturating_add(KEPT_NS) >= now_ns);
        }
    }

    pub(crate) fn synced(&mut self, synced: Synced, at_ns: u64) {
        // While the API server is away nothing is watched, and the view gets old.
        let is_watched = synced.kinds.iter().any(|watched| watched.kind == "Pod");
        self.synced_ns = Some(self.synced_ns.map_or(at_ns, |known| known.min(at_ns)));
        self.missing_kinds =
            synced.missing.into_iter().map(|missing| (missing.kind, missing.reason)).collect();
        if is_watched {
            self.kubernetes(at_ns);
            let forgotten = join(&mut self.watched, (at_ns, at_ns.saturating_add(LOST_NS)));
            if forgotten > 0 {
                // What was watched before is not known any more.
                self.synced_ns = self.watched.first().map(|(from, _)| *from);
            }
        }
    }

    pub(crate) fn kubernetes(&mut self, at_ns: u64) {
        self.last_kubernetes_ns = self.last_kubernetes_ns.max(Some(at_ns));
    }

    /// Since when changes in Kubernetes are known.
    pub(crate) const fn synced_ns(&self) -> Option<u64> {
        self.synced_ns
    }

    /// When Kubernetes was last heard of, if that is so long before a time that it was not watched then: PORTTI gives a sign
    /// of life each minute.
    pub(crate) fn kubernetes_lost_ns(&self, at_ns: u64) -> Option<u64> {
        self.last_kubernetes_ns.filter(|last| last.saturating_add(LOST_NS) < at_ns)
    }

    /// The times between two others, in which Kubernetes was not watched between them: from the last sign of life to the next.
    pub(crate) fn kubernetes_gaps(&self, from_ns: u64, to_ns: u64) -> impl Iterator<Item = Span> {
        let ends = self.watched.iter().map(|(_, to)| to.saturating_sub(LOST_NS));
        let gaps = ends.zip(self.watched.iter().skip(1).map(|(from, _)| *from));
        gaps.filter(move |(last, next)| *last < to_ns && *next > from_ns)
    }

    /// Why a kind of objects cannot be watched; `None` if it is, or if there are none.
    pub(crate) fn missing_kind(&self, kind: &str) -> Option<&str> {
        self.missing_kinds.get(kind).map(String::as_str)
    }

    /// Why an observer of a node's agent does not run; `None` if it does.
    pub(crate) fn missing_observer(&self, node: &str, observer: &str) -> Option<&str> {
        self.nodes.get(node)?.missing.get(observer).map(String::as_str)
    }

    /// Whether an agent looked at a node at a time.
    pub(crate) fn has_node(&self, node: &str, at_ns: u64) -> bool {
        let spans = self.nodes.get(node).map(|node| node.spans.as_slice()).unwrap_or_default();
        spans.iter().any(|(from, to)| (*from..=*to).contains(&at_ns))
    }

    /// What is covered now. `nodes` are those of the cluster.
    pub(crate) fn now(&self, nodes: BTreeSet<String>, now_ns: u64) -> Coverage {
        let nodes: BTreeSet<&str> = nodes.iter().chain(self.nodes.keys()).map(String::as_str).collect();
        let silent = |name: &&&str| !self.has_node(name, now_ns);
        let why = |name: &&str| match self.nodes.get(*name) {
            None => format!("no agent on {name}"),
            Some(node) if node.stopped => format!("the agent on {name} was stopped"),
            Some(node) => {
                format!(
                    "the agent on {name} is silent for {} s",
                    now_ns.saturating_sub(node.last_ns) / 1_000_000_000
                )
            }
        };
        let missing = self.nodes.iter().flat_map(|(name, node)| {
            node.missing.iter().map(move |(observer, reason)| format!("{observer} on {name}: {reason}"))
        });
        let beyond = (self.refused > 0).then(|| {
            format!(
                "agents of more than {MAX_NODES} nodes report; {} heartbeats of others were not taken",
                self.refused
            )
        });
        let silent: Vec<String> = nodes.iter().filter(silent).map(why).collect();
        Coverage {
            nodes: nodes.len() - silent.len(),
            of_nodes: nodes.len(),
            silent,
            degraded: missing.chain(beyond).collect(),
            kubernetes_age_s: self.last_kubernetes_ns.map(|last| now_ns.saturating_sub(last) / 1_000_000_000),
            missing_kinds: self
                .missing_kinds
                .iter()
                .map(|(kind, reason)| format!("{kind}: {reason}"))
                .collect(),
            dropped: self.nodes.values().map(|node| node.dropped).sum(),
        }
    }
}

/// Adds a time to others, joins those that touch, and forgets the oldest beyond [`MAX_SPANS`]. Returns how many were forgotten.
fn join(spans: &mut Vec<Span>, span: Span) -> usize {
    spans.push(span);
    spans.sort_unstable();
    let mut joined: Vec<Span> = Vec::new();
    for (from, to) in spans.drain(..) {
        match joined.last_mut() {
            Some((_, end)) if from <= *end => *end = to.max(*end),
            _ => joined.push((from, to)),
        }
    }
    let old = joined.len().saturating_sub(MAX_SPANS);
    *spans = joined.split_off(old);
    old
}

#[cfg(test)]
mod tests;
