//! Devices that lose their carrier again and again.

use std::collections::{HashMap, VecDeque};

use tapio_common::{Header, link::CarrierLost};
use tapio_occurrence::Data;

use super::{FLAPPING, settings::Limits};
use crate::observer::Anomaly;

/// The devices that have lost their carrier of late, by namespace and number.
#[derive(Debug, Default)]
pub(super) struct Carriers(HashMap<(u64, u32), Losses>);

/// Losses of one device.
#[derive(Debug)]
struct Losses {
    /// The kernel's count of all of them.
    count: u32,
    /// When the last ones were, at most as many as make an anomaly.
    times_ns: VecDeque<u64>,
}

impl Carriers {
    /// Adds a loss, and the ones before it that the kernel counted, but gave no event of, as the carrier came back at once.
    /// `owner` is the header of a sample of its namespace.
    pub(super) fn judge(&mut self, event: &CarrierLost, owner: &Header, limits: &Limits) -> Option<Anomaly> {
        let now_ns = event.header.time_ns;
        let key = (event.device.namespace, event.device.index);
        let first = || Losses { count: event.losses.wrapping_sub(1), times_ns: VecDeque::new() };
        let device = self.0.entry(key).or_insert_with(first);
        device.forget(now_ns, limits);
        if device.times_ns.is_empty() {
            *device = first();
        }
        // A smaller count is that of another device, which has the number now.
        let new = event.losses.checked_sub(device.count).map_or(1, |new| new as usize);
        device.count = event.losses;
        device.times_ns.extend(std::iter::repeat_n(now_ns, new.min(limits.losses)));
        let began_ns = *device.times_ns.front()?;
        if device.times_ns.len() < limits.losses {
            return None;
        }
        let losses = device.times_ns.len() as u64;
        // The next anomaly takes as many again.
        device.times_ns.clear();
        Some(Anomaly {
            data: Data::from([
                ("device", super::name(bytemuck::bytes_of(&event.device.name)).into()),
                ("losses", losses.into()),
                ("window_ms", (now_ns.saturating_sub(began_ns) / 1_000_000).into()),
            ]),
            cgroup_id: owner.cgroup_id,
            detail: event.device.index,
            magnitude: losses,
            ..Anomaly::new(&FLAPPING, &event.header)
        })
    }

    /// Forgets what is too long ago to count.
    pub(super) fn forget(&mut self, now_ns: u64, limits: &Limits) {
        self.0.retain(|_, device| {
            device.forget(now_ns, limits);
            !device.times_ns.is_empty()
        });
    }
}

impl Losses {
    fn forget(&mut self, now_ns: u64, limits: &Limits) {
        self.times_ns.retain(|time_ns| now_ns.saturating_sub(*time_ns) < limits.losses_within_ns);
    }
}
