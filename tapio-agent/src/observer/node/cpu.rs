//! CFS throttling: the share of periods in which a cgroup had to wait because its quota was used up.

use serde::{Deserialize, Serialize};
use tapio_common::node::{Sample, UNKNOWN, UNLIMITED};

use super::{CPU_THROTTLED, anomaly, normal, percent, put};
use crate::observer::{
    Anomaly,
    gauge::{Gauge, Sustained},
};

/// A share of fewer periods says nothing.
const LEAST_PERIODS: u64 = 10;

/// The state of one cgroup.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Cpu {
    gauge: Gauge,
    /// The sample that the next share starts from, and how often cgroups below had used up quotas of their
    /// own by then.
    #[serde(skip)]
    from: Option<(Sample, u64)>,
}

impl Cpu {
    /// Judges a sample. `below` is the number of periods in which cgroups below had used up quotas of their
    /// own. If these are at least half of its own throttled periods, they explain its throttling.
    pub(super) fn judge(&mut self, sample: &Sample, below: u64, limits: &Sustained) -> Option<Anomaly> {
        let has_quota = !matches!(sample.quota_us, UNKNOWN | UNLIMITED) && sample.period_us != UNKNOWN;
        if !has_quota || sample.periods == UNKNOWN || sample.throttled == UNKNOWN {
            self.from = None;
            return None;
        }
        let from = self.from.filter(|(from, _)| {
            let is_same = (from.quota_us, from.period_us) == (sample.quota_us, sample.period_us);
            is_same && from.periods <= sample.periods && from.throttled <= sample.throttled
        });
        let Some((from, below_before)) = from else {
            self.from = Some((*sample, below));
            return None;
        };
        let periods = sample.periods - from.periods;
        // An idle cgroup has no periods. Its baseline is of the time when it runs.
        if periods < LEAST_PERIODS {
            return None;
        }
        self.from = Some((*sample, below));
        let throttled = sample.throttled - from.throttled;
        let share = (u128::from(throttled) * 1024 / u128::from(periods)).min(1024) as u64;
        let before = self.gauge.judge(share, sample.header.time_ns, limits)??;
        if below.saturating_sub(below_before).saturating_mul(2) >= throttled.max(1) {
            return None;
        }

        let mut reported = anomaly(sample, &CPU_THROTTLED);
        put(&mut reported.data, "throttled_percent", percent(share));
        put(&mut reported.data, "throttled_periods", throttled);
        put(&mut reported.data, "periods", periods);
        let window_ns = sample.header.time_ns.saturating_sub(from.header.time_ns).max(1);
        put(&mut reported.data, "window_ms", window_ns / 1_000_000);
        put(
            &mut reported.data,
            "limit_millicores",
            millicores(sample.quota_us, sample.period_us.saturating_mul(1000)),
        );
        let used = known(sample.cpu_us, from.cpu_us);
        let waited = known(sample.throttled_us, from.throttled_us);
        if let Some(used) = used {
            // Usage is divided by the periods in which it ran: a cgroup that is idle in between wants no less
            // CPU while it runs.
            let ran_ns = periods.saturating_mul(sample.period_us).saturating_mul(1000).min(window_ns);
            put(&mut reported.data, "used_millicores", millicores(used, ran_ns));
            if let Some(waited) = waited {
                put(&mut reported.data, "wanted_millicores", millicores(used.saturating_add(waited), ran_ns));
            }
        }
        reported.baseline = Some(normal(&before, share));
        reported.magnitude = share;
        Some(reported)
    }
}

fn known(now: u64, then: u64) -> Option<u64> {
    if now == UNKNOWN || then == UNKNOWN { None } else { now.checked_sub(then) }
}

/// Thousandths of a CPU: microseconds of CPU time per nanoseconds.
fn millicores(us: u64, of_ns: u64) -> u64 {
    u64::try_from(u128::from(us) * 1_000_000 / u128::from(of_ns.max(1))).unwrap_or(u64::MAX - 1)
}
