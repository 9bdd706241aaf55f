//! CFS throttling: the share of periods in which a cgroup had to wait because its quota was used up.

use serde::{Deserialize, Serialize};
use tapio_common::node::{Sample, UNKNOWN, UNLIMITED};

use super::{CPU_THROTTLED, anomaly, normal, percent, put};
use crate::observer::{
    Anomaly, Only,
    gauge::{Gauge, Sustained},
};

/// A share of fewer periods says nothing.
const LEAST_PERIODS: u64 = 10;
/// A cgroup that is new has no past. Its quota does not suffice if it was throttled in at least this share of its periods, 80 % in
/// 1/1024,
const START_SHARE: u64 = 819;
/// in each sample of the first minute: longer than most programs take to start.
const START_NS: u64 = 60 * 1_000_000_000;
/// Jobs that are throttled each time they run are reported once in such a window.
const EXPECTED_WINDOW_NS: u64 = 600 * 1_000_000_000;

/// The state of one cgroup.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Cpu {
    gauge: Gauge,
    /// The sample that the next share starts from, and how often cgroups below had used up quotas of their
    /// own by then.
    #[serde(skip)]
    from: Option<(Sample, u64)>,
    #[serde(skip)]
    start: Start,
}

/// How a cgroup that is new was throttled so far.
#[derive(Debug, Default)]
enum Start {
    /// It has not run yet.
    #[default]
    Idle,
    /// All the time, since this sample.
    Throttled((Sample, u64)),
    /// It ran without being throttled, or was reported.
    Over,
}

impl Cpu {
    /// Judges a sample. `below` is the number of periods in which cgroups below had used up quotas of their
    /// own. If these are at least half of its own throttled periods, they explain its throttling.
    pub(super) fn judge(
        &mut self,
        sample: &Sample,
        below: u64,
        is_new: bool,
        limits: &Sustained,
    ) -> Option<Anomaly> {
        let has_quota = !matches!(sample.quota_us, UNKNOWN | UNLIMITED) && sample.period_us != UNKNOWN;
        if !has_quota || sample.periods == UNKNOWN || sample.throttled == UNKNOWN {
            self.from = None;
            return None;
        }
        let from = self.from.filter(|(from, _)| {
            let is_same = (from.quota_us, from.period_us) == (sample.quota_us, sample.period_us);
            is_same && from.periods <= sample.periods && from.throttled <= sample.throttled
        });
        let Some(from) = from else {
            self.from = Some((*sample, below));
            if let Start::Throttled(_) = self.start {
                self.start = Start::Idle;
            }
            return None;
        };
        // An idle cgroup has no periods. Its baseline is of the time when it runs.
        if sample.periods - from.0.periods < LEAST_PERIODS {
            return None;
        }
        self.from = Some((*sample, below));
        let (share, ..) = throttled(&from.0, sample);
        let judged = self.gauge.judge(share, sample.header.time_ns, limits);
        if let Some(since) = self.start.judge(sample, from, share, is_new) {
            let only = Only { expected_window_ns: Some(EXPECTED_WINDOW_NS), ..Only::ALL };
            let reported = report(&since, sample, below)?;
            return Some(Anomaly { time_ns: since.0.header.time_ns, only, ..reported });
        }
        let before = judged??;
        Some(Anomaly { baseline: Some(normal(&before, share)), ..report(&from, sample, below)? })
    }
}

impl Start {
    /// Judges a share. Returns since when, once a new cgroup has been throttled for long enough.
    fn judge(
        &mut self,
        sample: &Sample,
        from: (Sample, u64),
        share: u64,
        is_new: bool,
    ) -> Option<(Sample, u64)> {
        let since = match self {
            _ if !is_new || share < START_SHARE => None,
            Self::Idle => Some(from),
            Self::Throttled(since) => Some(*since),
            Self::Over => None,
        };
        *self = since.map_or(Self::Over, Self::Throttled);
        let since = since?;
        if sample.header.time_ns.saturating_sub(since.0.header.time_ns) < START_NS {
            return None;
        }
        *self = Self::Over;
        Some(since)
    }
}

/// The share of periods between two samples in which a cgroup was throttled, in 1/1024; how many these were, and of how many.
fn throttled(from: &Sample, to: &Sample) -> (u64, u64, u64) {
    let (periods, throttled) = (to.periods - from.periods, to.throttled - from.throttled);
    let share = u128::from(throttled) * 1024 / u128::from(periods.max(1));
    (share.min(1024) as u64, throttled, periods)
}

/// The anomaly of the time between two samples, each with what cgroups below had used up. `None` if these explain it.
fn report((from, below_before): &(Sample, u64), sample: &Sample, below: u64) -> Option<Anomaly> {
    let (share, throttled, periods) = throttled(from, sample);
    if below.saturating_sub(*below_before).saturating_mul(2) >= throttled.max(1) {
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
    reported.magnitude = share;
    Some(reported)
}

fn known(now: u64, then: u64) -> Option<u64> {
    if now == UNKNOWN || then == UNKNOWN { None } else { now.checked_sub(then) }
}

/// Thousandths of a CPU: microseconds of CPU time per nanoseconds.
fn millicores(us: u64, of_ns: u64) -> u64 {
    u64::try_from(u128::from(us) * 1_000_000 / u128::from(of_ns.max(1))).unwrap_or(u64::MAX - 1)
}
