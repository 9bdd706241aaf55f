use std::time::Duration;

use tapio_occurrence::{Process, Workload, samples::occurrence as sample};

use super::*;
use crate::{
    pipeline::{
        fold::{Fold, tests::refused},
        memory::MAX,
    },
    snapshot::Snapshot,
};

const SECOND: u64 = 1_000_000_000;

/// The path of a server's failed health checks, from folding to the report.
struct Line {
    fold: Fold,
    steady: Steady,
    owner: &'static str,
    reported: Vec<(u64, Occurrence)>,
    stopped: Vec<(u64, Occurrence)>,
}

impl Line {
    fn new() -> Self {
        Self::with(Steady::new(Arc::default()))
    }

    fn with(steady: Steady) -> Self {
        let fold = Fold::new(30 * SECOND, 600 * SECOND);
        Self { fold, steady, owner: "shop", reported: Vec::new(), stopped: Vec::new() }
    }

    fn name(&mut self, anomaly: Anomaly, now_ns: u64) {
        let taken = Sample::of(&anomaly).unwrap();
        let workload = Workload {
            owner: Some(self.owner.to_owned()),
            container_id: Some(anomaly.cgroup_id.to_string()),
            ..Workload::default()
        };
        let occurrence = Occurrence {
            kind: anomaly.kind.name.into(),
            workload: Some(Arc::new(workload)),
            process: Some(Process { pid: 7, comm: "nginx".to_owned() }),
            peer: anomaly.peer.map(|(address, port)| Peer::unresolved(address, port)),
            data: anomaly.data,
            count: anomaly.count,
            ..sample()
        };
        if let Some(now) = self.steady.admit(taken, occurrence, now_ns) {
            self.reported.push((now_ns / SECOND, now));
        }
    }

    /// Feeds resets of one container at these times.
    fn resets(&mut self, cgroup_id: u64, times_ns: impl Iterator<Item = u64>) {
        self.failures("network.connection_reset", cgroup_id, times_ns);
    }

    fn failures(&mut self, kind: &str, cgroup_id: u64, times_ns: impl Iterator<Item = u64>) {
        for now_ns in times_ns {
            let (_, kind) = crate::observer::kind(kind).unwrap();
            let anomaly = Anomaly { kind, cgroup_id, time_ns: now_ns, ..refused(80, 1) };
            let at_once = self.fold.admit(anomaly, now_ns);
            at_once.into_iter().for_each(|anomaly| self.name(anomaly, now_ns));
            self.tick(now_ns);
        }
    }

    fn tick(&mut self, now_ns: u64) {
        let mut out = Vec::new();
        self.fold.flush(now_ns, &mut out);
        out.into_iter().for_each(|anomaly| self.name(anomaly, now_ns));
        let over = self.steady.over(now_ns);
        self.reported.extend(over.into_iter().map(|late| (now_ns / SECOND, late)));
        let stopped = self.steady.stopped(now_ns);
        self.stopped.extend(stopped.into_iter().map(|stopped| (now_ns / SECOND, stopped)));
    }

    fn finish(&mut self, now_ns: u64) {
        let mut out = Vec::new();
        self.fold.finish(&mut out);
        out.into_iter().for_each(|anomaly| self.name(anomaly, now_ns));
        let over = self.steady.over(u64::MAX);
        self.reported.extend(over.into_iter().map(|late| (now_ns / SECOND, late)));
    }

    fn count(&self) -> u64 {
        self.reported.iter().map(|(_, occurrence)| occurrence.count).sum()
    }

    fn expected(&self) -> u64 {
        self.steady.patterns.metrics.anomaly_ledger().expected
    }

    fn when(&self) -> Vec<u64> {
        self.reported.iter().map(|(at, _)| *at).collect()
    }
}

/// Two per second.
fn checks(from_s: u64, to_s: u64) -> impl Iterator<Item = u64> {
    (from_s * 2..to_s * 2).map(|n| n * SECOND / 2)
}

#[test]
fn checks_that_reset_are_reported_once_and_then_as_usual_once() {
    let mut line = Line::new();
    line.resets(1, checks(1000, 3000));
    assert_eq!(line.when(), [1000, 1450], "with the window after two minutes");
    let expected = &line.reported[1].1;
    assert_eq!(expected.data.number(EXPECTED), Some(120));
    assert!(expected.message.ends_with(": 120 a minute, expected from now on"), "{}", expected.message);
    line.finish(3000 * SECOND);
    assert_eq!((line.reported.len(), line.count() + line.expected()), (2, 4000), "none is lost");
    // Another container of the same workload.
    line.resets(2, checks(3000, 4000));
    line.finish(4000 * SECOND);
    assert_eq!((line.reported.len(), line.count() + line.expected()), (2, 6000));
}

/// Somebody may not be served: that is said while it lasts, until it is expected.
#[test]
fn what_is_no_reset_does_not_wait() {
    let mut line = Line::new();
    line.failures("network.connection_timeout", 1, checks(1000, 3000));
    assert_eq!(line.when(), [1000, 1030, 1090, 1210], "with each window until two minutes have passed");
    let expected: Vec<_> = line.reported.iter().map(|(_, o)| o.data.number(EXPECTED)).collect();
    assert_eq!(expected, [None, None, None, Some(120)]);
    line.finish(3000 * SECOND);
    assert_eq!((line.reported.len(), line.count() + line.expected()), (4, 4000), "none is lost");
}

#[test]
fn that_what_was_expected_has_stopped_is_reported_once_and_then_it_is_news() {
    let mut line = Line::new();
    line.failures("network.connection_refused", 1, checks(1000, 1300));
    assert_eq!(line.when(), [1000, 1030, 1090, 1210]);
    let reported = line.count();
    (1300..4000).for_each(|second| line.tick(second * SECOND));
    // After a quiet minute the window ends, at 1360; the next would end 300 s later.
    let [(at, stopped)] = &line.stopped[..] else { panic!("{:?}", line.stopped) };
    assert_eq!((*at, stopped.kind.as_ref(), stopped.count), (1720, "network.connection_refused", 1));
    assert_eq!((stopped.severity, stopped.outcome), (Severity::Info, Outcome::Success));
    assert_eq!(stopped.data.number(STOPPED), Some(360_000));
    assert_eq!(
        (stopped.data.number(UNREPORTED), stopped.data.number(EXPECTED)),
        (Some(600 - reported), None)
    );
    let schema = serde_json::from_str(include_str!("../../../../docs/occurrence.schema.json")).unwrap();
    let mut json = serde_json::to_value(stopped).unwrap();
    json["data"]["elapsed_us"] = 12.into();
    json["data"]["error"] = "ECONNREFUSED".into();
    json["workload"]["container_id"] = "7".repeat(64).into();
    let errors: Vec<_> = jsonschema::validator_for(&schema)
        .unwrap()
        .iter_errors(&json)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:?} {json:#}");
    line.reported.clear();
    line.failures("network.connection_refused", 1, checks(4000, 4001));
    assert_eq!(line.when(), [4000]);
}

/// Only what this agent has reported as expected can stop.
#[test]
fn what_becomes_much_worse_or_goes_on_has_not_stopped() {
    let mut line = Line::new();
    line.failures("network.connection_timeout", 1, checks(1000, 1300));
    line.failures("network.connection_timeout", 1, (0..4_000).map(|n| 1300 * SECOND + n * SECOND / 40));
    (1400..1500).for_each(|second| line.tick(second * SECOND));
    assert!(line.stopped.is_empty(), "what is much worse is reported");
    let mut line = Line::new();
    line.failures("network.connection_timeout", 1, checks(1000, 9000));
    line.finish(9000 * SECOND);
    assert!(line.stopped.is_empty(), "an agent that ends");
}

#[test]
fn far_more_than_usual_is_news_at_once_and_may_become_usual() {
    let mut line = Line::new();
    line.resets(1, checks(1000, 2500));
    let before = line.count();
    line.reported.clear();
    line.resets(1, (0..100_000).map(|n| 2500 * SECOND + n * SECOND / 40));
    let when = line.when();
    assert_eq!(when[0], 2500, "{when:?}");
    assert!(when.len() <= 4, "{when:?}");
    assert_eq!(line.reported.last().unwrap().1.data.number(EXPECTED), Some(2400));
    line.finish(5000 * SECOND);
    assert_eq!(before + line.count() + line.expected(), 3_000 + 100_000, "none is lost");
}

#[test]
fn what_does_not_last_is_reported_in_full() {
    let mut line = Line::new();
    line.resets(1, checks(1000, 1080));
    assert_eq!(line.when(), [1000]);
    line.tick(1100 * SECOND);
    line.tick(1300 * SECOND);
    line.finish(1300 * SECOND);
    assert_eq!((line.count(), line.expected()), (160, 0));
    // Bursts never become expected.
    let mut line = Line::new();
    for burst in 0..8 {
        line.resets(1, (0..9).map(|n| (1000 + burst * 40) * SECOND + n));
    }
    line.finish(2000 * SECOND);
    assert_eq!((line.count(), line.expected()), (72, 0));
    assert!(line.reported.iter().all(|(_, occurrence)| occurrence.data.number(EXPECTED).is_none()));
}

#[test]
fn what_comes_back_after_a_while_and_what_another_has_is_news() {
    let mut line = Line::new();
    line.resets(1, checks(1000, 2000));
    line.tick(2100 * SECOND);
    line.reported.clear();
    line.resets(1, checks(2200, 2210));
    assert!(line.reported.is_empty());
    line.owner = "payments";
    line.resets(3, checks(2210, 2211));
    assert_eq!(line.reported.len(), 1, "of another workload");
    line.owner = "shop";
    line.tick(2300 * SECOND);
    line.reported.clear();
    line.resets(1, checks(3300, 3301));
    assert_eq!(line.when(), [3300], "a fault that was mended a quarter of an hour ago");
}

#[test]
fn what_is_usual_is_known_to_the_next_agent() {
    let contributions = |snapshot: &Snapshot| Contributions::of(snapshot, &[Steady::NAME], Duration::ZERO);
    let first = contributions(&Snapshot::new().unwrap());
    let mut line = Line::new();
    // Two minutes pass before that is reported.
    line.resets(1, checks(1000, 1260));
    line.finish(1260 * SECOND);
    assert_eq!((line.when(), line.count() + line.expected()), (vec![1000], 520));
    line.steady.contribute(&first);

    let snapshot = Snapshot::of_contribution(Steady::NAME, first.now(Steady::NAME));
    let mut line = Line::with(Steady::restored(Arc::default(), &contributions(&snapshot)));
    line.resets(1, checks(1270, 1400));
    assert_eq!(line.when(), [1300], "as expected, once");
    let snapshot = Snapshot::of_contribution(Steady::NAME, b"[[1]]".to_vec());
    let mut line = Line::with(Steady::restored(Arc::default(), &contributions(&snapshot)));
    line.resets(1, checks(1400, 1401));
    assert_eq!(line.when(), [1400], "of what is no note nothing is known");
}

#[test]
fn whose_owner_is_not_known_is_news_and_memory_is_bounded() {
    let mut steady = Steady::new(Arc::default());
    let taken = Sample { pace: None, time_ns: 1, detail: 80 };
    for _ in 0..3 {
        assert!(steady.admit(taken, Occurrence { workload: None, ..sample() }, 1).is_some());
    }
    let pace = Some(Pace { window_ns: 30 * SECOND, per_second: 1, is_even: true });
    let mut reported = 0;
    for n in 0..20_000_u32 {
        let workload = Workload { owner: Some(n.to_string()), ..Workload::default() };
        let occurrence = Occurrence { workload: Some(Arc::new(workload)), count: 1, ..sample() };
        reported += steady.admit(Sample { pace, ..taken }, occurrence, 1).map_or(0, |now| now.count);
    }
    let (known, waiting) = steady.patterns.sizes();
    assert!(known <= MAX.get() && waiting <= MAX.get());
    assert_eq!(reported + steady.over(u64::MAX).iter().map(|late| late.count).sum::<u64>(), 20_000);
}
