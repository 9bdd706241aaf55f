use tapio_common::{Header, node::UNLIMITED};

use super::*;

const SECOND: u64 = 1_000_000_000;
const MIB: u64 = 1 << 20;

/// A node that is sampled every five seconds.
struct Watched {
    node: Node,
    at_s: u64,
}

impl Watched {
    fn new() -> Self {
        Self { node: Node::new(&Settings::default()), at_s: 1_000 }
    }

    /// Another agent one hour later, which restores the state of this one.
    fn next(&self) -> Self {
        let mut next = Self { at_s: self.at_s + 3600, ..Self::new() };
        Observer::restore(&mut next.node, &Observer::snapshot(&self.node).unwrap()).unwrap();
        next
    }

    /// Feeds these samples at one point in time, and returns the anomalies.
    fn look(&mut self, samples: &[Sample]) -> Vec<Anomaly> {
        self.at_s += 5;
        let mut out = Vec::new();
        for sample in samples {
            let mut sample = *sample;
            sample.header.time_ns = self.at_s * SECOND;
            self.node.observe(bytemuck::bytes_of(&sample), &mut out).unwrap();
        }
        out
    }
}

fn group(id: u64) -> Sample {
    let header = Header { time_ns: 0, cgroup_id: id, pid: 0, suppressed: 0, comm: [0; 16].into() };
    Sample { swap_bytes: 0, swap_limit_bytes: 0, ..Sample::unknown(kind::CGROUP, header) }
}

fn node() -> Sample {
    let header = Header { cgroup_id: WHOLE_NODE, ..group(0).header };
    Sample { kind: kind::NODE, header, ..group(0) }
}

fn filled(id: u64, mib: u64) -> Sample {
    Sample { held_bytes: mib * MIB, usage_bytes: mib * MIB, limit_bytes: 512 * MIB, ..group(id) }
}

fn kinds(reported: &[Anomaly]) -> Vec<(&'static str, u64)> {
    reported.iter().map(|anomaly| (anomaly.kind.name, anomaly.cgroup_id)).collect()
}

#[test]
fn near_the_limit_is_reported_once_until_it_is_over() {
    let mut watched = Watched::new();
    assert!(watched.look(&[filled(7, 400)]).is_empty());
    let reported = watched.look(&[filled(7, 412)]);
    assert_eq!(kinds(&reported), [("node.memory_pressure", 7)]);
    assert_eq!(reported[0].data.number("held_bytes"), Some(412 * MIB));
    for mib in [450, 405, 412, 390, 450] {
        assert!(watched.look(&[filled(7, mib)]).is_empty(), "{mib}");
    }
    assert!(watched.look(&[filled(7, 380)]).is_empty());
    assert_eq!(watched.look(&[filled(7, 420)]).len(), 1, "it was over");
}

#[test]
fn cache_is_no_pressure() {
    let mut watched = Watched::new();
    for _ in 0..50 {
        let cached = Sample { usage_bytes: 512 * MIB, ..filled(7, 100) };
        assert!(watched.look(&[cached]).is_empty());
    }
}

#[test]
fn a_leak_is_reported_as_such_and_not_as_pressure_too() {
    let mut watched = Watched::new();
    let mut reported = Vec::new();
    for step in 0..100 {
        reported.extend(watched.look(&[filled(7, (50 + step * 5).min(511))]).into_iter().map(|a| (step, a)));
    }
    assert!(reported.iter().all(|(_, anomaly)| anomaly.kind.name == "node.oom_predicted"), "{reported:?}");
    assert!((2..9).contains(&reported.len()), "again when half of the time is over: {}", reported.len());
    let (step, first) = &reported[0];
    let left = (92 - step) * 5;
    assert!(left >= 30 && first.data.number("left_seconds").unwrap().abs_diff(left) < left / 5 + 5);
    assert_eq!(first.data.number("growth_bytes_per_minute"), Some(60 * MIB));
}

#[test]
fn with_swap_the_end_is_further() {
    let mut watched = Watched::new();
    for step in 0..90 {
        let swap = Sample { swap_limit_bytes: 4096 * MIB, ..filled(7, 50 + step * 5) };
        let unknown = Sample { swap_limit_bytes: UNKNOWN, ..filled(8, 50 + step * 5) };
        let reported = watched.look(&[swap, unknown]);
        assert!(reported.iter().all(|anomaly| anomaly.kind.name == "node.memory_pressure"), "{reported:?}");
    }
}

/// A cgroup that waits for a share of the time.
struct Wait(u64);

impl Wait {
    fn look(&mut self, id: u64, percent: u64) -> Sample {
        self.0 += percent * 50_000;
        let sample = if id == WHOLE_NODE { node() } else { group(id) };
        Sample {
            memory_some_us: self.0,
            memory_full_us: 0,
            io_some_us: self.0,
            io_full_us: self.0 / 2,
            ..sample
        }
    }
}

#[test]
fn waiting_above_its_past_is_reported_once_it_lasts() {
    let mut watched = Watched::new();
    let mut wait = Wait(0);
    for _ in 0..40 {
        assert!(watched.look(&[wait.look(7, 2)]).is_empty());
    }
    assert!(watched.look(&[wait.look(7, 60)]).is_empty());
    assert!(watched.look(&[wait.look(7, 60)]).is_empty());
    let reported = watched.look(&[wait.look(7, 60)]);
    assert_eq!(kinds(&reported), [("node.memory_pressure", 7), ("node.io_pressure", 7)]);
    assert_eq!(reported[1].data.number("some_percent"), Some(60));
    assert_eq!(reported[1].data.number("full_percent"), Some(30));
    assert_eq!(reported[1].baseline.as_ref().map(|normal| percent(normal.mean)), Some(2));
    // A level that lasts is learned.
    let repeats: usize = (0..100).map(|_| watched.look(&[wait.look(7, 60)]).len()).sum();
    assert!(repeats < 30, "{repeats}");
    assert!(watched.look(&[wait.look(7, 60)]).is_empty());
}

#[test]
fn waiting_that_is_usual_is_not_reported() {
    let mut watched = Watched::new();
    let mut wait = Wait(0);
    for _ in 0..200 {
        assert!(watched.look(&[wait.look(7, 55)]).is_empty());
    }
}

#[test]
fn the_nodes_waiting_is_reported_where_no_group_explains_it() {
    for explained in [true, false] {
        let mut watched = Watched::new();
        let (mut of_group, mut of_node) = (Wait(0), Wait(0));
        let mut reported = Vec::new();
        for step in 0..50 {
            let percent = if step < 40 { 1 } else { 70 };
            let group = of_group.look(7, if explained { percent } else { 1 });
            reported.extend(watched.look(&[group, of_node.look(WHOLE_NODE, percent)]));
        }
        let who = if explained { 7 } else { WHOLE_NODE };
        assert!(
            !reported.is_empty() && reported.iter().all(|anomaly| anomaly.cgroup_id == who),
            "{reported:?}"
        );
    }
}

#[test]
fn waiting_of_a_group_of_groups_is_that_of_those_in_it() {
    let mut watched = Watched::new();
    let mut wait = Wait(0);
    for step in 0..50 {
        let inner = wait.look(7, if step < 40 { 1 } else { 70 });
        assert!(watched.look(&[Sample { inner: 1, ..inner }]).is_empty());
    }
}

#[test]
fn throttling_above_its_past_is_reported_with_limit_and_demand() {
    let mut watched = Watched::new();
    let mut sample = Sample { quota_us: 50_000, period_us: 100_000, ..group(7) };
    (sample.periods, sample.throttled, sample.throttled_us, sample.cpu_us) = (0, 0, 0, 0);
    let mut run = |watched: &mut Watched, throttled: u64| {
        sample.periods += 50;
        sample.throttled += throttled;
        sample.throttled_us += throttled * 60_000;
        sample.cpu_us += 2_500_000;
        watched.look(&[sample])
    };
    for _ in 0..40 {
        assert!(run(&mut watched, 1).is_empty());
    }
    assert!(run(&mut watched, 40).is_empty());
    let reported = run(&mut watched, 40);
    assert_eq!(kinds(&reported), [("node.cpu_throttled", 7)]);
    let number = |key| reported[0].data.number(key).unwrap();
    assert_eq!((number("throttled_percent"), number("limit_millicores")), (80, 500));
    assert_eq!((number("used_millicores"), number("wanted_millicores")), (500, 980));
}

/// What has no past is compared with nothing: it has to be throttled nearly all the time, and for a minute.
#[test]
fn throttling_since_the_start_is_reported_once_of_a_cgroup_that_is_new() {
    let judged = |began_s: u64, throttled: &dyn Fn(u64) -> u64| {
        let mut watched = Watched::new();
        let mut reported = Vec::new();
        let mut sample = Sample { quota_us: 2_000, period_us: 100_000, ..group(7) };
        (sample.periods, sample.throttled, sample.throttled_us, sample.cpu_us) = (0, 0, 0, 0);
        for second in (0..600).step_by(5) {
            assert!(watched.look(&[node()]).is_empty());
            watched.at_s -= 5;
            if second < began_s {
                watched.at_s += 5;
                continue;
            }
            let throttled = throttled(second - began_s);
            let found = watched.look(&[sample]);
            reported.extend(found.into_iter().map(|one| (second - began_s, one)));
            (sample.periods, sample.throttled) = (sample.periods + 50, sample.throttled + throttled);
            (sample.throttled_us, sample.cpu_us) = (sample.throttled_us + 2_000_000, sample.cpu_us + 100_000);
        }
        reported
    };
    let reported = judged(300, &|_| 48);
    let [(60, one)] = &reported[..] else { panic!("{reported:#?}") };
    assert_eq!(
        (one.kind.name, &one.baseline, one.only.expected_window_ns.is_some()),
        ("node.cpu_throttled", &None, true)
    );
    let numbers = ["throttled_percent", "window_ms", "limit_millicores", "wanted_millicores"];
    assert_eq!(one.time_ns, 1_305 * SECOND, "when it started");
    assert_eq!(numbers.map(|key| one.data.number(key)), [Some(96), Some(60_000), Some(20), Some(420)]);

    assert!(judged(0, &|_| 48).is_empty(), "it was so when the agent started");
    assert!(judged(300, &|_| 38).is_empty(), "it is throttled less than that");
    assert!(judged(300, &|second| if second < 50 { 50 } else { 0 }).is_empty(), "it takes long to start");
    assert!(judged(300, &|second| if second < 5 { 0 } else { 20 }).is_empty());
}

/// A pod with a quota and a limit that its containers share, with these values of its own.
fn pod(sample: Sample) -> Ancestor {
    let mut name = [0; tapio_common::node::MAX_NAME];
    name[..6].copy_from_slice(b"pod-of");
    let header = Header { cgroup_id: 70, ..sample.header };
    Ancestor {
        sample: Sample { header, kind: kind::ANCESTOR, ..sample },
        cpu_cgroup: 7,
        memory_cgroup: 8,
        filled: 0,
        throttled: 0,
        cpu_levels: 1,
        memory_levels: 2,
        name,
    }
}

impl Watched {
    fn look_above(&mut self, mut above: Ancestor) -> Vec<Anomaly> {
        self.at_s += 5;
        above.sample.header.time_ns = self.at_s * SECOND;
        let mut out = Vec::new();
        self.node.observe(bytemuck::bytes_of(&above), &mut out).unwrap();
        out
    }
}

/// A container that has a quota itself explains its pod's throttling.
#[test]
fn throttling_by_the_quota_of_a_pod_is_reported_for_the_container_that_uses_most() {
    for is_explained in [false, true] {
        let mut watched = Watched::new();
        let mut sample = Sample { quota_us: 50_000, period_us: 100_000, ..group(70) };
        (sample.periods, sample.throttled, sample.throttled_us, sample.cpu_us) = (0, 0, 0, 0);
        let mut below = 0;
        let mut run = |throttled: u64| {
            sample.periods += 50;
            sample.throttled += throttled;
            sample.cpu_us += 2_500_000;
            below += if is_explained { throttled } else { 0 };
            watched.look_above(Ancestor { throttled: below, ..pod(sample) })
        };
        for _ in 0..40 {
            assert!(run(1).is_empty());
        }
        assert!(run(40).is_empty());
        let reported = run(40);
        if is_explained {
            assert!(reported.is_empty(), "{reported:?}");
            continue;
        }
        assert_eq!(kinds(&reported), [("node.cpu_throttled", 7)]);
        assert_eq!(
            (reported[0].data.number("levels_up"), reported[0].data.text("ancestor")),
            (Some(1), Some("pod-of"))
        );
        assert_ne!(reported[0].detail, 0, "no repeat of its own quota's");
    }
}

#[test]
fn memory_of_a_pod_is_reported_for_who_holds_most_where_no_limit_below_is_nearer() {
    let near = |mib, filled| Ancestor { filled, ..pod(filled_to(mib)) };
    let mut watched = Watched::new();
    assert!(watched.look_above(near(400, 0)).is_empty());
    let reported = watched.look_above(near(450, 0));
    assert_eq!(kinds(&reported), [("node.memory_pressure", 8)]);
    assert_eq!(
        (reported[0].data.number("levels_up"), reported[0].data.text("ancestor")),
        (Some(2), Some("pod-of"))
    );
    assert!(watched.look_above(near(450, 0)).is_empty());

    // Each pod's limit is the sum of its containers' limits.
    let mut watched = Watched::new();
    for step in 0..100 {
        let mib = (50 + step * 5).min(511);
        assert!(watched.look_above(near(mib, mib * 1024 / 512)).is_empty(), "{mib}");
    }
    assert_eq!(watched.look_above(near(511, 512)).len(), 1, "it is not explained any more");

    // A container without a limit of its own leaks memory.
    let mut watched = Watched::new();
    let reported: Vec<_> =
        (0..100).flat_map(|step| watched.look_above(near((50 + step * 5).min(511), 0))).collect();
    assert!(
        !reported.is_empty()
            && reported
                .iter()
                .all(|reported| (reported.kind.name, reported.cgroup_id) == ("node.oom_predicted", 8))
    );
}

fn filled_to(mib: u64) -> Sample {
    filled(70, mib)
}

#[test]
fn a_group_that_rests_has_no_share() {
    let mut watched = Watched::new();
    let sample = Sample { quota_us: 50_000, period_us: 100_000, throttled: 0, periods: 0, ..group(7) };
    for step in 0..100 {
        assert!(watched.look(&[Sample { periods: step / 20, throttled: step / 20, ..sample }]).is_empty());
    }
}

#[test]
fn what_is_unknown_says_nothing_and_what_goes_back_begins_anew() {
    let mut watched = Watched::new();
    let mut wait = Wait(1 << 40);
    for _ in 0..30 {
        watched.look(&[wait.look(7, 1), Sample { limit_bytes: UNLIMITED, ..filled(8, 511) }, group(9)]);
    }
    wait.0 = 0;
    for _ in 0..30 {
        assert!(watched.look(&[wait.look(7, 1), Sample { limit_bytes: 0, ..filled(8, 511) }]).is_empty());
    }
    // The clock goes back.
    watched.at_s = 0;
    assert!(watched.look(&[filled(7, 511)]).is_empty());
}

#[test]
fn groups_that_are_gone_are_forgotten() {
    let mut watched = Watched::new();
    for id in 1..=MAX_GROUPS as u64 + 10 {
        watched.look(&[filled(id, 1)]);
    }
    assert_eq!(watched.node.groups.len(), MAX_GROUPS);
    watched.node.tick(watched.at_s * SECOND + FORGET_NS, &mut Vec::new());
    assert!(watched.node.groups.is_empty());
}

#[test]
fn what_is_normal_is_known_to_the_next_agent() {
    let mut watched = Watched::new();
    let mut wait = Wait(0);
    for _ in 0..40 {
        watched.look(&[wait.look(7, 2)]);
    }
    // A run that has not ended is not stored.
    watched.look(&[wait.look(7, 60)]);
    watched.look(&[wait.look(7, 60)]);
    let mut next = watched.next();
    // The state is stored again before the first sample.
    let mut next = {
        next.node.tick(next.at_s * SECOND, &mut Vec::new());
        next.next()
    };
    assert!(next.look(&[wait.look(7, 2)]).is_empty(), "a first look has no share");
    assert!(next.look(&[wait.look(7, 60)]).is_empty());
    assert!(next.look(&[wait.look(7, 60)]).is_empty());
    let reported = next.look(&[wait.look(7, 60)]);
    assert_eq!(kinds(&reported), [("node.memory_pressure", 7), ("node.io_pressure", 7)]);
    assert_eq!(reported[1].baseline.as_ref().map(|normal| percent(normal.mean)), Some(2));
    // A cgroup that appears much later may have the reused id of a vanished one.
    let mut later = watched.next();
    for _ in 0..20 {
        later.look(&[node()]);
    }
    assert!((0..10).all(|_| later.look(&[wait.look(7, 60)]).is_empty()));
}

#[test]
fn what_was_reported_is_not_reported_again_by_the_next_agent() {
    let mut watched = Watched::new();
    watched.look(&[filled(7, 400)]);
    assert_eq!(watched.look(&[filled(7, 450)]).len(), 1);
    let mut soon = Watched { at_s: watched.at_s, ..watched.next() };
    assert!(soon.look(&[filled(7, 450)]).is_empty());
    assert_eq!(watched.next().look(&[filled(7, 450)]).len(), 1, "an hour later it may be another time");

    // The growth continues.
    let mut watched = Watched::new();
    let grown = |step: u64| filled(8, 50 + step * 5);
    let step = (0..90).find(|step| !watched.look(&[grown(*step)]).is_empty()).unwrap();
    let mut next = Watched { at_s: watched.at_s, ..watched.next() };
    assert!((1..6).all(|more| next.look(&[grown(step + more)]).is_empty()));
    let reported: Vec<_> = (6..40).flat_map(|more| next.look(&[grown(step + more)])).collect();
    assert_eq!(kinds(&reported)[..1], [("node.oom_predicted", 8)], "half of the time is over");
}

#[test]
fn a_heap_that_is_collected_is_no_leak_to_the_next_agent() {
    let rise = |watched: &mut Watched| -> usize {
        (0..69).map(|step| watched.look(&[filled(7, 60 + step * 5)]).len()).sum()
    };
    let mut watched = Watched::new();
    assert!(rise(&mut watched) > 0, "who has not seen it come back takes it for a leak");
    watched.look(&[filled(7, 60)]);
    assert_eq!(rise(&mut watched), 0);
    watched.look(&[filled(7, 60)]);
    let known = Observer::snapshot(&watched.node).unwrap();
    assert!(
        known.len() < 400,
        "no looks are kept where nothing rises: {}",
        String::from_utf8(known).unwrap()
    );
    assert_eq!(rise(&mut watched.next()), 0);
}

#[test]
fn what_nobody_has_noted_is_refused() {
    let mut node = Node::new(&Settings::default());
    assert!(Observer::restore(&mut node, b"{\"7\":{}}").is_err());
    assert!(Observer::restore(&mut node, b"").is_err());
}

#[test]
fn what_is_no_sample_is_malformed() {
    let mut node = Node::new(&Settings::default());
    let mut out = Vec::new();
    assert_eq!(node.observe(&[0; 3], &mut out), Err(Malformed::Size(3)));
    let odd = Sample { kind: 9, ..group(7) };
    assert_eq!(node.observe(bytemuck::bytes_of(&odd), &mut out), Err(Malformed::Kind(9)));
    let mixed = Ancestor { sample: Sample { kind: kind::CGROUP, ..group(7) }, ..pod(group(7)) };
    assert_eq!(node.observe(bytemuck::bytes_of(&mixed), &mut out), Err(Malformed::Kind(kind::CGROUP)));
    let mixed = Sample { kind: kind::NODE, ..group(7) };
    assert_eq!(node.observe(bytemuck::bytes_of(&mixed), &mut out), Err(Malformed::Kind(kind::NODE)));
}

fn service(name: &str) -> Sample {
    let number = tapio_common::node::SERVICES.iter().position(|of| *of == name).unwrap() as u64 + 1;
    Sample { service: number, ..group(900 + number) }
}

#[test]
fn a_service_that_does_not_come_back_is_reported_once() {
    let mut watched = Watched::new();
    let (kubelet, proxy) = (service("kubelet.service"), service("kube-proxy.service"));
    assert!(watched.look(&[kubelet, proxy, node()]).is_empty());
    // Restarted, as another cgroup.
    assert!(watched.look(&[proxy, node()]).is_empty());
    assert!(watched.look(&[proxy, node()]).is_empty());
    assert!(watched.look(&[Sample { header: group(7).header, ..kubelet }, proxy, node()]).is_empty());

    let mut reported = Vec::new();
    for _ in 0..20 {
        reported.extend(watched.look(&[proxy, node()]));
    }
    assert_eq!(kinds(&reported), [("node.service_stopped", WHOLE_NODE)]);
    assert_eq!(reported[0].data.text("unit"), Some("kubelet.service"));
    assert_eq!(reported[0].data.number("since_ms"), Some(15_000));

    // It runs again, and stops again; now with another one.
    assert!(watched.look(&[kubelet, proxy, node()]).is_empty());
    let reported: Vec<_> = (0..20).flat_map(|_| watched.look(&[node()])).collect();
    assert_eq!(reported.len(), 2);
    assert_ne!(reported[0].detail, reported[1].detail, "they are not repeats of each other");
}

#[test]
fn a_scan_that_is_late_is_no_stopped_service() {
    let mut watched = Watched::new();
    assert!(watched.look(&[service("kubelet.service"), node()]).is_empty());
    watched.at_s += 600;
    assert!(watched.look(&[node()]).is_empty(), "one scan may have come while it was restarted");
    assert!(watched.look(&[service("kubelet.service"), node()]).is_empty());
}
