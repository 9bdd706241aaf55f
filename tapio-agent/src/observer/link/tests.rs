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
fn drops_of_a_device_are_its_own() {
    let mut link = Link::new(&Settings::default());
    let mut out = Vec::new();
    for look in 1..40_u64 {
        let device = |name, drops| DeviceDrops { name, drops };
        let devices = [
            device(*b"eth0\0\0\0\0\0\0\0\0\0\0\0\0", [look, look.saturating_sub(30) * 2_000]),
            // It was always so, and a device that is new has dropped nothing yet.
            device(*b"eth1\0\0\0\0\0\0\0\0\0\0\0\0", [look * 9_000, 0]),
            device(*b"eth2\0\0\0\0\0\0\0\0\0\0\0\0", [1 << 40; 2]),
        ];
        let devices = &devices[..if look < 20 { 2 } else { 3 }];
        let record = [bytemuck::bytes_of(&at(look * 10)), bytemuck::cast_slice(devices)].concat();
        link.observe(&record, &mut out).unwrap();
    }
    assert!(!out.is_empty());
    for drops in &out {
        let of = ["reason", "device"].map(|key| drops.data.text(key));
        assert_eq!(of, [Some("device_transmit"), Some("eth0")], "{drops:#?}");
        assert_eq!(drops.data.number("rate_packets"), Some(12_000));
    }
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

fn octets(text: &str) -> [u8; NEXT_HOP_BYTES] {
    text.parse::<Ipv6Addr>().unwrap().octets()
}

/// A neighbour of a namespace that does not answer, at second 12.
fn failed(namespace: u64, gateway: &str, hardware: [u8; 8]) -> NeighborFailed {
    NeighborFailed {
        header: Header { time_ns: 12 * SECOND, cgroup_id: 0, pid: 0, suppressed: 2, comm: [0; 16].into() },
        kind: kind::NEIGHBOR_FAILED,
        padding: 0,
        device: fields::Device {
            namespace,
            name: bytemuck::cast(*b"eth0\0\0\0\0\0\0\0\0\0\0\0\0"),
            index: 2,
            padding: 0,
        },
        address: bytemuck::cast(octets(gateway)),
        hardware: u64::from_ne_bytes(hardware),
    }
}

#[test]
fn of_neighbours_that_do_not_answer_gateways_are_reported_of_the_namespace() {
    let mut link = Link::new(&Settings::default());
    let mut out = Vec::new();
    let mut observe = |record: &[u8]| link.observe(record, &mut out);
    let sample = Namespace { next_hops: 2, ..at(10) };
    let sample = [bytemuck::bytes_of(&sample), &octets("::ffff:10.0.0.1"), &octets("fe80::1")].concat();
    assert_eq!(observe(&sample), Ok(()));
    let own = at(10).id;
    let known = [2, 0, 0, 0xab, 0, 7, 0, 0];
    for event in [
        failed(own, "::ffff:10.0.0.1", known),
        failed(own, "fe80::1", [0; 8]),
        failed(own, "::ffff:10.0.0.2", [0; 8]),
        failed(own + 1, "::ffff:10.0.0.1", [0; 8]),
    ] {
        assert_eq!(observe(bytemuck::bytes_of(&event)), Ok(()));
    }
    assert_eq!(observe(&sample[..sample.len() - 1]), Err(Malformed::Size(sample.len() - 1)));
    let texts: Vec<_> = out
        .iter()
        .map(|anomaly| ["gateway", "device", "hardware_address"].map(|key| anomaly.data.text(key)))
        .collect();
    assert_eq!(
        texts,
        [[Some("10.0.0.1"), Some("eth0"), Some("02:00:00:ab:00:07")], [Some("fe80::1"), Some("eth0"), None],]
    );
    assert!(out.iter().all(|anomaly| anomaly.cgroup_id == 7 && anomaly.count == 3), "{out:#?}");
    assert_ne!(out[0].detail, out[1].detail);
}

#[test]
fn a_gateway_that_several_miss_is_the_nodes() {
    let mut link = Link::new(&Settings::default());
    let mut out = Vec::new();
    let mut of_node = at(10).header;
    of_node.cgroup_id = WHOLE_NODE;
    for (id, header) in [(1, at(10).header), (2, at(10).header), (3, at(10).header), (4, of_node)] {
        let sample = Namespace { next_hops: 2, header, ..Namespace::unknown(id, header) };
        let record = [bytemuck::bytes_of(&sample), &octets("::ffff:10.0.0.1"), &octets("fe80::1")].concat();
        link.observe(&record, &mut out).unwrap();
    }
    let mut judged = |second, namespace, gateway| {
        let mut event = failed(namespace, gateway, [0; 8]);
        event.header.time_ns = second * SECOND;
        let mut out = Vec::new();
        link.observe(bytemuck::bytes_of(&event), &mut out).unwrap();
        let [one] = &out[..] else { panic!("{out:#?}") };
        let of = one.data.number("network_namespaces");
        assert_eq!(of.is_some(), one.data.text("device").is_none(), "{one:#?}");
        (one.cgroup_id == WHOLE_NODE, of, one.time_ns / SECOND)
    };
    let gateway = "::ffff:10.0.0.1";
    assert_eq!(judged(20, 1, gateway), (false, None, 20));
    assert_eq!(judged(21, 1, gateway), (false, None, 21), "the same one");
    assert_eq!(judged(22, 2, "fe80::1"), (false, None, 22), "another gateway");
    assert_eq!(judged(23, 4, gateway), (true, None, 23), "the node's own is no pod's");
    assert_eq!(judged(30, 2, gateway), (true, Some(2), 20));
    assert_eq!(judged(40, 3, gateway), (true, Some(3), 20));
    assert_eq!(judged(145, 3, gateway), (true, Some(2), 30), "of one nothing was heard for two minutes");
    assert_eq!(judged(400, 1, gateway), (false, None, 400));
}

#[test]
fn a_device_that_loses_its_carrier_often_enough_in_a_short_time_is_flapping() {
    let lost = |second, losses| CarrierLost {
        header: Header { time_ns: second * SECOND, cgroup_id: 0, ..at(0).header },
        kind: kind::CARRIER_LOST,
        losses,
        device: fields::Device {
            namespace: at(0).id,
            name: bytemuck::cast(*b"eth0\0\0\0\0\0\0\0\0\0\0\0\0"),
            index: 2,
            padding: 0,
        },
    };
    let judged = |events: &[CarrierLost]| {
        let mut link = Link::new(&Settings::default());
        let mut out = Vec::new();
        link.observe(bytemuck::bytes_of(&at(1)), &mut out).unwrap();
        for event in events {
            link.observe(bytemuck::bytes_of(event), &mut out).unwrap();
        }
        out.iter().map(|one| ["losses", "window_ms"].map(|key| one.data.number(key))).collect::<Vec<_>>()
    };
    let each =
        |seconds: u64| (1..10_u32).map(|nth| lost(u64::from(nth) * seconds, 40 + nth)).collect::<Vec<_>>();
    // What it lost before the first event is nothing; another report takes five more.
    assert_eq!(judged(&each(60)), [[Some(5), Some(240_000)]]);
    assert_eq!(judged(&each(160)), [[None; 2]; 0], "four in a window");
    assert_eq!(judged(&[lost(10, 7), lost(12, 11)]), [[Some(5), Some(2_000)]], "three came back at once");
    assert_eq!(judged(&[lost(10, 7), lost(700, 60)]), [[None; 2]; 0], "nobody knows when");
    assert_eq!(judged(&[lost(10, 7), lost(12, 1)]), [[None; 2]; 0], "another device");
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
