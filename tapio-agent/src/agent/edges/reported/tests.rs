use std::{cell::Cell, net::Ipv4Addr};

use tapio_common::{baseline::Baseline, network::direction};

use super::*;

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;

fn edge(cgroup_id: u64, host: u32, port: u16) -> Edge {
    let address = Ipv4Addr::from_bits(0x0a00_0000 + host).to_ipv6_mapped().octets();
    let destination = Destination { address, netns: 0, port, direction: direction::OUTBOUND as u16 };
    Edge { cgroup_id, destination }
}

fn connected(at_ns: u64) -> Contacts {
    Contacts { first_ns: at_ns, last_ns: at_ns, connections: 1, ..Contacts::default() }
}

fn failed(at_ns: u64) -> Contacts {
    Contacts { first_ns: at_ns, last_ns: at_ns, failures: 1, ..Contacts::default() }
}

fn nothing_yet() -> Reported {
    Reported::restored(&[])
}

/// Chooses where no destination has round trips.
fn choose(reported: &mut Reported, seen: &[(Edge, Contacts)], now_ns: u64) -> Choice {
    reported.choose(seen.iter().copied(), now_ns, |_| None)
}

fn edges(choice: &Choice) -> Vec<Edge> {
    choice.due.iter().map(|due| due.edge).collect()
}

#[test]
fn an_edge_is_due_when_it_is_new_and_an_hour_later_if_it_has_had_a_connection_since() {
    let mut reported = nothing_yet();
    let known = edge(1, 1, 80);
    let at = |last_ns| [(known, Contacts { last_ns, ..connected(5) })];
    assert_eq!(edges(&choose(&mut reported, &at(5), 10)), [known]);
    assert!(choose(&mut reported, &at(5), MINUTE).due.is_empty());
    // It lasts, but was reported only a moment ago.
    assert!(choose(&mut reported, &at(MINUTE), 2 * MINUTE).due.is_empty());
    assert!(choose(&mut reported, &at(MINUTE), AGAIN_NS + 9).due.is_empty());
    assert_eq!(edges(&choose(&mut reported, &at(MINUTE), AGAIN_NS + 10)), [known]);
    // It is over.
    assert!(choose(&mut reported, &at(MINUTE), 9 * AGAIN_NS).due.is_empty());
}

#[test]
fn an_edge_with_an_open_connection_is_due_each_hour_in_which_segments_were_sent() {
    let mut reported = nothing_yet();
    let pool = [(edge(1, 1, 5432), connected(5))];
    let segments = Cell::new(7);
    let lookups = Cell::new(0);
    let path = |key: &Destination| {
        lookups.set(lookups.get() + 1);
        Some(Path { key: *key, tag: 1, segments: segments.get(), rtt: Baseline::default() })
    };
    let mut is_due = |now_ns| reported.choose(pool, now_ns, path).due.len() == 1;
    assert!(is_due(10));
    assert!(!is_due(10 + AGAIN_NS), "nothing was sent");
    segments.set(9);
    assert!(!is_due(10 + AGAIN_NS + MINUTE), "that is looked up once an hour");
    assert!(is_due(10 + 2 * AGAIN_NS));
    assert!(!is_due(10 + 2 * AGAIN_NS + MINUTE));
    assert_eq!(lookups.get(), 4);
}

#[test]
fn a_count_of_ports_alone_is_no_edge() {
    let ports = Contacts { ports: 3, connections: 0, ..connected(5) };
    assert!(choose(&mut nothing_yet(), &[(edge(1, 1, 0), ports)], 10).due.is_empty());
}

#[test]
fn three_thousand_destinations_of_a_pod_take_fifteen_digests_oldest_first() {
    let mut reported = nothing_yet();
    // Of a map without order.
    let seen: Vec<_> =
        (0..3000).map(|n| n * 7 % 3000).map(|n| (edge(1, n, 443), connected(n.into()))).collect();
    let mut told = Vec::new();
    for digest in 1..=15 {
        let choice = choose(&mut reported, &seen, digest * MINUTE);
        assert_eq!(choice.due.len(), MAX_DUE);
        assert_eq!(choice.waiting.get(&1).copied().unwrap_or_default(), 3000 - digest * MAX_DUE as u64);
        told.extend(choice.due.iter().map(|due| due.contacts.first_ns));
    }
    assert_eq!(told, (0..3000).collect::<Vec<u64>>());
    assert!(choose(&mut reported, &seen, 16 * MINUTE).due.is_empty());
}

#[test]
fn neither_many_destinations_nor_a_scan_delay_what_others_have() {
    let mut reported = nothing_yet();
    let crawler = (0..3000).map(|n| (edge(1, n, 443), connected(n.into())));
    let scan = (0..3000).map(|n| (edge(1, 100_000 + n, 22), failed(n.into())));
    let later = 9000;
    let others = [(edge(2, 1, 80), connected(later)), (edge(3, 2, 80), failed(later))];
    let seen: Vec<_> = crawler.chain(scan).chain(others).collect();
    let choice = choose(&mut reported, &seen, MINUTE);
    let all = edges(&choice);
    assert_eq!(all.len(), MAX_DUE);
    assert!(others.iter().all(|(edge, _)| all.contains(edge)));
    // Of the rest, half is of the scan.
    assert_eq!(choice.due.iter().filter(|due| due.contacts.connections == 0).count(), 1 + 6 * TURN);
    assert_eq!(choice.waiting, HashMap::from([(1, 6000 - 198)]));
}

#[test]
fn what_was_reported_is_bounded_and_survives_a_restart() {
    let mut reported = nothing_yet();
    let seen: Vec<_> = (0..40_000).map(|n| (edge(u64::from(n % 50), n, 443), connected(n.into()))).collect();
    // A kernel's maps hold less than that at a time.
    for (digest, now) in seen.chunks(MAX_DUE).zip(1..) {
        assert_eq!(choose(&mut reported, digest, now * SECOND).due.len(), MAX_DUE);
    }
    assert_eq!(reported.0.len(), MAX_REPORTED);
    let bytes = reported.bytes();
    assert_eq!(bytes.len(), MAX_REPORTED * 64);

    let mut restored = Reported::restored(&bytes);
    assert_eq!(restored.bytes(), bytes);
    // The ones reported last are known; the first ones were forgotten.
    assert!(choose(&mut restored, &seen[39_000..], 300 * SECOND).due.is_empty());
    assert_eq!(choose(&mut restored, &seen[..1], 300 * SECOND).due.len(), 1);
    assert_eq!(Reported::restored(&bytes[..100]).0.len(), 1, "a part that is cut off is left out");
}
