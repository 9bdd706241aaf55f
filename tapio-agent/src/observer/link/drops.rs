//! Packets that are dropped, by reason and device, against their past.

use std::collections::HashMap;

use tapio_occurrence::Data;

use super::{DeviceDrops, MINUTE_NS, Namespace, PACKET_DROPS, Reason, UNKNOWN, grown};
use crate::observer::{
    Anomaly,
    gauge::{self, Gauge, Sustained},
};

/// The counters of a namespace and of its devices.
#[derive(Debug, Default)]
pub(super) struct Drops(HashMap<Key, Counter>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    reason: Reason,
    /// Name of the device; zeros for what is counted for the namespace.
    device: [u8; 16],
}

#[derive(Debug)]
struct Counter {
    dropped: u64,
    /// When it was last seen, boot clock.
    at_ns: u64,
    per_minute: Gauge,
}

impl Drops {
    /// Compares counters with those of the sample before, a window ago. A counter that is new only begins; one that is gone is
    /// forgotten.
    pub(super) fn judge(
        &mut self,
        now: &Namespace,
        devices: impl Iterator<Item = DeviceDrops>,
        window_ns: u64,
        limits: &Sustained,
        out: &mut Vec<Anomaly>,
    ) {
        let at_ns = now.header.time_ns;
        let of_namespace = Reason::OF_NAMESPACE.into_iter().zip(now.drops);
        let of_namespace = of_namespace.map(|(reason, dropped)| (Key { reason, device: [0; 16] }, dropped));
        let of_devices = devices.flat_map(|device| {
            let of_reason = Reason::OF_DEVICE.into_iter().zip(device.drops);
            of_reason.map(move |(reason, dropped)| (Key { reason, device: device.name }, dropped))
        });
        for (key, dropped) in of_namespace.chain(of_devices).filter(|(_, dropped)| *dropped != UNKNOWN) {
            let Some(counter) = self.0.get_mut(&key) else {
                self.0.insert(key, Counter { dropped, at_ns, per_minute: Gauge::default() });
                continue;
            };
            counter.at_ns = at_ns;
            let before = std::mem::replace(&mut counter.dropped, dropped);
            let Some(new) = grown(before, dropped) else { continue };
            let per_minute = u128::from(new) * u128::from(MINUTE_NS) / u128::from(window_ns.max(1));
            let per_minute = u64::try_from(per_minute).unwrap_or(u64::MAX);
            let judged = counter.per_minute.judge(per_minute, at_ns, limits);
            let Some(before) = judged.flatten() else { continue };
            let mut data = Data::from([
                ("reason", key.reason.name().into()),
                ("rate_packets", per_minute.into()),
                ("window_ms", (window_ns / 1_000_000).into()),
            ]);
            if key.device != [0; 16] {
                data.push("device", super::name(&key.device));
            }
            out.push(Anomaly {
                data,
                detail: key
                    .device
                    .iter()
                    .fold(key.reason as u32, |all, byte| all.rotate_left(5) ^ u32::from(*byte)),
                baseline: Some(gauge::normal(&before, per_minute, "packets")),
                magnitude: per_minute,
                ..Anomaly::new(&PACKET_DROPS, &now.header)
            });
        }
        self.0.retain(|_, counter| counter.at_ns == at_ns);
    }
}
