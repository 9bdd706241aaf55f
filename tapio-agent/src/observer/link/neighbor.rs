//! Neighbours that do not answer, as the kernel found.

use std::net::Ipv6Addr;

use tapio_common::{Header, link::NeighborFailed};
use tapio_occurrence::Data;

use super::NEIGHBOR_FAILED;
use crate::observer::Anomaly;

/// Bytes of a hardware address of Ethernet.
const HARDWARE_BYTES: usize = 6;

/// A gateway that does not answer: the next hop of a route. `owner` is the header of a sample of its namespace.
///
/// Any other neighbour is one that somebody here wants to reach, whom `network.connection_unreachable` names, or an
/// address that nobody has: of a pod that has ended, or one that a scanner tries.
pub(super) fn judge(event: &NeighborFailed, owner: &Header, next_hops: &[Ipv6Addr]) -> Option<Anomaly> {
    let address = Ipv6Addr::from(bytemuck::cast::<_, [u8; 16]>(event.address));
    if !next_hops.contains(&address) {
        return None;
    }
    let mut data = Data::default();
    data.push("gateway", address.to_canonical().to_string());
    data.push("device", super::name(bytemuck::bytes_of(&event.device.name)));
    if event.hardware != 0 {
        let bytes = &event.hardware.to_ne_bytes()[..HARDWARE_BYTES];
        let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        data.push("hardware_address", bytes.join(":"));
    }
    Some(Anomaly {
        data,
        // Those of several gateways are not each other's repeats.
        detail: event.address.iter().fold(event.device.index, |all, word| all.rotate_left(8) ^ word),
        cgroup_id: owner.cgroup_id,
        ..Anomaly::new(&NEIGHBOR_FAILED, &event.header)
    })
}
