//! Expected rates: learns how often an owner produces a type of occurrence. While that rate is not exceeded,
//! one occurrence per window stands for all.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};
use tapio_common::baseline::{Baseline, Limits, Verdict};
use tapio_occurrence::Occurrence;

use super::{memory::Memory, owner::Owner};
use crate::{
    metrics::Metrics,
    observer::{Anomaly, baseline},
    snapshot::Contributions,
};

/// After this many empty windows an expected rate is forgotten, so a weekly event is never expected.
const MAX_IDLE_WINDOWS: u64 = 144;

/// Limits for the count per window. One more or less is never abnormal.
const LIMITS: Limits = Limits { floor: 1, min_samples: 6, ..Limits::DEFAULT };

/// The expected rates of all owners, and the expected occurrences that wait for the end of their window.
#[derive(Debug)]
pub struct Expected(Memory<Key, ExpectedRate>);

/// The part of an anomaly that is taken before its names are resolved.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    window_ns: u64,
    time_ns: u64,
    detail: u32,
}

/// Identifies an owner without the cgroup, because that changes on a restart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Key {
    kind: Cow<'static, str>,
    owner: Owner,
    comm: String,
    detail: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct ExpectedRate {
    /// The baseline of the count per window.
    #[serde(with = "baseline")]
    past: Baseline,
    window_ns: u64,
    count: u64,
}

impl Sample {
    /// `None` for types of which each anomaly is reported.
    #[must_use]
    pub fn of(anomaly: &Anomaly) -> Option<Self> {
        let window_ns = anomaly.only.expected_window_ns?;
        Some(Self { window_ns, time_ns: anomaly.time_ns, detail: anomaly.detail })
    }
}

impl Expected {
    /// The name under which snapshots store it.
    pub const NAME: &'static str = "expected";

    /// Knows no rates.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self(Memory::new(Self::NAME, metrics))
    }

    /// Restores the rates that an earlier agent stored.
    #[must_use]
    pub fn restored(metrics: Arc<Metrics>, contributions: &Contributions) -> Self {
        Self(Memory::restored(Self::NAME, metrics, contributions))
    }

    /// Stores the rates for the next snapshot.
    pub fn contribute(&self, contributions: &Contributions) {
        self.0.contribute(contributions);
    }

    /// Returns an occurrence that is not expected, and retains an expected one until its window ends.
    pub fn admit(&mut self, sample: Sample, occurrence: Occurrence) -> Option<Occurrence> {
        let Some(owner) = occurrence.workload.as_deref().and_then(Owner::of) else {
            return Some(occurrence);
        };
        let comm = occurrence.process.as_ref().map_or_else(String::new, |process| process.comm.clone());
        let key = Key { kind: occurrence.kind.clone(), owner, comm, detail: sample.detail };
        let rate = self.0.pattern(&key, || ExpectedRate {
            past: Baseline::default(),
            window_ns: sample.time_ns,
            count: 0,
        });
        rate.close(sample.time_ns, sample.window_ns);
        rate.count = rate.count.saturating_add(occurrence.count);
        // The baseline is copied for this verdict, because a window teaches it only once, when it ends.
        let verdict = { rate.past }.observe(rate.count, sample.time_ns, &LIMITS);
        if verdict != Verdict::Normal {
            return Some(occurrence);
        }
        self.0.wait(key, occurrence, sample.time_ns.saturating_add(sample.window_ns))
    }

    /// Occurrences whose window has ended; all of them at `u64::MAX`.
    pub fn over(&mut self, now_ns: u64) -> impl Iterator<Item = Occurrence> {
        self.0.over(now_ns).map(|(_, waited)| waited)
    }
}

impl ExpectedRate {
    /// Learns from the windows that have ended.
    fn close(&mut self, now_ns: u64, window_ns: u64) {
        let over = now_ns.saturating_sub(self.window_ns) / window_ns.max(1);
        if over == 0 {
            return;
        }
        if over > MAX_IDLE_WINDOWS {
            *self = Self { past: Baseline::default(), window_ns: now_ns, count: 0 };
            return;
        }
        self.past.observe(self.count, self.window_ns, &LIMITS);
        for _ in 1..over {
            self.past.observe(0, self.window_ns, &LIMITS);
        }
        self.window_ns = self.window_ns.saturating_add(over.saturating_mul(window_ns));
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{pipeline::memory::MAX, snapshot::Snapshot};
    use tapio_occurrence::{Process, Workload, samples::occurrence as sample};

    const SECOND: u64 = 1_000_000_000;
    const WINDOW: u64 = 600 * SECOND;

    fn end_of(owner: &str, time_ns: u64, status: u32) -> (Sample, Occurrence) {
        let workload = Workload {
            namespace: Some("shop".to_owned()),
            owner: Some(owner.to_owned()),
            container_id: Some(time_ns.to_string()),
            ..Workload::default()
        };
        let process = Process { pid: time_ns as u32, comm: "batch-job".to_owned() };
        let occurrence = Occurrence {
            kind: "container.exit_error".into(),
            workload: Some(Arc::new(workload)),
            process: Some(process),
            count: 1,
            ..sample()
        };
        (Sample { window_ns: WINDOW, time_ns, detail: status }, occurrence)
    }

    /// Adds one exit per minute for this many minutes. Returns how many were reported at once, and the count
    /// of all.
    fn a_day(expected: &mut Expected, from: u64, minutes: u64) -> (usize, u64) {
        let (mut reported, mut count) = (0, 0);
        for minute in 0..minutes {
            let now = (from + minute) * 60 * SECOND;
            let (taken, end) = end_of("report", now, 1);
            if let Some(end) = expected.admit(taken, end) {
                reported += 1;
                count += end.count;
            }
            count += expected.over(now).map(|late| late.count).sum::<u64>();
        }
        (reported, count)
    }

    fn is_reported(expected: &mut Expected, (taken, occurrence): (Sample, Occurrence)) -> bool {
        expected.admit(taken, occurrence).is_some()
    }

    #[test]
    fn a_job_that_fails_all_day_is_reported_until_that_is_usual_and_each_is_counted() {
        let mut expected = Expected::new(Arc::default());
        let (reported, count) = a_day(&mut expected, 1, 60);
        assert_eq!((reported, count), (60, 60), "the first hour is news");
        let (reported, count) = a_day(&mut expected, 61, 600);
        let rest: u64 = expected.over(u64::MAX).map(|late| late.count).sum();
        assert_eq!(reported, 0);
        assert_eq!(count + rest, 600, "none is lost");
    }

    #[test]
    fn far_more_than_usual_another_status_and_another_owner_are_news() {
        let mut expected = Expected::new(Arc::default());
        a_day(&mut expected, 1, 200);
        let now = 201 * 60 * SECOND;
        assert!(!is_reported(&mut expected, end_of("report", now, 1)));
        assert!(is_reported(&mut expected, end_of("report", now, 2)));
        assert!(is_reported(&mut expected, end_of("checkout", now, 1)), "of the same name and status");
        let reported = (0..100)
            .filter(|n| is_reported(&mut expected, end_of("report", now + 60 * SECOND + n, 1)))
            .count();
        assert!(reported > 50, "a storm: {reported}");
    }

    #[test]
    fn what_is_usual_is_known_to_the_next_agent() {
        let contributions =
            |snapshot: &Snapshot| Contributions::of(snapshot, &[Expected::NAME], Duration::ZERO);
        let first = contributions(&Snapshot::new().unwrap());
        let mut expected = Expected::new(Arc::default());
        a_day(&mut expected, 1, 200);
        expected.contribute(&first);

        let snapshot = Snapshot::of_contribution(Expected::NAME, first.now(Expected::NAME));
        let mut expected = Expected::restored(Arc::default(), &contributions(&snapshot));
        let now = 201 * 60 * SECOND;
        assert!(!is_reported(&mut expected, end_of("report", now, 1)));
        assert!(is_reported(&mut expected, end_of("report", now, 2)));
        let snapshot = Snapshot::of_contribution(Expected::NAME, b"[[1]]".to_vec());
        let mut expected = Expected::restored(Arc::default(), &contributions(&snapshot));
        assert!(is_reported(&mut expected, end_of("report", now, 1)), "of what is no note nothing is known");
    }

    #[test]
    fn whose_owner_is_not_known_is_news() {
        let mut expected = Expected::new(Arc::default());
        for minute in 1..200 {
            let (taken, mut end) = end_of("report", minute * 60 * SECOND, 1);
            end.workload = None;
            assert!(is_reported(&mut expected, (taken, end)));
        }
    }

    #[test]
    fn a_habit_ends() {
        let mut expected = Expected::new(Arc::default());
        a_day(&mut expected, 1, 200);
        assert_eq!(a_day(&mut expected, 10_000, 1).0, 1);
    }

    #[test]
    fn memory_is_bounded_whoever_comes() {
        let mut expected = Expected::new(Arc::default());
        let reported =
            (0..20_000).filter(|n| is_reported(&mut expected, end_of(&n.to_string(), 1, 1))).count();
        let (known, waiting) = expected.0.sizes();
        assert!(known <= MAX.get() && waiting <= MAX.get());
        assert_eq!(reported, 20_000);
    }
}
