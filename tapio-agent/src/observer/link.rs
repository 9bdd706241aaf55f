//! Link: what the network drops below its connections.
//!
//! Judges the counters of each network namespace ([`Namespace`]), which are read from files: no program runs for a packet.
//! Reports `link.listen_overflow`, `link.conntrack_full` and `link.packet_drops`.
//!
//! Watches `neigh_timer_handler` (tp_btf), which rarely runs. Reports `link.neighbor_failed` of gateways: who connects to any
//! other address that does not answer is reported by the network observer. And `qdisc_reset` (tp_btf), which runs for each queue of a
//! device that loses its carrier. Reports `link.flapping`.
//!
//! A namespace is a pod's, or the node's. Which process of a pod dropped something is not known: the owner is the pod.

mod carrier;
mod drops;
mod faults;
mod message;
mod namespace;
mod neighbor;
mod settings;

use std::{collections::HashMap, net::Ipv6Addr};

pub use namespace::{DeviceDrops, NEXT_HOP_BYTES, Namespace, Reason, UNKNOWN};
pub use settings::Settings;

use tapio_common::{
    Header,
    link::{self as fields, CarrierLost, NeighborFailed, kind},
};
use tapio_occurrence::{Data, Outcome, Severity};

use self::{carrier::Carriers, drops::Drops, neighbor::Gateways, settings::Limits};
use crate::fault::{Fault, Role};

use super::{Anomaly, Attach, ByHelper, Fallback, Hook, Kind, Malformed, Observer, Only, Reads, Room, with};

static NEIGHBOR_FAILED: Kind =
    Kind::new("link.neighbor_failed", Severity::Error, Outcome::Failure, message::neighbor).not_measured();
static FLAPPING: Kind = Kind::new("link.flapping", Severity::Warning, Outcome::Failure, message::flapping);
static LISTEN_OVERFLOW: Kind =
    Kind::new("link.listen_overflow", Severity::Warning, Outcome::Failure, message::overflow);
static CONNTRACK_FULL: Kind =
    Kind::new("link.conntrack_full", Severity::Error, Outcome::Failure, message::full);
static PACKET_DROPS: Kind =
    Kind::new("link.packet_drops", Severity::Warning, Outcome::Failure, message::drops);

/// The fields of a neighbour, but its address.
const NEIGHBOR: [usize; 5] = [fields::STATE, fields::HARDWARE, fields::TABLE, fields::FAMILY, fields::DEVICE];
/// The fields by which events name a device.
const DEVICE: [usize; 5] = [fields::NAME, fields::INDEX, fields::NET, fields::NET_STAT, fields::INODE];
const CARRIER: [usize; 6] = [
    fields::QDISC_QUEUE,
    fields::QUEUE_DEVICE,
    fields::LINK_STATE,
    fields::FLAGS,
    fields::LOWER_LEVEL,
    fields::LOSSES,
];

/// Looks use at most one part in this many of a CPU.
const CPU_SHARE: u32 = 1000;
/// A namespace that no sample has shown for this long is forgotten.
const FORGET_NS: u64 = 15 * 60 * SECOND_NS;
/// How often such namespaces are removed.
const SWEEP_NS: u64 = 60 * SECOND_NS;
/// A rate over less is that of a burst.
const MIN_WINDOW_NS: u64 = SECOND_NS / 2;
/// Connections are tracked in a table that is full when a new one finds no place. Places become free between that and the
/// sample, so a table nearly full counts, too. Per cent.
const NEARLY_FULL: u128 = 90;
const SECOND_NS: u64 = 1_000_000_000;
const MINUTE_NS: u64 = 60 * SECOND_NS;

/// The link observer.
#[derive(Debug)]
pub struct Link {
    limits: Limits,
    spaces: HashMap<u64, Space>,
    carriers: Carriers,
    gateways: Gateways,
    /// When vanished namespaces were last removed.
    swept_ns: u64,
}

/// The state of a namespace.
#[derive(Debug)]
struct Space {
    last: Namespace,
    next_hops: Vec<Ipv6Addr>,
    drops: Drops,
}

impl Observer for Link {
    const NAME: &'static str = "link";
    const FIELDS: &'static [&'static str] = fields::FIELDS;
    const BY_HELPER: ByHelper = ByHelper { fields: fields::BY_HELPER, lost: "" };
    // In the order of `tapio_common::link::program`.
    const HOOKS: &'static [Hook] = &[
        Hook {
            program: "neigh_timer_handler",
            attach: Attach::BtfTracepoint("neigh_timer_handler"),
            needs: &with::<_, 6, 11>(NEIGHBOR, with::<_, 1, 6>(DEVICE, [fields::ADDRESS])),
            gives: "link.neighbor_failed",
            or: &[Fallback {
                program: "neigh_timer_handler",
                attach: Attach::BtfTracepoint("neigh_timer_handler"),
                needs: &with::<_, 6, 11>(NEIGHBOR, with::<_, 1, 6>(DEVICE, [fields::ADDRESS_BY_HELPER])),
            }],
        },
        Hook {
            program: "qdisc_reset",
            attach: Attach::BtfTracepoint("qdisc_reset"),
            needs: &with::<_, 6, 11>(DEVICE, CARRIER),
            gives: "link.flapping",
            or: &[],
        },
    ];
    const ROOM: Room = Room::SMALL;
    const KINDS: &'static [&'static Kind] =
        &[&NEIGHBOR_FAILED, &FLAPPING, &LISTEN_OVERFLOW, &CONNTRACK_FULL, &PACKET_DROPS];
    const FAULTS: &'static [Fault] = faults::FAULTS;
    const ROLES: &'static [Role] = faults::ROLES;
    type Settings = Settings;

    fn new(settings: &Settings) -> Self {
        Self {
            limits: settings.limits(),
            spaces: HashMap::new(),
            carriers: Carriers::default(),
            gateways: Gateways::default(),
            swept_ns: 0,
        }
    }

    fn kernel_settings(settings: &Settings) -> Vec<u8> {
        bytemuck::bytes_of(&settings.kernel()).to_vec()
    }

    fn reads(settings: &Settings) -> Option<Reads> {
        Some(Reads::Namespaces { interval: settings.interval.get(), share: CPU_SHARE })
    }

    fn observe(&mut self, record: &[u8], out: &mut Vec<Anomaly>) -> Result<(), Malformed> {
        let malformed = || Malformed::Size(record.len());
        let kind = record.get(size_of::<Header>()..).and_then(<[u8]>::first_chunk).ok_or_else(malformed)?;
        match u32::from_ne_bytes(*kind) {
            kind::NEIGHBOR_FAILED => {
                let event: NeighborFailed =
                    bytemuck::try_pod_read_unaligned(record).map_err(|_| malformed())?;
                // What happens in a namespace that no sample has shown is nobody's.
                if let Some(space) = self.spaces.get(&event.device.namespace) {
                    out.extend(self.gateways.judge(&event, &space.last.header, &space.next_hops));
                }
            }
            kind::CARRIER_LOST => {
                let event: CarrierLost = bytemuck::try_pod_read_unaligned(record).map_err(|_| malformed())?;
                if let Some(space) = self.spaces.get(&event.device.namespace) {
                    out.extend(self.carriers.judge(&event, &space.last.header, &self.limits));
                }
            }
            kind::COUNTERS => {
                let (now, rest) = record.split_at_checked(size_of::<Namespace>()).ok_or_else(malformed)?;
                let now: Namespace = bytemuck::pod_read_unaligned(now);
                let (next_hops, devices) = rest
                    .split_at_checked((now.next_hops as usize).saturating_mul(NEXT_HOP_BYTES))
                    .ok_or_else(malformed)?;
                let (devices, []) = devices.as_chunks::<{ size_of::<DeviceDrops>() }>() else {
                    return Err(malformed());
                };
                let next_hops = next_hops.as_chunks().0.iter().copied().map(Ipv6Addr::from).collect();
                let devices = devices.iter().map(|device| bytemuck::pod_read_unaligned(device));
                self.sample(&now, next_hops, devices, out);
            }
            other => return Err(Malformed::Kind(other)),
        }
        Ok(())
    }

    fn tick(&mut self, now_ns: u64, _: &mut Vec<Anomaly>) {
        self.carriers.forget(now_ns, &self.limits);
        self.gateways.forget(now_ns);
        self.spaces.retain(|_, space| now_ns.saturating_sub(space.last.header.time_ns) < FORGET_NS);
        self.swept_ns = now_ns;
    }

    fn wake_at(&self) -> Option<u64> {
        (!self.spaces.is_empty()).then(|| self.swept_ns.saturating_add(SWEEP_NS))
    }
}

impl Link {
    /// Compares a sample of a namespace with the one before.
    fn sample(
        &mut self,
        now: &Namespace,
        next_hops: Vec<Ipv6Addr>,
        devices: impl Iterator<Item = DeviceDrops>,
        out: &mut Vec<Anomaly>,
    ) {
        let first = || Space { last: *now, next_hops: Vec::new(), drops: Drops::default() };
        let space = self.spaces.entry(now.id).or_insert_with(first);
        space.next_hops = next_hops;
        let window_ns = now.header.time_ns.saturating_sub(space.last.header.time_ns);
        if (1..MIN_WINDOW_NS).contains(&window_ns) {
            return;
        }
        let then = std::mem::replace(&mut space.last, *now);
        let window_ms = window_ns / 1_000_000;
        out.extend(overflow(&then, now, window_ms, &self.limits));
        out.extend(full(&then, now, window_ms));
        space.drops.judge(now, devices, window_ns, &self.limits.drops, out);
    }
}

/// A server accepts connections more slowly than they come.
fn overflow(then: &Namespace, now: &Namespace, window_ms: u64, limits: &Limits) -> Option<Anomaly> {
    let dropped = grown(then.listen_overflows, now.listen_overflows).filter(|dropped| *dropped > 0)?;
    let mut data = Data::from([("dropped_connections", dropped.into()), ("window_ms", window_ms.into())]);
    if now.longest > 0 {
        data.push("port", u64::from(now.port));
        data.push("waiting_connections", u64::from(now.longest));
    }
    Some(Anomaly {
        data,
        detail: now.port,
        magnitude: dropped,
        only: Only { expected_window_ns: Some(limits.expected_window_ns), ..Only::ALL },
        ..Anomaly::new(&LISTEN_OVERFLOW, &now.header)
    })
}

/// A new connection found no place in the table in which all are tracked: its packets were dropped, or one that had no answer
/// yet made room.
fn full(then: &Namespace, now: &Namespace, window_ms: u64) -> Option<Anomaly> {
    let [dropped, evicted] = [(then.untracked, now.untracked), (then.evicted, now.evicted)]
        .map(|(then, now)| grown(then, now).unwrap_or(0));
    let is_full = |at: &Namespace| {
        at.tracked != UNKNOWN
            && at.tracked_limit != UNKNOWN
            && u128::from(at.tracked) * 100 >= u128::from(at.tracked_limit) * NEARLY_FULL
    };
    if dropped.max(evicted) == 0 || !(is_full(then) || is_full(now)) {
        return None;
    }
    Some(Anomaly {
        severity: if dropped > 0 { CONNTRACK_FULL.severity } else { Severity::Warning },
        data: Data::from([
            ("dropped_packets", dropped.into()),
            ("evicted_connections", evicted.into()),
            ("tracked_connections", now.tracked.into()),
            ("limit_connections", now.tracked_limit.into()),
            ("window_ms", window_ms.into()),
        ]),
        magnitude: dropped.saturating_add(evicted),
        ..Anomaly::new(&CONNTRACK_FULL, &now.header)
    })
}

/// Name of a device, which is padded with zeros.
fn name(bytes: &[u8]) -> String {
    let len = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..len]).into_owned()
}

/// By how much a counter has grown; `None` if that is not known.
const fn grown(then: u64, now: u64) -> Option<u64> {
    if then == UNKNOWN || now == UNKNOWN { None } else { now.checked_sub(then) }
}

#[cfg(test)]
mod tests;
