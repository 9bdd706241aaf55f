//! Pressure on memory and I/O: the share of time in which some task waited, and in which all did.

use serde::{Deserialize, Serialize};
use tapio_common::{
    baseline::Baseline,
    node::{Sample, UNKNOWN},
};

use super::{IO_PRESSURE, MEMORY_PRESSURE, anomaly, message, normal, percent, put};
use crate::observer::{
    Anomaly, Kind,
    gauge::{Gauge, Sustained},
};

/// The kernel updates the sums every two seconds, so a shorter window says nothing.
const LEAST_NS: u64 = 2_000_000_000;

/// The state of one kind of pressure in one cgroup.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Waiting {
    gauge: Gauge,
    /// The sums that the next share starts from, and their time.
    #[serde(skip)]
    from: Option<(u64, [u64; 2])>,
}

/// Pressure above normal.
#[derive(Debug)]
pub(super) struct Wait {
    some: u64,
    full: Option<u64>,
    window_ns: u64,
    before: Baseline,
}

impl Waiting {
    /// Judges the sums of a sample. `None`: normal. `Some(None)`: abnormal, but not for long enough.
    pub(super) fn judge(
        &mut self,
        sample: &Sample,
        sums: [u64; 2],
        limits: &Sustained,
    ) -> Option<Option<Wait>> {
        let now_ns = sample.header.time_ns;
        if sums[0] == UNKNOWN {
            self.from = None;
            return None;
        }
        let Some((then_ns, then)) = self.from.filter(|(_, then)| then[0] <= sums[0]) else {
            self.from = Some((now_ns, sums));
            return None;
        };
        let window_ns = now_ns.saturating_sub(then_ns);
        if window_ns < LEAST_NS {
            return None;
        }
        self.from = Some((now_ns, sums));
        let some = share(sums[0] - then[0], window_ns);
        let full = (sums[1] != UNKNOWN && then[1] != UNKNOWN)
            .then(|| share(sums[1].saturating_sub(then[1]), window_ns));
        let judged = self.gauge.judge(some, now_ns, limits)?;
        Some(judged.map(|before| Wait { some, full, window_ns, before }))
    }
}

/// The share of microseconds in nanoseconds, in 1/1024.
fn share(us: u64, of_ns: u64) -> u64 {
    let share = u128::from(us) * 1000 * 1024 / u128::from(of_ns.max(1));
    u64::try_from(share).unwrap_or(u64::MAX).min(1024)
}

impl Wait {
    pub(super) fn of_memory(self, sample: &Sample) -> Anomaly {
        let mut reported = self.report(sample, &MEMORY_PRESSURE);
        reported.message = message::memory_waiting;
        put(&mut reported.data, "held_bytes", sample.held_bytes);
        super::memory::put_limit(&mut reported.data, sample);
        // It must not be folded as a repeat of usage near the limit.
        reported.detail = 1;
        reported
    }

    pub(super) fn of_io(self, sample: &Sample) -> Anomaly {
        self.report(sample, &IO_PRESSURE)
    }

    fn report(self, sample: &Sample, kind: &'static Kind) -> Anomaly {
        let mut reported = anomaly(sample, kind);
        put(&mut reported.data, "some_percent", percent(self.some));
        if let Some(full) = self.full {
            put(&mut reported.data, "full_percent", percent(full));
        }
        put(&mut reported.data, "window_ms", self.window_ns / 1_000_000);
        reported.baseline = Some(normal(&self.before, self.some));
        reported.magnitude = self.some;
        reported
    }
}
