//! Records as the kernel programs write them to the ring buffer.

use std::net::{IpAddr, SocketAddr};

use bytemuck::Zeroable as _;
use tapio_common::{
    baseline::{Baseline, Limits},
    network::{NetworkEvent, direction, kind},
};

/// Boot clock of every record.
pub(crate) const TIME_NS: u64 = 1_000_000_000_000;

pub(crate) const KINDS: [u32; 9] = [
    kind::RTT_SPIKE,
    kind::RTT_SHIFT,
    kind::CONNECTION_REFUSED,
    kind::CONNECTION_TIMEOUT,
    kind::CONNECTION_UNREACHABLE,
    kind::CONNECTION_RESET,
    kind::CONNECT_SLOW,
    kind::RETRANSMIT_BURST,
    kind::PEER_UNRESPONSIVE,
];

/// An event of `kind` between these two addresses, without an owner, with the fields that every kind has.
pub(crate) fn event(kind: u32, direction: u32, local: &str, remote: &str) -> NetworkEvent {
    let (local, remote): (SocketAddr, SocketAddr) = (local.parse().unwrap(), remote.parse().unwrap());
    let mut event = NetworkEvent::zeroed();
    event.header.time_ns = TIME_NS;
    (event.kind, event.direction) = (kind, direction);
    (event.local, event.local_port) = (octets(local.ip()), local.port());
    (event.remote, event.remote_port) = (octets(remote.ip()), remote.port());
    event.netns = 4_026_531_840;
    event
}

/// An event of `kind` as a kernel program fills it in, with a plausible value in every field.
pub(crate) fn plausible(kind: u32, direction: u32, local: &str, remote: &str) -> NetworkEvent {
    let event = event(kind, direction, local, remote);
    match kind {
        kind::RTT_SPIKE => {
            NetworkEvent { value_us: 41_000, certain_us: 40_000, baseline: normal(5_000), ..event }
        }
        kind::RTT_SHIFT => NetworkEvent {
            value_us: 41_000,
            certain_us: 40_000,
            since_ns: TIME_NS - 1_500_000_000,
            baseline: normal(5_000),
            ..event
        },
        kind::CONNECTION_REFUSED => NetworkEvent { value_us: 296, errno: 111, ..event },
        kind::CONNECTION_TIMEOUT => NetworkEvent { value_us: 3_042_172, retransmits: 1, errno: 110, ..event },
        kind::CONNECTION_UNREACHABLE => NetworkEvent { value_us: 312_002, errno: 113, ..event },
        kind::CONNECTION_RESET => NetworkEvent { bytes_received: 300, bytes_acked: 1_001, ..event },
        kind::CONNECT_SLOW => NetworkEvent { value_us: 120_000, baseline: normal(12_000), ..event },
        kind::RETRANSMIT_BURST => {
            NetworkEvent { value_us: 254_218, retransmits: 20, segments: 181, baseline: normal(10), ..event }
        }
        kind::PEER_UNRESPONSIVE => {
            NetworkEvent { retransmits: 4, idle_ms: 3_214, bytes_received: 300, bytes_acked: 1_001, ..event }
        }
        other => panic!("there is no kind {other}"),
    }
}

/// Sets the process and its cgroup.
pub(crate) fn owned(mut event: NetworkEvent, cgroup_id: u64, pid: u32, comm: &[u8]) -> NetworkEvent {
    (event.header.cgroup_id, event.header.pid) = (cgroup_id, pid);
    let mut padded = [0; 16];
    padded[..comm.len()].copy_from_slice(comm);
    event.header.comm = padded.into();
    event
}

/// A baseline that has seen only this value, often enough.
pub(crate) fn normal(value: u64) -> Baseline {
    let mut baseline = Baseline::default();
    for now in 0..40 {
        baseline.observe(value, now, &Limits::DEFAULT);
    }
    baseline
}

/// Directions that a record may have, with both ends in either address family.
pub(crate) const WAYS: [(u32, &str, &str); 4] = [
    (direction::OUTBOUND, "10.0.0.1:43210", "10.0.0.7:6379"),
    (direction::INBOUND, "10.0.0.1:443", "10.0.0.7:43210"),
    (direction::OUTBOUND, "[2001:db8::1]:43210", "[2001:db8::7]:6379"),
    (direction::INBOUND, "[2001:db8::1]:443", "[2001:db8::7]:43210"),
];

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
