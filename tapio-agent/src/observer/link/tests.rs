use tapio_common::{Header, WHOLE_NODE};

use super::*;

const SECOND: u64 = SECOND_NS;

fn at(second: u64) -> Namespace {
    let header =
        Header { time_ns: second * SECOND, cgroup_id: 7, pid: 0, suppressed: 0, comm: [0; 16].into() };
    Namespace { listen_overflows: 0, untracked: 0, evicted: 0, ..Namespace::unknown(4_026_532_206, header) }
}

/// What samples lead to.
fn judged(samples: impl IntoIterator<Item = Namespace>) -> Vec<Anomaly> {
    let mut link = Link::new(&Settings::default());
    let mut out = Vec::new();
    for sample in samples {
        link.observe(bytemuck::bytes_of(&sample), &mut out).unwrap();
    }
    out
}

#[test]
fn connections_that_are_dropped_are_reported_once_with_the_longest_queue() {
    let full =
        |second, listen_overflows| Namespace { listen_overflows, longest: 129, port: 8080, ..at(second) };
    // What was dropped before the first sample is nothing.
    let reported = judged([full(10, 500), full(20, 512), full(30, 512)]);
    assert_eq!(reported.len(), 1, "{reported:#?}");
    let overflow = &reported[0];
    assert_eq!((overflow.kind.name, overflow.cgroup_id), ("link.listen_overflow", 7));
    let numbers = ["dropped_connections", "window_ms", "port", "waiting_connections"]
        .map(|key| overflow.data.number(key));
    assert_eq!(numbers, [Some(12), Some(10_000), Some(8080), Some(129)]);
    let empty = Namespace { listen_overflows: 1, ..at(20) };
    assert_eq!(judged([at(10), empty])[0].data.number("port"), None, "the queue is empty again");
}

#[test]
fn a_table_is_full_if_packets_are_dropped_and_it_is() {
    let of = |second, untracked, tracked| Namespace { untracked, tracked, tracked_limit: 1000, ..at(second) };
    let reported = judged([of(10, 0, 990), of(20, 40, 950)]);
    assert_eq!((reported[0].kind.name, reported[0].severity), ("link.conntrack_full", Severity::Error));
    let numbers = ["dropped_packets", "tracked_connections", "limit_connections"]
        .map(|key| reported[0].data.number(key));
    assert_eq!(numbers, [Some(40), Some(950), Some(1000)]);
    assert!(judged([of(10, 0, 1000), of(20, 0, 1000)]).is_empty(), "full, and nothing is dropped");
    assert!(judged([of(10, 0, 100), of(20, 3, 120)]).is_empty(), "dropped for another reason");
    let evicting = judged([of(10, 0, 1000), Namespace { evicted: 7, ..of(20, 0, 1000) }]);
    assert_eq!(
        (evicting[0].severity, evicting[0].data.number("evicted_connections")),
        (Severity::Warning, Some(7))
    );
    assert!(judged([of(10, 0, UNKNOWN), of(20, 3, UNKNOWN)]).is_empty());
}

#[test]
fn drops_are_compared_with_what_they_were() {
    let reason = Reason::UdpReceiveBuffer as usize;
    let samples = |per_look: fn(u64) -> u64| {
        let mut sum = 0;
        (1..40_u64).map(move |look| {
            sum += per_look(look);
            let mut sample = at(look * 10);
            sample.drops[reason] = sum;
            sample
        })
    };
    assert!(judged(samples(|_| 0)).is_empty());
    assert!(judged(samples(|_| 5_000)).is_empty(), "it was always so");
    assert!(judged(samples(|look| if look % 10 == 0 { 40 } else { 0 })).is_empty(), "that is few");
    let reported = judged(samples(|look| if (20..23).contains(&look) { 2_000 } else { 0 }));
    assert!(!reported.is_empty());
    assert_eq!(reported[0].kind.name, "link.packet_drops");
    assert_eq!(reported[0].data.text("reason"), Some("udp_receive_buffer"));
    assert_eq!(reported[0].data.number("rate_packets"), Some(12_000));
    assert_eq!(reported[0].time_ns, 210 * SECOND, "the second look in a row");
}

#[test]
fn a_namespace_that_is_gone_is_forgotten_and_a_counter_that_goes_back_is_no_anomaly() {
    let mut link = Link::new(&Settings::default());
    let mut out = Vec::new();
    let before = Namespace { listen_overflows: 100, ..at(10) };
    for sample in [before, at(20)] {
        link.observe(bytemuck::bytes_of(&sample), &mut out).unwrap();
    }
    assert!(out.is_empty());
    assert_eq!(link.wake_at(), Some(SWEEP_NS));
    link.tick(20 * SECOND + FORGET_NS, &mut out);
    assert_eq!(link.wake_at(), None);
    assert_eq!(link.observe(&[0; 3], &mut out), Err(Malformed::Size(3)));
}

#[test]
fn the_node_is_an_owner() {
    let of = |second, listen_overflows| {
        let mut sample = Namespace { listen_overflows, ..at(second) };
        sample.header.cgroup_id = WHOLE_NODE;
        sample
    };
    assert_eq!(judged([of(10, 0), of(20, 1)])[0].cgroup_id, WHOLE_NODE);
}
