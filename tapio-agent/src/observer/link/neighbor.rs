//! Neighbours that do not answer, as the kernel found.

use std::{collections::HashMap, net::Ipv6Addr};

use tapio_common::{Header, WHOLE_NODE, link::NeighborFailed};
use tapio_occurrence::Data;

use super::{MINUTE_NS, NEIGHBOR_FAILED};
use crate::observer::Anomaly;

/// Bytes of a hardware address of Ethernet.
const HARDWARE_BYTES: usize = 6;
/// A gateway that several namespaces miss within this time is one fault. The kernel asks an idle neighbour again after half a
/// minute, and the program is quiet for a minute by default.
const TOGETHER_NS: u64 = 2 * MINUTE_NS;

/// The gateways that do not answer, with the namespaces of pods that miss them.
#[derive(Debug, Default)]
pub(super) struct Gateways(HashMap<Ipv6Addr, HashMap<u64, Missed>>);

/// Since when a namespace misses a gateway, and when it was last heard of.
#[derive(Debug)]
struct Missed {
    since_ns: u64,
    last_ns: u64,
}

impl Gateways {
    /// A gateway that does not answer: the next hop of a route. `owner` is the header of a sample of its namespace. What others
    /// miss, too, is the node's: its bridge has no address any more, or the network that it is attached to fails.
    ///
    /// Any other neighbour is one that somebody here wants to reach, whom `network.connection_unreachable` names, or an
    /// address that nobody has: of a pod that has ended, or one that a scanner tries.
    pub(super) fn judge(
        &mut self,
        event: &NeighborFailed,
        owner: &Header,
        next_hops: &[Ipv6Addr],
    ) -> Option<Anomaly> {
        let address = Ipv6Addr::from(bytemuck::cast::<_, [u8; 16]>(event.address));
        if !next_hops.contains(&address) {
            return None;
        }
        let mut data = Data::default();
        data.push("gateway", address.to_canonical().to_string());
        let is_the_nodes = owner.cgroup_id == WHOLE_NODE;
        let several = if is_the_nodes { None } else { self.missed_by_several(address, event) };
        let anomaly = Anomaly::new(&NEIGHBOR_FAILED, &event.header);
        let mut anomaly = match several {
            Some((namespaces, since_ns)) => {
                data.push("network_namespaces", namespaces);
                Anomaly { cgroup_id: WHOLE_NODE, time_ns: since_ns, magnitude: namespaces, ..anomaly }
            }
            None => {
                data.push("device", super::name(bytemuck::bytes_of(&event.device.name)));
                Anomaly { cgroup_id: owner.cgroup_id, detail: event.device.index, ..anomaly }
            }
        };
        if event.hardware != 0 {
            let bytes = &event.hardware.to_ne_bytes()[..HARDWARE_BYTES];
            let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            data.push("hardware_address", bytes.join(":"));
        }
        // Those of several gateways are not each other's repeats.
        anomaly.detail = event.address.iter().fold(anomaly.detail, |all, word| all.rotate_left(8) ^ word);
        Some(Anomaly { data, ..anomaly })
    }

    /// How many namespaces miss a gateway, and since when; `None` if it is one.
    fn missed_by_several(&mut self, gateway: Ipv6Addr, event: &NeighborFailed) -> Option<(u64, u64)> {
        let now_ns = event.header.time_ns;
        let missed_by = self.0.entry(gateway).or_default();
        missed_by.retain(|_, missed| missed.is_current(now_ns));
        let missed = missed_by.entry(event.device.namespace);
        missed.or_insert(Missed { since_ns: now_ns, last_ns: now_ns }).last_ns = now_ns;
        let since_ns = missed_by.values().map(|missed| missed.since_ns).min()?;
        (missed_by.len() > 1).then_some((missed_by.len() as u64, since_ns))
    }

    /// Forgets what is too long ago to count.
    pub(super) fn forget(&mut self, now_ns: u64) {
        self.0.retain(|_, missed_by| missed_by.values().any(|missed| missed.is_current(now_ns)));
    }
}

impl Missed {
    const fn is_current(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.last_ns) < TOGETHER_NS
    }
}
