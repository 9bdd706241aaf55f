//! Which end of a slow connection it is: the one of whose connections the larger part is slow.

use std::collections::BTreeSet;

use super::Known;
use crate::{
    finding::Finding,
    graph::{EntityId, Step},
};

/// Connections of one end that are looked at.
const MAX_EDGES: usize = 64;
/// Findings so far apart are of the same time.
const SAME_NS: u64 = 300_000_000_000;

/// A client and a server, as workloads.
type Edge = (EntityId, EntityId);

/// The end that a finding on a connection is charged to; `None` for any other finding, and where the other end is not known.
pub(crate) fn charged(known: Known<'_>, finding: &Finding) -> Option<EntityId> {
    if known.without.two_ended || !known.rules.kind_of(finding).is_some_and(|kind| kind.two_ended) {
        return None;
    }
    let at = finding.onset_ns;
    let client = known.graph.workload(finding.key.entity, at);
    let server = behind(known, finding.peer?.entity?, at);
    let (of_client, of_server) = (share(known, finding, client), share(known, finding, server));
    Some(if of_client > of_server { client } else { server })
}

/// The workload behind a service; anything else itself.
fn behind(known: Known<'_>, id: EntityId, at_ns: u64) -> EntityId {
    let members = known.graph.walk(&[id], &[Step::Members], at_ns);
    members.first().map_or(id, |member| known.graph.workload(*member, at_ns))
}

/// Which part of the connections of a workload has the finding, from 0 to 1.
fn share(known: Known<'_>, finding: &Finding, of: EntityId) -> f64 {
    let edges = edges(known, of, finding.onset_ns);
    let affected = edges.iter().filter(|edge| is_affected(known, finding, **edge)).count();
    affected as f64 / edges.len().max(1) as f64
}

fn edges(known: Known<'_>, of: EntityId, at_ns: u64) -> BTreeSet<Edge> {
    let graph = known.graph;
    let servers = graph.connections.of(of, at_ns).filter_map(|(address, _)| graph.at_address(address, at_ns));
    let mut edges: BTreeSet<Edge> =
        servers.take(MAX_EDGES).map(|server| (of, behind(known, server, at_ns))).collect();
    for service in graph.walk(&[of], &[Step::Services], at_ns) {
        for address in graph.addresses_of(service, at_ns) {
            let clients = graph.connections.clients_of(address, at_ns).take(MAX_EDGES);
            edges.extend(clients.map(|client| (client, of)));
        }
    }
    edges
}

/// Whether an edge has the same finding at about the same time.
fn is_affected(known: Known<'_>, finding: &Finding, (client, server): Edge) -> bool {
    known.findings.of(client).any(|(_, other)| {
        other.key.kind == finding.key.kind
            && other.onset_ns <= finding.last_ns.saturating_add(SAME_NS)
            && other.last_ns.saturating_add(SAME_NS) >= finding.onset_ns
            && other
                .peer
                .and_then(|peer| peer.entity)
                .is_some_and(|peer| behind(known, peer, other.onset_ns) == server)
    })
}
