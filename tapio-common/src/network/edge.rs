//! Edges: which workload talks to which destination, as structure and not as traffic.

use bytemuck::{Pod, Zeroable};

use super::Destination;

/// Names of the maps with an [`Edge`] as key and [`Contacts`] as value: destinations that a workload connected to,
/// clients that connected to it, and destinations that it only failed to connect to. Each has a map of its own, so that
/// neither a scan nor the clients of a public service evict the others.
pub const MAPS: [&str; 3] = ["EDGES", "INBOUND_EDGES", "FAILED_EDGES"];

/// How many edges each of [`MAPS`] has room for; the least recently used one is evicted.
pub const MAX_EDGES: [u32; 3] = [16_384, 8_192, 4_096];

/// How many ports of one address a workload may fail to connect to, without ever having connected, with an edge for
/// each. Failures on further ones are counted in one edge with [`OTHER_PORTS`].
pub const MAX_FAILED_PORTS: u32 = 16;

/// The port of an edge that stands for further ports of its address.
pub const OTHER_PORTS: u16 = 0;

/// A workload, and a destination that it talks to; inbound, a client that talks to it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Edge {
    /// Cgroup id of the workload; 0 if unknown.
    pub cgroup_id: u64,
    /// The other end, with the port of the service, and which side connects.
    pub destination: Destination,
}

/// What was seen of an [`Edge`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Contacts {
    /// When the first connection opened or failed, boot clock.
    pub first_ns: u64,
    /// When the last one did, boot clock.
    pub last_ns: u64,
    /// Connections that opened; wraps.
    pub connections: u32,
    /// Connects that failed; wraps.
    pub failures: u32,
    /// Of the edge with [`OTHER_PORTS`]: how many ports of its address have had an edge for their failures.
    pub ports: u32,
    /// Zero.
    pub reserved: u32,
}

impl Contacts {
    /// False for the count of ports of an address that needs no edge for further ones.
    #[must_use]
    pub const fn any(&self) -> bool {
        self.connections != 0 || self.failures != 0
    }
}
