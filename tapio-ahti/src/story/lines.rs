//! Findings as lines, in the order of time.

use std::collections::{BTreeMap, BTreeSet};

use super::name;
use crate::{
    explain::{Explanation, Known, workload},
    finding::{Finding, FindingId, MAX_FACTS},
    graph::EntityId,
    incident::{Evidence, Line},
    visible::{self, Place, Places, Prose},
};

/// The source of what the API server says.
pub(crate) const KUBERNETES: &str = "kubernetes";
/// The source of what an agent says.
pub(super) const KERNEL: &str = "kernel";
/// Lines of an answer; further findings are only counted.
pub(super) const MAX_LINES: usize = 24;

/// A finding as a line.
pub(crate) fn line(known: Known<'_>, finding: &Finding) -> Line {
    Line {
        since_unix_ns: finding.onset_ns,
        last_unix_ns: finding.last_ns.min(known.now_ns),
        entity: name(known, finding.key.entity),
        workload: name(known, known.graph.workload(finding.key.entity, finding.onset_ns)),
        kind: finding.key.kind.to_string(),
        text: message(known, finding),
        count: finding.count,
        pods: finding.pods.len(),
        source: source(&finding.key.kind).into(),
        owner: if finding.exact { Evidence::Exact } else { Evidence::Inferred },
        facts: finding.facts.iter().map(|(_, id)| id.to_string()).collect(),
    }
}

/// Who says something of this type: types begin with the observer that reports them.
pub(super) fn source(kind: &str) -> &'static str {
    match kind.split('.').next() {
        Some("kubernetes") => KUBERNETES,
        Some("scheduler") => "scheduler",
        Some("signal") => "otlp",
        _ => KERNEL,
    }
}

/// Findings that are the same in several places, as one line.
fn together(known: Known<'_>, of: &Explanation, ids: &[FindingId]) -> Option<Line> {
    let mut all: Vec<&Finding> = ids.iter().filter_map(|id| known.findings.get(*id)).collect();
    all.sort_by_key(|finding| finding.onset_ns);
    let (first, others) = all.split_first()?;
    let mut line = line(known, first);
    // Of what came before its cause, the explained part counts.
    let causes = of.links.iter().filter(|link| ids.contains(&link.effect));
    let began = causes.filter_map(|link| known.findings.get(link.cause)).map(|cause| cause.onset_ns).min();
    if let Some((from_ns, _)) =
        began.filter(|began| *began > first.onset_ns).and_then(|began| first.times.from(began))
    {
        line.since_unix_ns = from_ns;
    }
    let mut pods: BTreeSet<EntityId> = first.pods.iter().copied().collect();
    for other in others {
        line.last_unix_ns = line.last_unix_ns.max(other.last_ns);
        line.count = line.count.saturating_add(other.count);
        line.facts.extend(other.facts.iter().map(|(_, id)| id.to_string()));
        pods.extend(&other.pods);
        if !other.exact {
            line.owner = Evidence::Inferred;
        }
    }
    line.facts.truncate(MAX_FACTS);
    line.pods = pods.len();
    Some(line)
}

/// An effect may be seen so long before its cause: Kubernetes gives whole seconds, and either may be seen late.
const SEEN_EARLY_NS: u64 = 5_000_000_000;

/// The lines of findings, the cause first and then in order of time, and the place of each finding among them.
pub(super) fn in_order(
    known: Known<'_>,
    of: &Explanation,
    all: &[Vec<FindingId>],
) -> (BTreeMap<FindingId, usize>, Vec<Line>) {
    let mut lines: Vec<_> = all.iter().filter_map(|ids| Some((ids, together(known, of, ids)?))).collect();
    let mut since_ns: BTreeMap<FindingId, u64> =
        lines.iter().flat_map(|(ids, line)| ids.iter().map(|id| (*id, line.since_unix_ns))).collect();
    let is_root = |ids: &[FindingId]| of.root.is_some_and(|root| ids.contains(&root));
    // From the cause on, so that an effect takes the time of its cause's cause, too.
    for (ids, line) in lines.iter().filter(|(ids, _)| !is_root(ids)) {
        let causes = of.links.iter().filter(|link| ids.contains(&link.effect) && Some(link.cause) != of.root);
        let began = causes.filter_map(|link| since_ns.get(&link.cause)).max().copied().unwrap_or_default();
        if (1..=SEEN_EARLY_NS).contains(&began.saturating_sub(line.since_unix_ns)) {
            since_ns.extend(ids.iter().map(|id| (*id, began)));
        }
    }
    lines.sort_by_key(|(ids, _)| (!is_root(ids), ids.first().and_then(|id| since_ns.get(id)).copied()));
    let place = lines.iter().enumerate().flat_map(|(at, (ids, _))| ids.iter().map(move |id| (*id, at)));
    (place.collect(), lines.into_iter().map(|(_, line)| line).collect())
}

/// What the facts of a finding say.
pub(super) fn message(known: Known<'_>, finding: &Finding) -> Prose {
    Prose::new(finding.message.clone(), places(known, finding))
}

/// Where a finding is, and the namespaces that its facts name.
pub(super) fn places(known: Known<'_>, finding: &Finding) -> Places {
    let own = [finding.key.entity, workload(known, finding)].map(|id| name(known, id).place());
    let others = finding.peer.and_then(|peer| peer.entity).into_iter().chain(finding.actor);
    // That a pod is on a node, or talks to it, is no secret of the cluster: its own object says it.
    let others = others.map(|id| name(known, id).place()).filter(|place| *place != Place::Cluster);
    let mut places = finding.places.clone();
    visible::join(&mut places, own.into_iter().chain(others));
    places
}
