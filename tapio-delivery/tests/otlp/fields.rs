//! A real collector writes down exactly the fields that were sent.

use std::{collections::BTreeSet, fs, time::Duration};

use serde_json::{Value, json};
use tapio_delivery::{State, Trouble, otlp::Switch};

use crate::{
    PROTOCOLS,
    agent::{Agent, oom_kill, otlp, outlier, spike, timeout, until},
    collector::{Collector, collector_or_skip, flat},
};

fn keys<'a>(collector: &[(&'a str, String); 2], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, String)> {
    let more = more.iter().map(|(key, text)| (*key, (*text).to_owned()));
    collector.iter().cloned().chain(more).collect()
}

fn agent(keys: &[(&str, String)]) -> Agent {
    Agent::new(&keys.iter().map(|(key, text)| (*key, text.as_str())).collect::<Vec<_>>())
}

fn uid(record: &Value) -> String {
    flat(&record["attributes"])["log.record.uid"].as_str().unwrap().to_owned()
}

/// The expected Resource, record without its attributes, and attributes.
fn expected(ids: &[String; 4]) -> [(Value, Value, Value); 4] {
    let record = |number: i32, text: &str, body: &str, name: &str| {
        json!({
            "timeUnixNano": "1795141098123456789", "observedTimeUnixNano": "1795141098123456789",
            "severityNumber": number, "severityText": text, "body": {"stringValue": body}, "eventName": name,
        })
    };
    let node = |more: Value| {
        let mut node = json!({
            "k8s.cluster.name": "prod", "k8s.node.name": "node-a", "host.name": "node-a",
            "deployment.environment.name": "live one",
        });
        node.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        node
    };
    [
        (
            node(json!({
                "k8s.namespace.name": "shop", "k8s.pod.name": "checkout-7d9f-x2x", "k8s.pod.uid": "4c2e6c0e",
                "k8s.container.name": "app", "k8s.deployment.name": "checkout",
                "container.id": "8f14e45fceea", "container.runtime.name": "containerd",
                "container.image.name": "registry.example:5000/shop/checkout", "container.image.tags": ["1.4"],
                "service.name": "checkout", "service.namespace": "shop", "service.version": "1.4",
                "service.instance.id": "shop.checkout-7d9f-x2x.app", "team": "pay",
            })),
            record(13, "warning", "checkout: RTT to redis.default:6379 is 41 ms", "tapio.network.rtt_spike"),
            json!({
                "log.record.uid": ids[0], "process.pid": 4242, "process.executable.name": "checkout",
                "network.transport": "tcp", "network.type": "ipv4", "network.io.direction": "transmit",
                "network.peer.address": "10.0.3.7", "network.peer.port": 6379,
                "network.local.address": "10.0.1.2", "network.local.port": 40312,
                "server.address": "10.0.3.7", "server.port": 6379,
                "k8s.dst.type": "Service", "k8s.dst.name": "redis", "k8s.dst.namespace": "default",
                "k8s.dst.owner.type": "StatefulSet", "k8s.dst.owner.name": "redis",
                "tapio.outcome": "unknown", "tapio.data.rtt_us": 41000, "tapio.data.certain_us": 40000,
                "tapio.data.direction": "outbound", "tapio.value": 41000, "tapio.ratio": 8.2, "tapio.count": 3,
                "tapio.baseline.mean": 5000, "tapio.baseline.deviation": 400, "tapio.baseline.unit": "us",
                "tapio.baseline.samples": 18211,
            }),
        ),
        (
            node(json!({ "systemd.unit.name": "nginx.service", "service.name": "nginx" })),
            record(17, "error", "nginx was killed", "tapio.container.oom_kill"),
            json!({
                "log.record.uid": ids[1], "process.pid": 4242, "process.executable.name": "checkout",
                "process.exit.code": 137, "error.type": "oom_kill", "tapio.outcome": "failure",
                "tapio.data.oom_score_adj": -5, "tapio.data.users.pid": [7, 8],
                "tapio.data.users.comm": ["hog", "nginx"], "tapio.data.users.rss_bytes": [1073741824, null],
                "tapio.actor.process.pid": 7, "tapio.actor.process.comm": "hog",
                "tapio.actor.workload.unit": "hog.service", "tapio.count": 1,
            }),
        ),
        (
            node(json!({ "service.name": "tapio" })),
            record(13, "warning", "node-a needs 1.9 cycles per instruction", "tapio.node.cpi_outlier"),
            json!({
                "log.record.uid": ids[2], "tapio.outcome": "unknown", "tapio.data.cpi": 1.94,
                "tapio.data.noisy_neighbour.pod": "batch-0", "tapio.baseline.mean": 900, "tapio.baseline.deviation": 40,
                "tapio.baseline.unit": "cycles/1024 instructions", "tapio.baseline.samples": 40, "tapio.count": 1,
            }),
        ),
        (
            node(json!({ "service.name": "tapio" })),
            record(21, "critical", "no answer", "tapio.network.connection_timeout"),
            json!({
                "log.record.uid": ids[3], "process.pid": 4242, "process.executable.name": "checkout",
                "network.transport": "tcp", "network.type": "ipv6", "network.io.direction": "receive",
                "network.peer.address": "fd00::7", "network.peer.port": 443,
                "network.local.address": "fd00::1", "network.local.port": 8080,
                "server.address": "fd00::1", "server.port": 8080, "error.type": "ETIMEDOUT",
                "tapio.outcome": "timeout", "tapio.data.elapsed_us": 3021500, "tapio.data.direction": "inbound",
                "tapio.count": 1,
            }),
        ),
    ]
}

#[tokio::test]
async fn a_real_collector_writes_down_what_was_sent_field_for_field() {
    let collector = collector_or_skip!("a_real_collector_writes_down_what_was_sent_field_for_field");
    for (protocol, _) in PROTOCOLS {
        for compression in ["none", "gzip"] {
            let more = [
                ("compression", compression),
                ("service_name", "tapio"),
                ("resource_attributes", "deployment.environment.name=live%20one"),
            ];
            let mut agent = agent(&keys(&collector.keys(protocol), &more));
            let ids = [spike(), oom_kill(), outlier(), timeout()].map(|occurrence| agent.give(occurrence));
            let ledger = agent.settled().await;
            assert_eq!((ledger.sent, ledger.rejected), (4, 0), "{protocol} {compression}");
            let records = collector.records();
            for (id, (resource, record, attributes)) in ids.iter().zip(expected(&ids)) {
                let mut found = records.iter().filter(|(_, _, record)| uid(record) == *id);
                let (of, scope, got) = found.next().expect("it arrived");
                assert!(found.next().is_none(), "{id} arrived twice");
                assert_eq!(*scope, json!({ "name": "tapio", "version": env!("CARGO_PKG_VERSION") }));
                // Without a cluster name the attribute is absent.
                let mut resource = resource;
                if record["severityNumber"] == 21 {
                    resource.as_object_mut().unwrap().remove("k8s.cluster.name");
                }
                assert_eq!(flat(&of["attributes"]), resource, "{protocol} {compression}");
                assert_eq!(flat(&got["attributes"]), attributes, "{protocol} {compression}");
                let mut got = got.clone();
                got.as_object_mut().unwrap().retain(|key, value| key != "attributes" && *value != "");
                assert_eq!(got, record, "{protocol} {compression}");
            }
        }
    }
}

#[tokio::test]
async fn the_deprecated_attribute_is_there_when_asked_for() {
    let collector = collector_or_skip!("the_deprecated_attribute_is_there_when_asked_for");
    let asked = Switch::True.to_string();
    let mut agent = agent(&keys(&collector.keys("grpc"), &[("event_name", &asked)]));
    agent.send(1);
    agent.settled().await;
    let records = collector.records();
    assert_eq!(flat(&records[0].2["attributes"])["event.name"], "tapio.network.rtt_spike");
}

#[tokio::test]
async fn many_arrive_once_each() {
    let collector = collector_or_skip!("many_arrive_once_each");
    for (protocol, _) in PROTOCOLS {
        let mut agent = agent(&keys(&collector.keys(protocol), &[("compression", "gzip")]));
        agent.send(5000);
        let ledger = agent.settled().await;
        assert_eq!((ledger.received, ledger.sent), (5000, 5000), "{protocol} {ledger:?}");
        let ours =
            |(_, _, record): &(Value, Value, Value)| Some(uid(record)).filter(|id| agent.ids.contains(id));
        let arrived: Vec<_> = collector.records().iter().filter_map(ours).collect();
        assert_eq!(arrived.len(), 5000, "{protocol}");
        assert_eq!(arrived.into_iter().collect::<BTreeSet<_>>(), agent.ids);
    }
}

#[tokio::test]
async fn a_collector_that_is_away_gets_it_when_it_is_back() {
    let collector = collector_or_skip!("a_collector_that_is_away_gets_it_when_it_is_back");
    for (protocol, _) in PROTOCOLS {
        let mut agent = agent(&keys(&collector.keys(protocol), &[]));
        agent.send(10);
        agent.settled().await;
        collector.stop();
        let why = agent.retrying().await;
        assert!(why.contains("cannot be reached") && why.contains("refused"), "{why}");
        agent.send(10);
        collector.resume();
        let ledger = agent.settled().await;
        assert_eq!((ledger.received, ledger.sent), (21, 21), "{ledger:?}");
        let arrived: BTreeSet<_> = collector.records().iter().map(|(_, _, record)| uid(record)).collect();
        assert!(arrived.is_superset(&agent.ids), "{protocol}");
    }
}

#[tokio::test]
async fn a_collector_that_cannot_write_is_sent_it_again() {
    let collector = collector_or_skip!("a_collector_that_cannot_write_is_sent_it_again");
    for (protocol, _) in PROTOCOLS {
        let mut agent = agent(&keys(&collector.keys(protocol), &[]));
        let _ = fs::remove_file(collector.lines());
        fs::create_dir(collector.lines()).unwrap();
        let why = agent.retrying().await;
        assert!(why.contains("is a directory"), "{why}");
        assert_eq!(agent.status().ledger.rejected, 0);
        fs::remove_dir(collector.lines()).unwrap();
        let ledger = agent.settled().await;
        assert_eq!((ledger.sent, ledger.rejected), (1, 0), "{protocol}");
        assert_eq!(collector.records().len(), 1);
        until(|| agent.status().state, |state| *state == State::Ok).await;
    }
}

#[tokio::test]
async fn a_real_collector_is_asked_and_the_wrong_port_is_reported() {
    let collector = collector_or_skip!("a_real_collector_is_asked_and_the_wrong_port_is_reported");
    let within = Duration::from_secs(10);
    let [grpc, http] = PROTOCOLS.map(|(protocol, _)| collector.keys(protocol)[0].1.clone());
    for (endpoint, protocol, expected) in [
        (&grpc, "grpc", None),
        (&http, "http/protobuf", None),
        (&http, "grpc", Some("speaks HTTP/1 only")),
        (&grpc, "http/protobuf", Some("speaks HTTP/2 only")),
        (&grpc.replace("http:", "https:"), "grpc", Some("does not speak TLS")),
        (&http.replace("http:", "https:"), "http/protobuf", Some("does not speak TLS")),
        (&format!("{http}/wrong"), "http/protobuf", Some("has nothing at /wrong")),
    ] {
        let asked = otlp(&[("endpoint", endpoint), ("protocol", protocol)]).ask(within).await;
        match (asked, expected) {
            (Ok(()), None) => {}
            (Err(Trouble { what, remedy: Some(_), .. }), Some(expected)) if what.contains(expected) => {}
            (found, _) => panic!("{endpoint} {protocol}: {found:?}, not {expected:?}"),
        }
    }
}
