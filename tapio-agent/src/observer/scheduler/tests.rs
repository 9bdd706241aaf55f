use tapio_service::setting::Node as _;

use super::{
    scrape::{MAX_BUCKETS, Pods},
    *,
};

const SECOND: u64 = 1_000_000_000;

/// A scheduler that is scraped every 15 s.
struct Watched {
    scheduler: Scheduler,
    now: Scrape,
}

impl Watched {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(settings: &[(&str, &str)]) -> Self {
        let mut of = Settings::default();
        for (key, value) in settings {
            of.assign(key, value).unwrap();
        }
        let mut now = Scrape::empty(1_000 * SECOND);
        (now.started_ms, now.attempts, now.attempts_us, now.preemptions, now.victims) =
            (1_795_930_343_900, 0, 0, 0, 0);
        for (at, queue) in ["active", "backoff", "gated", "unschedulable"].iter().enumerate() {
            now.queues[at] = Pods::new(queue, 0);
        }
        Self { scheduler: Scheduler::new(&of), now }
    }

    fn scrape(&mut self, change: impl FnOnce(&mut Scrape)) -> Vec<Anomaly> {
        self.now.header.time_ns += 15 * SECOND;
        change(&mut self.now);
        let mut out = Vec::new();
        self.scheduler.observe(bytemuck::bytes_of(&self.now), &mut out).unwrap();
        out
    }

    /// Scrapes this often without any report.
    #[track_caller]
    fn quiet(&mut self, times: usize, change: impl Fn(&mut Scrape)) {
        for at in 0..times {
            let reported = self.scrape(&change);
            assert!(reported.is_empty(), "{at}: {reported:?}");
        }
    }

    fn next(&self) -> Self {
        let mut scheduler = Scheduler::new(&Settings::default());
        scheduler.restore(&Observer::snapshot(&self.scheduler).unwrap()).unwrap();
        Self { scheduler, now: self.now }
    }
}

/// Ten attempts of this duration each, in 1 ms and less, up to 1 s, or more.
fn attempts(us: u64) -> impl Fn(&mut Scrape) {
    move |scrape| {
        scrape.attempts += 10;
        scrape.attempts_us += 10 * us;
        for (at, le_us) in [1_000, 1_000_000, UNKNOWN].into_iter().enumerate() {
            scrape.buckets[at].le_us = le_us;
            scrape.buckets[at].count += if us <= le_us { 10 } else { 0 };
        }
    }
}

fn queue(at: usize, pods: u64) -> impl Fn(&mut Scrape) {
    move |scrape| scrape.queues[at].pods = pods
}

fn unschedulable(pods: u64) -> impl Fn(&mut Scrape) {
    queue(3, pods)
}

fn kinds(reported: &[Anomaly]) -> Vec<&str> {
    reported.iter().map(|anomaly| anomaly.kind.name).collect()
}

#[test]
fn slow_attempts_are_reported_when_they_last() {
    let mut watched = Watched::new();
    watched.quiet(20, attempts(900));
    watched.quiet(1, attempts(400_000));
    let reported = watched.scrape(attempts(400_000));
    assert_eq!(kinds(&reported), ["scheduler.latency"]);
    let expected = [("mean_us", 400_000_u64), ("p99_us", 1_000_000), ("attempts", 10), ("window_ms", 15_000)];
    assert_eq!(reported[0].data, Data::from(expected.map(|(key, value)| (key, value.into()))));
    assert_eq!(reported[0].baseline.as_ref().map(|normal| (normal.mean, &*normal.unit)), Some((900, "us")));
    assert_eq!((reported[0].cgroup_id, reported[0].pid), (WHOLE_NODE, 0));
    // The last bucket has no bound.
    assert_eq!(watched.scrape(attempts(7_000_000))[0].data.number("p99_us"), None);
}

#[test]
fn few_attempts_are_judged_together() {
    let mut watched = Watched::new();
    let few = |us: u64| {
        move |scrape: &mut Scrape| {
            scrape.attempts += 4;
            scrape.attempts_us += 4 * us;
        }
    };
    watched.quiet(61, few(900));
    let reported: Vec<_> = (0..6).flat_map(|_| watched.scrape(few(400_000))).collect();
    assert_eq!(kinds(&reported), ["scheduler.latency"]);
    assert_eq!(
        (reported[0].data.number("attempts"), reported[0].data.number("window_ms")),
        (Some(12), Some(45_000))
    );
}

#[test]
fn jitter_and_idleness_are_normal() {
    let mut watched = Watched::new();
    for round in 0..200 {
        watched.quiet(1, attempts(2_000 + round % 7 * 5_000));
        watched.quiet(round as usize % 3, |_| {});
    }
}

#[test]
fn a_restarted_scheduler_starts_over() {
    for restart in [
        (|scrape: &mut Scrape| scrape.started_ms += 60_000) as fn(&mut Scrape),
        |scrape| scrape.started_ms = 0,
        |_| {},
    ] {
        let mut watched = Watched::new();
        watched.quiet(20, attempts(900));
        watched.quiet(1, |scrape| {
            restart(scrape);
            (scrape.attempts, scrape.attempts_us, scrape.preemptions, scrape.victims) = (3, 9_000_000, 0, 0);
            scrape.buckets = [Bucket { le_us: 0, count: 0 }; MAX_BUCKETS];
        });
        watched.quiet(20, attempts(900));
    }
    // More than before, by another process: no difference between the two is that of one.
    let mut watched = Watched::new();
    watched.quiet(20, attempts(900));
    watched.quiet(1, |scrape| {
        scrape.started_ms += 60_000;
        (scrape.attempts_us, scrape.victims) = (1_000_000_000, 500);
    });
    watched.quiet(3, attempts(900));
    // The start is computed, and moves with the clock.
    watched.quiet(3, |scrape| scrape.started_ms += 900);
    watched.scrape(attempts(400_000));
    assert_eq!(kinds(&watched.scrape(attempts(400_000))), ["scheduler.latency"]);
}

#[test]
fn series_that_appear_count_from_zero_and_those_that_are_missing_stay() {
    let mut watched = Watched::new();
    let missing = |scrape: &mut Scrape| {
        (scrape.attempts, scrape.attempts_us, scrape.victims) = (UNKNOWN, UNKNOWN, UNKNOWN);
    };
    watched.quiet(20, missing);
    let reported =
        watched.scrape(|scrape| (scrape.attempts, scrape.attempts_us, scrape.victims) = (10, 9_000, 2));
    assert_eq!(kinds(&reported), ["scheduler.preemptions"]);
    assert_eq!(reported[0].data.number("victim_pods"), Some(2));
    watched.quiet(2, missing);
    watched.quiet(2, |scrape| (scrape.attempts, scrape.attempts_us, scrape.victims) = (10, 9_000, 2));
}

#[test]
fn a_deep_queue_is_reported_by_its_name() {
    let mut watched = Watched::new();
    watched.quiet(20, queue(0, 3));
    watched.quiet(2, queue(0, 90));
    let reported = watched.scrape(|scrape| (scrape.queues[0].pods, scrape.queues[1].pods) = (90, 9));
    assert_eq!(kinds(&reported), ["scheduler.queue_depth"], "nine are below the floor");
    assert_eq!(reported[0].data, Data::from([("queue", "active".into()), ("pending_pods", 90_u64.into())]));
    assert_eq!(reported[0].baseline.as_ref().map(|normal| normal.mean), Some(3));
    // It becomes normal, and the next agent knows that.
    (0..20).for_each(|_| drop(watched.scrape(queue(0, 90))));
    watched.quiet(3, queue(0, 90));
    watched.next().quiet(20, queue(0, 90));
    // Another queue is no repeat of this one.
    watched.quiet(2, |scrape| (scrape.queues[0].pods, scrape.queues[2].pods) = (900, 900));
    let reported = watched.scrape(|_| {});
    assert_eq!(reported.len(), 2);
    assert_ne!(reported[0].detail, reported[1].detail);
}

#[test]
fn pods_that_stay_unschedulable_are_reported_once() {
    let mut watched = Watched::new();
    watched.quiet(20, |_| {});
    // Placed within seconds, or in the next scrape but one.
    for _ in 0..5 {
        watched.quiet(2, unschedulable(3));
        watched.quiet(4, unschedulable(0));
    }
    watched.quiet(2, |scrape| {
        scrape.queues[3].pods = 12;
        scrape.plugins[0] = Pods::new("NodeResourcesFit", 9);
        scrape.plugins[1] = Pods::new("TaintToleration", 3);
        scrape.plugins[2] = Pods::new("NodeName", 0);
    });
    let reported = watched.scrape(|_| {});
    assert_eq!(kinds(&reported), ["scheduler.unschedulable"]);
    let plugin =
        |name: &str, pods: u64| Data::from([("plugin", name.to_owned().into()), ("pods", pods.into())]);
    let plugins = Value::List(vec![plugin("NodeResourcesFit", 9), plugin("TaintToleration", 3)]);
    let expected =
        [("unschedulable_pods", 12_u64.into()), ("since_ms", 30_000_u64.into()), ("plugins", plugins)];
    assert_eq!(reported[0].data, Data::from(expected));
    watched.quiet(50, |_| {});
    // While they are tried again they are in another queue.
    watched.quiet(1, unschedulable(0));
    watched.quiet(50, unschedulable(12));
    watched.quiet(5, unschedulable(23));
    assert_eq!(kinds(&watched.scrape(unschedulable(24))), ["scheduler.unschedulable"], "twice as many");
    watched.quiet(50, unschedulable(24));
    watched.next().quiet(50, unschedulable(24));
    // All were placed. What comes then is new, if it is more than has become normal.
    watched.quiet(60, unschedulable(0));
    watched.quiet(2, unschedulable(1));
    assert_eq!(kinds(&watched.scrape(unschedulable(1))), ["scheduler.unschedulable"]);
}

#[test]
fn pods_that_are_unschedulable_from_the_first_scrape_on() {
    let mut watched = Watched::with(&[("unschedulable_after", "5m")]);
    watched.quiet(20, unschedulable(2));
    let reported = watched.scrape(unschedulable(2));
    assert_eq!((kinds(&reported), reported[0].baseline.clone()), (vec!["scheduler.unschedulable"], None));
    watched.quiet(100, unschedulable(2));
}

#[test]
fn pods_that_are_gone_do_not_explain_others() {
    let mut watched = Watched::new();
    // Nothing is pending, and still these count: the pods were deleted, which old versions do not notice.
    watched.quiet(20, |scrape| {
        scrape.plugins[0] = Pods::new("NodeAffinity", 40);
        scrape.plugins[1] = Pods::new("NodePorts", 5);
    });
    watched.quiet(2, |scrape| {
        scrape.queues[3].pods = 2;
        scrape.plugins[1] = Pods::new("NodePorts", 7);
    });
    let named = |reported: &[Anomaly]| reported[0].data.get("plugins").cloned();
    let ports =
        Value::List(vec![Data::from([("plugin", "NodePorts".to_owned().into()), ("pods", 2_u64.into())])]);
    assert_eq!(named(&watched.scrape(|_| {})), Some(ports));
    // An agent that has not seen it without pending pods leaves out what cannot be.
    let mut watched = Watched { scheduler: Scheduler::new(&Settings::default()), ..watched };
    watched.quiet(2, |_| {});
    assert_eq!(named(&watched.scrape(|_| {})), None);
}

#[test]
fn preempted_pods_are_reported_where_that_is_rare() {
    let mut watched = Watched::new();
    watched.quiet(20, |_| {});
    let preempt = |scrape: &mut Scrape| {
        (scrape.preemptions, scrape.victims) = (scrape.preemptions + 2, scrape.victims + 3)
    };
    let reported = watched.scrape(preempt);
    assert_eq!(kinds(&reported), ["scheduler.preemptions"]);
    let expected = [("victim_pods", 3_u64), ("attempts", 2), ("window_ms", 15_000)];
    assert_eq!(reported[0].data, Data::from(expected.map(|(key, value)| (key, value.into()))));
    (0..30).for_each(|_| drop(watched.scrape(preempt)));
    watched.quiet(5, preempt);
    // After a gap it is not known how many there were in an interval.
    watched.now.header.time_ns += 600 * SECOND;
    watched.quiet(1, |scrape| scrape.victims += 500);
}

#[test]
fn what_is_no_scrape_is_malformed() {
    let mut scheduler = Scheduler::new(&Settings::default());
    let mut out = Vec::new();
    assert_eq!(scheduler.observe(&[0; 3], &mut out), Err(Malformed::Size(3)));
    let zeros = vec![0; size_of::<Scrape>()];
    assert_eq!(scheduler.observe(&zeros, &mut out), Err(Malformed::Kind(0)));
    assert!(Observer::restore(&mut scheduler, b"{}").is_err() && out.is_empty());
}
