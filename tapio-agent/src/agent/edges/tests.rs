use std::net::IpAddr;

use serde_json::{Value as Json, json};
use tapio_common::baseline::{Baseline, Limits};

use super::*;
use crate::config::{Config, Flag};

const SCHEMA: &str = include_str!("../../../../docs/occurrence.schema.json");
const SECOND: u64 = 1_000_000_000;

fn due(address: &str, port: u16, direction: u32, contacts: Contacts, path: Option<Path>) -> Due {
    let address = match address.parse().unwrap() {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let destination = Destination { address, netns: 0, port, direction: direction as u16 };
    Due { edge: Edge { cgroup_id: 1, destination }, contacts, path }
}

fn path(samples: u64) -> Path {
    let mut rtt = Baseline::default();
    for n in 0..samples {
        rtt.observe(400 + n % 3, n, &Limits::DEFAULT);
    }
    let key = Destination { address: [0; 16], netns: 0, port: 0, direction: 0 };
    Path { key, tag: 1, segments: 9, rtt }
}

fn workload() -> Workload {
    Workload {
        namespace: Some("shop".into()),
        pod: Some("checkout-7d9f8c6b5-x2x4z".into()),
        pod_uid: Some("9df0e5bd-2f9a-4a8e-9c1c-5b3f7f0a1d2e".into()),
        container: Some("app".into()),
        container_id: Some("3f4e1a0b9c8d7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f".into()),
        runtime: Some("containerd".into()),
        image: Some("registry.example/shop/checkout:1.42.0".into()),
        owner_kind: Some("Deployment".into()),
        owner: Some("checkout".into()),
        ..Workload::default()
    }
}

fn sent(workload: Option<Workload>, edges: Vec<Due>, more: u64, now_ns: u64) -> (Json, usize) {
    let flag = |path, text: &str| Flag { name: "", path, text: text.to_owned() };
    let flags = [flag("node_name", "node-a"), flag("cluster", "prod")];
    let identity = Identity::new(&Config::load(None, [], &flags).unwrap());
    let digest = Digest { workload: workload.map(Arc::new), edges, more };
    let mut line = Vec::new();
    let occurrence = occurrence(&digest, &identity, now_ns);
    occurrence.write_json(&mut line);
    assert_eq!(Occurrence::read_json(&line).unwrap().data, occurrence.data);
    let json: Json = serde_json::from_slice(&line).unwrap();
    let schema: Json = serde_json::from_str(SCHEMA).unwrap();
    let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
    let wrong: Vec<_> = validator.iter_errors(&json).map(|error| error.to_string()).collect();
    assert!(wrong.is_empty(), "{wrong:?}\n{json:#}");
    (json, line.len())
}

#[test]
fn a_digest_has_the_edges_of_a_workload() {
    let contacts =
        Contacts { first_ns: 10 * SECOND, last_ns: 70 * SECOND, connections: 12, ..Contacts::default() };
    let edges = vec![
        due("10.0.3.7", 6379, direction::OUTBOUND, contacts, Some(path(40))),
        due("2001:db8::7", 8080, direction::INBOUND, contacts, Some(path(0))),
        due("10.0.3.8", 0, direction::OUTBOUND, Contacts { connections: 0, failures: 9, ..contacts }, None),
    ];
    let (json, _) = sent(Some(workload()), edges, 40, 100 * SECOND);
    assert_eq!(json["workload"]["pod"], "checkout-7d9f8c6b5-x2x4z");
    assert_eq!(json["message"], "checkout-7d9f8c6b5-x2x4z: 3 edges; 40 more follow");
    let edges = json!([
        {
            "direction": "outbound", "address": "10.0.3.7", "port": 6379, "since_ms": 90_000, "last_ms": 30_000,
            "connections": 12, "failures": 0, "rtt_us": 401, "rtt_deviation_us": json["data"]["edges"][0]["rtt_deviation_us"],
        },
        {
            "direction": "inbound", "address": "2001:db8::7", "port": 8080, "since_ms": 90_000, "last_ms": 30_000,
            "connections": 12, "failures": 0,
        },
        {
            "direction": "outbound", "address": "10.0.3.8", "since_ms": 90_000, "last_ms": 30_000,
            "connections": 0, "failures": 9,
        },
    ]);
    assert_eq!(json["data"], json!({ "edges": edges, "more": 40 }));
}

#[test]
fn without_a_known_workload_it_has_none() {
    let contacts = Contacts { connections: 1, ..Contacts::default() };
    let (json, _) = sent(None, vec![due("127.0.0.1", 80, direction::OUTBOUND, contacts, None)], 0, SECOND);
    assert!(json.get("workload").is_none());
    assert_eq!(json["message"], "unknown workload: 1 edge");
}

/// The numbers of docs/operations.md: 100 pods with 25 destinations and 5 clients each, all of which last.
#[test]
fn the_bytes_of_a_busy_node_are_known() {
    let mut reported = Reported::restored(&[]);
    let of_pod = |cgroup_id: u64| {
        (0..30u16).map(move |n| {
            let direction = if n < 25 { direction::OUTBOUND } else { direction::INBOUND };
            let due = due(&format!("10.1.{cgroup_id}.{n}"), 8000 + n, direction, Contacts::default(), None);
            Edge { cgroup_id, ..due.edge }
        })
    };
    let edges: Vec<Edge> = (1..=100).flat_map(of_pod).collect();
    let (mut digests, mut bytes) = (0, 0);
    for minute in 1..=60 {
        let now_ns = minute * 60 * SECOND;
        let contacts = Contacts { first_ns: SECOND, last_ns: now_ns, connections: 70, ..Contacts::default() };
        let seen = edges.iter().map(|edge| (*edge, contacts));
        let choice = reported.choose(seen, now_ns, |_| Some(path(40)));
        let mut of_pods: HashMap<u64, Vec<Due>> = HashMap::new();
        choice.due.into_iter().for_each(|due| of_pods.entry(due.edge.cgroup_id).or_default().push(due));
        digests += of_pods.len();
        bytes += of_pods.into_values().map(|edges| sent(Some(workload()), edges, 1, now_ns).1).sum::<usize>();
    }
    println!("a busy node: {} edges, {digests} digests, {bytes} bytes an hour", edges.len());
    assert!(bytes < 1_000_000, "{bytes}");
}

/// The numbers of docs/operations.md.
#[test]
fn its_size_is_known() {
    let contacts = Contacts { first_ns: 0, last_ns: 3500 * SECOND, connections: 1234, ..Contacts::default() };
    let of = |count: u16| {
        let edge = |n| {
            due(
                &format!("10.12.{}.{}", n / 250, n % 250),
                5432,
                direction::OUTBOUND,
                contacts,
                Some(path(40)),
            )
        };
        sent(Some(workload()), (0..count).map(edge).collect(), 0, 3600 * SECOND).1
    };
    let (one, all) = (of(1), of(200));
    let each = (all - one) / 199;
    println!("a digest: {one} bytes with one edge, {all} with 200: {each} for each");
    assert!(one < 1000 && each < 180, "{one}, {each}");
}
