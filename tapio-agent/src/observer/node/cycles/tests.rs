use tapio_common::{Header, WHOLE_NODE, node::cycles::Usage};

use super::*;
use crate::observer::{
    Observer as _,
    node::{Node, Settings},
};

const SECOND: u64 = 1_000_000_000;

fn sample(id: u64, at_s: u64, cpu_us: u64) -> Sample {
    let header =
        Header { time_ns: at_s * SECOND, cgroup_id: id, pid: 0, suppressed: 0, comm: [0; 16].into() };
    Sample { cpu_us, ..Sample::unknown(kind::CGROUP, header) }
}

fn event(kind: u32, id: u64, at_s: u64, since_s: u64) -> CyclesEvent {
    let mut cpi = Baseline::default();
    for time in 0..30 {
        cpi.observe(1024 + time % 2, time, &tapio_common::baseline::Limits::DEFAULT);
    }
    CyclesEvent {
        header: Header { cgroup_id: id, suppressed: 2, ..sample(id, at_s, 0).header },
        kind,
        extra_kind: extra::STALLED,
        usage: Usage {
            cycles: 20_000_000_000,
            instructions: 8_000_000_000,
            extra: 5_000_000_000,
            ns: 5 * SECOND,
            counted_ns: 4 * SECOND,
            slices: 1000,
            ..Usage::default()
        },
        window_ns: 10 * SECOND,
        since_ns: since_s * SECOND,
        cpi,
    }
}

/// Cgroups with this use before and after second 200, in thousandths of a CPU, reported at second 230.
fn watched(groups: &[(u64, u64, u64)]) -> Vec<Anomaly> {
    watched_each(5, groups)
}

/// The same, with this many seconds between samples.
fn watched_each(apart_s: usize, groups: &[(u64, u64, u64)]) -> Vec<Anomaly> {
    let mut node = Node::new(&Settings::default());
    let mut out = Vec::new();
    for at_s in (100..=230).step_by(apart_s) {
        for (id, before, after) in groups {
            let used_us = at_s.min(200) * before * 1000 + at_s.saturating_sub(200) * after * 1000;
            node.observe(bytemuck::bytes_of(&sample(*id, at_s, used_us)), &mut out).unwrap();
        }
    }
    assert!(out.is_empty(), "{out:?}");
    node.observe(bytemuck::bytes_of(&event(kind::CPI_OUTLIER, 7, 230, 200)), &mut out).unwrap();
    out
}

fn named(groups: &[(u64, u64, u64)]) -> Option<u64> {
    watched(groups)[0].noisy_neighbour
}

#[test]
fn two_samples_since_it_began_show_a_neighbour_and_one_does_not() {
    let named = |apart_s| watched_each(apart_s, &[(7, 500, 500), (8, 200, 1700)])[0].noisy_neighbour;
    assert_eq!([5, 10, 12, 15].map(named), [Some(8); 4]);
    assert_eq!(named(25), None, "it may be over");
}

#[test]
fn an_outlier_is_reported_with_its_numbers_and_the_neighbour_that_rose() {
    let reported = watched(&[(7, 500, 500), (8, 200, 1700), (9, 900, 900)]);
    assert_eq!(reported.len(), 1);
    let reported = &reported[0];
    assert_eq!(
        (reported.kind.name, reported.cgroup_id, reported.noisy_neighbour),
        ("node.cpi_outlier", 7, Some(8))
    );
    assert_eq!(reported.data.get("cpi"), Some(&tapio_occurrence::Value::Real(2.5)));
    let numbers = ["used_millicores", "stalled_percent", "counted_percent", "since_ms"];
    assert_eq!(numbers.map(|key| reported.data.number(key)), [Some(500), Some(25), Some(80), Some(30_000)]);
    assert_eq!(reported.data.number("noisy_neighbour_millicores"), Some(1700));
    assert_eq!(reported.data.number("noisy_neighbour_rise_millicores"), Some(1500));
    assert_eq!((reported.count, reported.baseline.as_ref().unwrap().ratio), (3, Some(2.5)));
}

#[test]
fn nobody_is_named_who_did_not_rise_with_it_or_did_not_rise_alone() {
    assert_eq!(named(&[(8, 1700, 1700)]), None, "it was there before");
    assert_eq!(named(&[(8, 200, 250)]), None, "too little");
    assert_eq!(named(&[(8, 1700, 200)]), None, "it fell");
    assert_eq!(named(&[(8, 100, 600), (9, 100, 600)]), None, "which of the two");
    assert_eq!(named(&[(8, 100, 600), (9, 100, 300)]), Some(8));
    assert_eq!(named(&[(7, 200, 1700)]), None, "itself");
    assert_eq!(named(&[]), None);
}

#[test]
fn a_burst_that_ended_is_no_reason_and_a_new_group_may_be() {
    let mut used = Used::default();
    for at_s in (100..=235).step_by(5) {
        // Two CPUs for ten seconds, then none.
        let used_us = at_s.clamp(200, 210) * 2_000_000;
        used.look(&sample(8, at_s, used_us));
    }
    assert_eq!(used.rise(200 * SECOND, false), None);

    let mut new = Used::default();
    for at_s in (205..=235).step_by(5) {
        new.look(&sample(8, at_s, (at_s - 205) * 1_000_000));
    }
    assert_eq!(new.rise(200 * SECOND, true), Some(Rise { rise: 1000, now: 1000 }));
    assert_eq!(new.rise(200 * SECOND, false), None, "what it used before is not known");
    // Its counter started over, so it is another cgroup.
    new.look(&sample(8, 240, 0));
    assert_eq!(new.rise(200 * SECOND, true), None);
}

#[test]
fn samples_that_come_often_reach_as_far_back() {
    let mut used = Used::default();
    for at_s in 100..=230 {
        used.look(&sample(8, at_s, at_s.saturating_sub(200) * 1_000_000));
    }
    assert!(used.samples.len() <= MAX_SAMPLES);
    let rise = used.rise(200 * SECOND, false).unwrap();
    assert!((900..=1000).contains(&rise.rise), "{rise:?}");
}

#[test]
fn the_node_is_reported_for_where_no_group_explains_it() {
    let mut node = Node::new(&Settings::default());
    let mut out = Vec::new();
    let observe = |node: &mut Node, event: CyclesEvent, out: &mut Vec<Anomaly>| {
        node.observe(bytemuck::bytes_of(&event), out).unwrap();
    };
    observe(&mut node, event(kind::IPC_DEGRADED, WHOLE_NODE, 100, 70), &mut out);
    node.tick(109 * SECOND, &mut out);
    assert!(out.is_empty(), "it waits for a window");
    node.tick(110 * SECOND, &mut out);
    assert_eq!(out.len(), 1);
    assert_eq!((out[0].kind.name, out[0].data.text("of")), ("node.ipc_degraded", Some("node")));
    assert_eq!(out[0].data.get("ipc"), Some(&tapio_occurrence::Value::Real(0.4)));

    out.clear();
    observe(&mut node, event(kind::IPC_DEGRADED, WHOLE_NODE, 200, 170), &mut out);
    observe(&mut node, event(kind::CPI_OUTLIER, 7, 205, 175), &mut out);
    observe(&mut node, event(kind::IPC_DEGRADED, WHOLE_NODE, 210, 170), &mut out);
    node.tick(230 * SECOND, &mut out);
    assert_eq!(out.iter().map(|reported| reported.kind.name).collect::<Vec<_>>(), ["node.cpi_outlier"]);
}

#[test]
fn a_group_explains_the_node_until_it_is_reported_again() {
    use tapio_service::setting::Time;
    // The default is a window of ten seconds and a cool-down of sixty.
    for (cooldown, explained_s) in [(60, 70), (0, 30)] {
        for (after_s, reported) in [(explained_s - 1, 0), (explained_s, 1)] {
            let mut settings = Settings::default();
            settings.cycles.cooldown = Time::of_ns(cooldown * SECOND);
            let (mut node, mut out) = (Node::new(&settings), Vec::new());
            node.observe(bytemuck::bytes_of(&event(kind::CPI_OUTLIER, 7, 200, 170)), &mut out).unwrap();
            out.clear();
            let degraded = event(kind::IPC_DEGRADED, WHOLE_NODE, 200 + after_s, 190);
            node.observe(bytemuck::bytes_of(&degraded), &mut out).unwrap();
            node.tick(400 * SECOND, &mut out);
            assert_eq!(out.len(), reported, "{after_s} s after it, with a cool-down of {cooldown} s");
        }
    }
}

#[test]
fn what_is_of_the_node_is_of_no_group() {
    let mut node = Node::new(&Settings::default());
    for wrong in
        [event(kind::CPI_OUTLIER, WHOLE_NODE, 1, 1), event(kind::IPC_DEGRADED, 7, 1, 1), event(9, 7, 1, 1)]
    {
        assert!(node.observe(bytemuck::bytes_of(&wrong), &mut Vec::new()).is_err(), "{wrong:?}");
    }
    assert!(node.observe(&[0; 60], &mut Vec::new()).is_err());
}
