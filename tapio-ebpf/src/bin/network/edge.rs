//! Edges: counts connections per workload and destination, where they open and where they fail, never per segment.

use aya_ebpf::{macros::map, maps::LruHashMap};
use tapio_common::network::{
    Destination, direction,
    edge::{Contacts, Edge, MAX_EDGES, MAX_FAILED_PORTS, OTHER_PORTS},
};
use tapio_ebpf::now_ns;

use crate::event::{Sock, destination, owner_of};

type Edges = LruHashMap<Edge, Contacts>;

/// Destinations that a workload connected to.
#[map]
static EDGES: Edges = LruHashMap::with_max_entries(MAX_EDGES[0], 0);

/// Clients that connected to a workload.
#[map]
static INBOUND_EDGES: Edges = LruHashMap::with_max_entries(MAX_EDGES[1], 0);

/// Destinations that a workload failed to connect to, and has not connected to since.
#[map]
static FAILED_EDGES: Edges = LruHashMap::with_max_entries(MAX_EDGES[2], 0);

/// A workload has connected to a destination.
#[inline(never)]
pub(crate) fn connected(cgroup_id: u64, destination: &Destination, now_ns: u64) {
    let edge = Edge { cgroup_id, destination: *destination };
    if count(&EDGES, &edge, now_ns, false) {
        return;
    }
    let mut contacts = Contacts { connections: 1, ..at(now_ns) };
    if let Some(failed) = FAILED_EDGES.get_ptr(&edge) {
        // SAFETY: a map value.
        let failed = unsafe { &*failed };
        (contacts.first_ns, contacts.failures) = (failed.first_ns, failed.failures);
        let _ = FAILED_EDGES.remove(&edge);
    }
    let _ = EDGES.insert(&edge, contacts, 0);
}

/// A client has connected to a workload.
#[inline(never)]
pub(crate) fn accepted(sk: Sock) {
    let destination = destination(sk, direction::INBOUND as u8);
    let owner = owner_of(sk, &destination);
    if owner.is_agent != 0 {
        return;
    }
    let edge = Edge { cgroup_id: owner.cgroup_id, destination };
    let now_ns = now_ns();
    if !count(&INBOUND_EDGES, &edge, now_ns, false) {
        let _ = INBOUND_EDGES.insert(&edge, Contacts { connections: 1, ..at(now_ns) }, 0);
    }
}

/// A workload has failed to connect to a destination. A scan of ports costs a few edges: one for each of the first ports,
/// and one for all others.
#[inline(never)]
pub(crate) fn failed(cgroup_id: u64, destination: &Destination, now_ns: u64) {
    let mut edge = Edge { cgroup_id, destination: *destination };
    if count(&EDGES, &edge, now_ns, true) || count(&FAILED_EDGES, &edge, now_ns, true) {
        return;
    }
    edge.destination.port = OTHER_PORTS;
    if let Some(others) = FAILED_EDGES.get_ptr_mut(&edge) {
        // SAFETY: a map value; CPUs that race here can miscount the ports.
        let others = unsafe { &mut *others };
        if others.ports >= MAX_FAILED_PORTS {
            if others.failures == 0 {
                others.first_ns = now_ns;
            }
            (others.last_ns, others.failures) = (now_ns, others.failures.wrapping_add(1));
            return;
        }
        others.ports += 1;
    } else {
        let _ = FAILED_EDGES.insert(&edge, Contacts { ports: 1, ..at(now_ns) }, 0);
    }
    edge.destination.port = destination.port;
    let _ = FAILED_EDGES.insert(&edge, Contacts { failures: 1, ..at(now_ns) }, 0);
}

/// Counts a connection, or a failed one, of an edge that is in the map. Returns false if it is not.
#[inline(always)]
fn count(edges: &Edges, edge: &Edge, now_ns: u64, is_failure: bool) -> bool {
    let Some(contacts) = edges.get_ptr_mut(edge) else { return false };
    // SAFETY: a map value; CPUs that race here can lose a count.
    let contacts = unsafe { &mut *contacts };
    contacts.last_ns = now_ns;
    if is_failure {
        contacts.failures = contacts.failures.wrapping_add(1);
    } else {
        contacts.connections = contacts.connections.wrapping_add(1);
    }
    true
}

#[inline(always)]
fn at(now_ns: u64) -> Contacts {
    Contacts { first_ns: now_ns, last_ns: now_ns, ..Contacts::default() }
}
