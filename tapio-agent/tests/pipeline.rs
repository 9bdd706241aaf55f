//! From the bytes of the ring buffer to the lines that leave the node: each kind of occurrence in its text
//! and its schema, and counters that add up for any input.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "pipeline/container.rs"]
mod container;
#[path = "pipeline/cpu.rs"]
mod cpu;
#[path = "pipeline/dns.rs"]
mod dns;
#[path = "pipeline/health.rs"]
mod health;
#[path = "pipeline/line.rs"]
mod line;
#[path = "pipeline/node.rs"]
mod node;
#[path = "pipeline/record.rs"]
mod record;
#[path = "pipeline/scheduler.rs"]
mod scheduler;
#[path = "pipeline/storage.rs"]
mod storage;

use std::{collections::BTreeMap, sync::LazyLock};

use jsonschema::Validator;
use line::{Line, QUEUE, count};
use proptest::prelude::*;
use record::{KINDS, TIME_NS, WAYS, event, normal, owned, plausible};
use serde_json::{Value, json};
use tapio_common::network::{
    NetworkEvent,
    direction::{INBOUND, OUTBOUND, UNKNOWN},
    kind,
};

const SECOND: u64 = 1_000_000_000;
const SIZE: usize = size_of::<NetworkEvent>();

static SCHEMA: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../docs/occurrence.schema.json")).unwrap());
static VALIDATOR: LazyLock<Validator> =
    LazyLock::new(|| jsonschema::options().should_validate_formats(true).build(&SCHEMA).unwrap());

#[track_caller]
fn conforms(occurrence: &Value) {
    let errors: Vec<_> =
        VALIDATOR.iter_errors(occurrence).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{occurrence:#}");
}

/// The one occurrence of an event; it conforms to the schema.
async fn reported(event: &NetworkEvent) -> Value {
    reported_on(&mut Line::new(), event).await
}

async fn reported_on(line: &mut Line, event: &NetworkEvent) -> Value {
    line.event(event);
    line.tick(TIME_NS + 2 * SECOND);
    let [occurrence] = line.occurrences().await.try_into().unwrap();
    conforms(&occurrence);
    occurrence
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_conforms_either_way_in_both_families_with_and_without_owner() {
    let mut line = Line::new();
    let mut types = BTreeMap::new();
    for kind in KINDS {
        for (direction, local, remote) in WAYS {
            for pid in [0, 4242] {
                line.fold = tapio_agent::pipeline::fold::Fold::new(SECOND, SECOND);
                let event = plausible(kind, direction, local, remote);
                let event = if pid == 0 { event } else { owned(event, line.cgroup_id, pid, b"checkout") };
                let occurrence = reported_on(&mut line, &event).await;
                assert_eq!(occurrence.get("process").is_some(), pid != 0);
                assert_eq!(occurrence.get("workload").is_some(), pid != 0);
                *types.entry(occurrence["type"].as_str().unwrap().to_owned()).or_insert(0) += 1;
            }
        }
    }
    let known: Vec<&str> = SCHEMA["properties"]["type"]["enum"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t.as_str().unwrap())
        .filter(|t| tapio_agent::observer::of(t) == "network")
        .collect();
    assert_eq!(types.len(), known.len());
    assert!(known.iter().all(|name| types.get(*name) == Some(&8)), "{types:?}");
    assert_eq!(line.events(), 72);
    assert_eq!(line.metric("tapio_unattributed_total", &[]), 36);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_refuses_what_it_should() {
    let good = reported(&plausible(kind::RTT_SPIKE, OUTBOUND, WAYS[0].1, WAYS[0].2)).await;
    let wrong: [(&str, Value); 7] = [
        ("/data/surprise", json!(1)),
        ("/data/rtt_us", json!("41000")),
        ("/data/direction", json!("sideways")),
        ("/type", json!("network.unheard_of")),
        ("/peer/address", json!("10.0.0")),
        ("/outcome", json!("failure")),
        ("/id", json!("short")),
    ];
    for (place, value) in wrong {
        let mut bad = good.clone();
        let (parent, key) = place.rsplit_once('/').unwrap();
        bad.pointer_mut(parent).unwrap()[key] = value;
        assert!(!VALIDATOR.is_valid(&bad), "{place}");
    }
    for key in ["data", "baseline", "peer", "id"] {
        let mut bad = good.clone();
        bad.as_object_mut().unwrap().remove(key);
        assert!(!VALIDATOR.is_valid(&bad), "without {key}");
    }
}

/// A real agent reported the documentation's examples; they must remain possible output.
#[test]
fn documented_examples_conform() {
    let pages = [include_str!("../../README.md"), include_str!("../../docs/observers.md")];
    let examples = pages.iter().flat_map(|page| page.lines()).filter(|line| line.starts_with("{\"id\""));
    let examples: Vec<Value> = examples.map(|line| serde_json::from_str(line).unwrap()).collect();
    examples.iter().for_each(conforms);
    assert_eq!(examples.len(), 20);
}

/// The observers' tables, the schema and the documentation's headings name the same types with the same
/// severity.
#[test]
fn every_type_is_documented() {
    let page = include_str!("../../docs/observers.md");
    let schema: Vec<&str> =
        SCHEMA["properties"]["type"]["enum"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let kinds: Vec<_> = tapio_agent::observer::KINDS.iter().flat_map(|(_, kinds)| *kinds).collect();
    let mut names: Vec<&str> = kinds.iter().map(|kind| kind.name).collect();
    // No observer's: operations.md has them.
    names.extend(["tapio.heartbeat", "network.edges"]);
    names.sort_unstable();
    let mut known = schema.clone();
    known.sort_unstable();
    assert_eq!(names, known);
    for kind in kinds {
        let word = |value: Value| value.as_str().unwrap().to_owned();
        let severity = word(serde_json::to_value(kind.severity).unwrap());
        let outcome = word(serde_json::to_value(kind.outcome).unwrap());
        let is_said = |line: &str| line.contains(&severity) && line.contains(&outcome);
        let heading = page.lines().find(|line| line.starts_with(&format!("#### {} (", kind.name)));
        let row = page.lines().find(|line| line.starts_with(&format!("| `{}` |", kind.name)));
        let line = heading.or(row).unwrap_or_else(|| panic!("{} is not documented", kind.name));
        assert!(is_said(line), "{severity}, {outcome}: {line}");
    }
}

#[test]
fn every_service_of_the_node_is_documented() {
    let page = include_str!("../../docs/observers.md");
    let (_, section) = page.split_once("#### node.service_stopped").unwrap();
    let section = section.split("####").next().unwrap();
    for service in tapio_common::node::SERVICES {
        assert!(section.contains(&format!("`{service}`")), "{service} is not documented");
    }
}

/// The human-readable text. Owner and destination appear in each; the rest depends on the type.
#[tokio::test(flavor = "multi_thread")]
async fn messages() {
    let outbound = |kind| plausible(kind, OUTBOUND, "10.0.0.1:43210", "10.0.0.7:6379");
    let inbound = |kind| plausible(kind, INBOUND, "10.0.0.1:443", "10.0.0.7:43210");
    let v6 = |kind| plausible(kind, OUTBOUND, "[2001:db8::1]:43210", "[2001:db8::7]:6379");
    let shift = outbound(kind::RTT_SHIFT);
    let cases = [
        (outbound(kind::RTT_SPIKE), "curl[4242]: RTT to 10.0.0.7:6379 is 41 ms, 8.2 times its normal 5.0 ms"),
        (
            inbound(kind::RTT_SPIKE),
            "curl[4242]: RTT from 10.0.0.7 to port 443 is 41 ms, 8.2 times its normal 5.0 ms",
        ),
        (shift, "curl[4242]: RTT to 10.0.0.7:6379 rose from 5.0 ms to 41 ms (8.2x) 1.5 s ago"),
        (
            NetworkEvent { certain_us: 6_000, ..shift },
            "curl[4242]: RTT to 10.0.0.7:6379 rose from 5.0 ms to 41 ms (8.2x) 1.5 s ago: the network, or the peer's answers",
        ),
        (
            NetworkEvent { value_us: 900, certain_us: 900, baseline: normal(90_000), ..shift },
            "curl[4242]: RTT to 10.0.0.7:6379 fell from 90 ms to 900 us 1.5 s ago",
        ),
        (
            NetworkEvent { value_us: 45_146, baseline: normal(14), ..shift },
            "curl[4242]: RTT to 10.0.0.7:6379 rose from 14 us to 45 ms (3225x) 1.5 s ago",
        ),
        (
            outbound(kind::CONNECTION_REFUSED),
            "curl[4242]: connection to 10.0.0.7:6379 was refused: nothing listens there, or it is rejected",
        ),
        (
            v6(kind::CONNECTION_TIMEOUT),
            "curl[4242]: connection to [2001:db8::7]:6379 timed out after 3.0 s: no answer to 2 SYNs",
        ),
        (
            NetworkEvent { errno: 0, ..outbound(kind::CONNECTION_TIMEOUT) },
            "curl[4242]: gave up connecting to 10.0.0.7:6379 after 3.0 s: no answer to 2 SYNs",
        ),
        (
            outbound(kind::CONNECTION_UNREACHABLE),
            "curl[4242]: connection to 10.0.0.7:6379 failed: host unreachable",
        ),
        (
            NetworkEvent { errno: 101, ..v6(kind::CONNECTION_UNREACHABLE) },
            "curl[4242]: connection to [2001:db8::7]:6379 failed: network unreachable",
        ),
        (
            inbound(kind::CONNECTION_RESET),
            "curl[4242]: the peer reset the connection from 10.0.0.7 to port 443 after 1001 B sent, 300 B received",
        ),
        (
            outbound(kind::CONNECT_SLOW),
            "curl[4242]: connecting to 10.0.0.7:6379 took 120 ms, 10 times its normal 12 ms",
        ),
        (
            NetworkEvent { value_us: 1_020_078, retransmits: 1, ..outbound(kind::CONNECT_SLOW) },
            "curl[4242]: connecting to 10.0.0.7:6379 took 1.0 s, 85 times its normal 12 ms, with 2 SYNs",
        ),
        (
            outbound(kind::RETRANSMIT_BURST),
            "curl[4242]: 20 of 181 segments to 10.0.0.7:6379 were retransmitted within 254 ms",
        ),
        (
            NetworkEvent { segments: 12, ..outbound(kind::RETRANSMIT_BURST) },
            "curl[4242]: 20 segments to 10.0.0.7:6379 were retransmitted within 254 ms",
        ),
    ];
    for (event, message) in cases {
        let occurrence = reported(&owned(event, 0, 4242, b"curl")).await;
        assert_eq!(occurrence["message"], message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_occurrence_is_whole() {
    let mut line = Line::new();
    let mut event = plausible(kind::RTT_SHIFT, OUTBOUND, "10.0.0.1:43210", "10.0.0.7:6379");
    event.header.suppressed = 3;
    let event = owned(event, line.cgroup_id, 4242, b"checkout");
    let mut occurrence = reported_on(&mut line, &event).await;
    let said = occurrence.as_object_mut().unwrap();
    assert!(said.remove("id").is_some() && said.remove("timestamp").is_some());
    let id = "9b2c8089b3b0e4b3b0bafc4177382a788e0a7e446cc1c1be1e7a0872945d4232";
    assert_eq!(
        occurrence,
        json!({
            "source": "tapio", "type": "network.rtt_shift", "severity": "warning", "outcome": "unknown",
            "message": "9b2c8089b3b0 (checkout): RTT to 10.0.0.7:6379 rose from 5.0 ms to 41 ms (8.2x) 1.5 s ago",
            "node": "node-a",
            "workload": {
                "pod_uid": "4f93bb12-5e82-afe0-0791-1dab3df5704b", "container_id": id, "runtime": "containerd"
            },
            "process": { "pid": 4242, "comm": "checkout" },
            "peer": { "address": "10.0.0.7", "port": 6379 },
            "data": {
                "rtt_us": 41_000, "certain_us": 40_000, "since_ms": 1_500,
                "local_address": "10.0.0.1", "local_port": 43_210, "direction": "outbound"
            },
            "baseline": {
                "mean": 5_000, "deviation": event.baseline.deviation(), "unit": "us", "samples": 40, "ratio": 8.2
            },
            "count": 4,
        })
    );
}

/// An unknown value is absent, and the occurrence still conforms.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_known_is_absent() {
    let mut event = event(kind::CONNECTION_TIMEOUT, UNKNOWN, "0.0.0.0:0", "10.0.0.7:6379");
    event.retransmits = 1;
    let occurrence = reported(&event).await;
    assert_eq!(occurrence["data"], json!({ "elapsed_us": 0, "syns": 2 }));
    assert_eq!(
        occurrence["message"],
        "unknown process: gave up connecting to 10.0.0.7:6379 after 0 us: no answer to 2 SYNs"
    );
    for key in ["process", "workload", "baseline", "cluster"] {
        assert_eq!(occurrence.get(key), None);
    }
}

#[test]
fn what_is_no_event_is_counted() {
    let good = plausible(kind::RTT_SPIKE, OUTBOUND, WAYS[0].1, WAYS[0].2);
    let good = bytemuck::bytes_of(&good);
    let mut line = Line::new();
    line.record(&[]);
    line.record(&good[..SIZE - 1]);
    line.record(&[good, &[0]].concat());
    for kind in [0, 10, u32::MAX] {
        let mut event: NetworkEvent = bytemuck::pod_read_unaligned(good);
        event.kind = kind;
        line.event(&event);
    }
    assert_eq!((line.events(), line.malformed(), line.anomalies()), (6, 6, 0));
    line.record(good);
    line.finish();
    assert_eq!((line.events(), line.malformed(), line.anomalies()), (7, 6, 1));
}

/// A storm of one kind makes one occurrence at once, one for each tenfold increase, and a follow-up. Their
/// counts add up to all events.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_folds_and_adds_up() {
    let mut line = Line::new();
    let mut event = owned(
        plausible(kind::CONNECTION_REFUSED, OUTBOUND, "10.0.0.1:0", "10.0.0.7:6379"),
        line.cgroup_id,
        4242,
        b"curl",
    );
    for nth in 0..100_100_u64 {
        event.header.suppressed = u32::from(nth % 10 == 9);
        event.value_us = nth;
        line.event(&event);
    }
    let first = line.occurrences().await;
    assert_eq!((&first[0]["count"], &first[1]["count"]), (&json!(1), &json!(10)));
    assert!((3..=6).contains(&first.len()), "{}", first.len());
    line.finish();
    let follow_up = line.occurrences().await;
    assert_eq!((follow_up.len(), count(&first) + count(&follow_up)), (1, 110_110));
    assert_eq!(follow_up[0]["data"]["elapsed_us"], 100_099, "the worst");
    assert_eq!((line.events(), line.malformed(), line.anomalies()), (100_100, 0, 110_110));
    assert_eq!((line.folded(), line.queue_full()), (110_109, 0));
    first.iter().chain(&follow_up).for_each(conforms);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follow_up_says_until_when() {
    let mut line = Line::new();
    let mut event = plausible(kind::CONNECTION_REFUSED, OUTBOUND, "10.0.0.1:0", "10.0.0.7:6379");
    for (value_us, later_ns) in [(5, 0), (9, 0), (1, 7_000_000)] {
        event.value_us = value_us;
        event.header.time_ns += later_ns;
        line.event(&event);
    }
    line.finish();
    let [_, follow_up] = line.occurrences().await.try_into().unwrap();
    assert_eq!((&follow_up["data"]["elapsed_us"], &follow_up["data"]["until_ms"]), (&json!(9), &json!(7)));
    conforms(&follow_up);
}

/// A reset has no duration to rank it by.
#[tokio::test(flavor = "multi_thread")]
async fn of_resets_the_one_that_carried_most_is_reported() {
    let mut line = Line::new();
    let mut event = plausible(kind::CONNECTION_RESET, OUTBOUND, "10.0.0.1:43210", "10.0.0.7:6379");
    for (received, acked) in [(1, 1), (10, 10), (7, 90_000), (60_000, 7), (u64::MAX, 2), (20, 20)] {
        (event.bytes_received, event.bytes_acked) = (received, acked);
        line.event(&event);
    }
    line.finish();
    let reported = line.occurrences().await;
    assert_eq!(reported.iter().map(|o| &o["count"]).collect::<Vec<_>>(), [1, 5]);
    assert_eq!(reported[1]["data"]["bytes_received"], u64::MAX);
}

/// A scan of all ports by one process.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_scan_is_a_handful_and_adds_up() {
    let mut line = Line::new();
    let template = plausible(kind::CONNECTION_REFUSED, OUTBOUND, "10.0.0.1:0", "10.0.0.7:1");
    let mut event = owned(template, 0, 4242, b"nmap");
    for port in 1..=65_535 {
        event.remote_port = port;
        line.event(&event);
    }
    let at_once = line.occurrences().await;
    assert!(
        (19..=22).contains(&at_once.len()),
        "of 16 ports, and a handful of the others: {}",
        at_once.len()
    );
    assert_eq!(line.anomalies(), 17 + line.folded());
    line.finish();
    let later = line.occurrences().await;
    assert_eq!(count(&at_once) + count(&later), 65_535);
}

/// With more owners than the agent distinguishes, the shared remainder has no owner, for every observer.
#[tokio::test(flavor = "multi_thread")]
async fn what_many_owners_share_is_of_none_and_says_how_many() {
    let mut line = Line::new();
    let event = plausible(kind::CONNECTION_REFUSED, OUTBOUND, "10.0.0.1:43210", "10.0.0.7:6379");
    for pid in 1..=17_000_u32 {
        line.event(&owned(event, u64::from(pid), pid, b"checkout"));
        // The earlier ones have expired.
        if pid.is_multiple_of(4_000) {
            line.occurrences().await;
        }
    }
    line.occurrences().await;
    line.finish();
    let shared = line.occurrences().await;
    shared.iter().for_each(conforms);
    let [shared] = shared.try_into().unwrap();
    let owners = shared["data"]["owners"].as_u64().unwrap();
    assert_eq!((shared.get("workload"), shared.get("process")), (None, None));
    assert_eq!((&shared["count"], shared["data"].get("local_address")), (&json!(owners), None));
    let message = shared["message"].as_str().unwrap();
    assert!(
        message.starts_with(&format!("{owners} workloads or processes, worst case: connection to")),
        "{message}"
    );
}

/// With more owners at once than can be named in time, the events that overflow the queue are counted.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_queue_cannot_hold_is_counted() {
    let mut line = Line::new();
    let event = plausible(kind::CONNECTION_REFUSED, OUTBOUND, "10.0.0.1:0", "10.0.0.7:6379");
    let owners = QUEUE as u64 + 1000;
    for pid in 1..=owners {
        line.event(&owned(event, 0, 1, format!("w{pid}").as_bytes()));
    }
    let at_once = line.occurrences().await;
    assert_eq!((at_once.len(), line.queue_full()), (QUEUE, 1000));
    assert_eq!(line.anomalies(), count(&at_once) + line.folded() + line.queue_full());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spike_that_becomes_a_level_is_reported_as_the_level() {
    let mut line = Line::new();
    let spike = plausible(kind::RTT_SPIKE, OUTBOUND, "10.0.0.1:43210", "10.0.0.7:6379");
    let mut shift = plausible(kind::RTT_SHIFT, OUTBOUND, "10.0.0.1:43210", "10.0.0.7:6379");
    shift.header.time_ns += SECOND;
    line.event(&spike);
    line.tick(TIME_NS + SECOND);
    line.event(&shift);
    line.tick(TIME_NS + 9 * SECOND);
    let reported = line.occurrences().await;
    assert_eq!(reported.iter().map(|o| &o["type"]).collect::<Vec<_>>(), ["network.rtt_shift"]);
    // The spike is not part of a level that fell.
    line.event(&spike);
    line.event(&NetworkEvent { value_us: 900, certain_us: 900, ..shift });
    line.finish();
    let reported = line.occurrences().await;
    assert_eq!(
        reported.iter().map(|o| (&o["type"], &o["count"])).collect::<Vec<_>>(),
        [(&json!("network.rtt_spike"), &json!(1)), (&json!("network.rtt_shift"), &json!(1))]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spike_alone_is_reported_after_two_seconds_as_the_highest() {
    let mut line = Line::new();
    let mut spike = plausible(kind::RTT_SPIKE, OUTBOUND, "10.0.0.1:43210", "10.0.0.7:6379");
    let elsewhere = plausible(kind::RTT_SHIFT, OUTBOUND, "10.0.0.1:43211", "10.0.0.8:6379");
    line.event(&spike);
    (spike.value_us, spike.header.time_ns) = (90_000, TIME_NS + SECOND);
    line.event(&spike);
    (spike.value_us, spike.header.time_ns) = (60_000, TIME_NS + SECOND);
    line.event(&spike);
    line.event(&elsewhere);
    line.tick(TIME_NS + 2 * SECOND - 1);
    let at_once = line.occurrences().await;
    assert_eq!(at_once.iter().map(|o| &o["type"]).collect::<Vec<_>>(), ["network.rtt_shift"]);
    line.tick(TIME_NS + 2 * SECOND);
    let [reported] = line.occurrences().await.try_into().unwrap();
    assert_eq!((&reported["data"]["rtt_us"], &reported["count"]), (&json!(90_000), &json!(3)));
}

proptest! {
    /// Whatever the ring buffer contains, nothing panics, nothing is lost, and every report is JSON.
    #[test]
    fn any_bytes_are_counted(
        records in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..2 * SIZE),
                (prop::collection::vec(any::<u8>(), SIZE), 0_u32..12).prop_map(|(mut bytes, kind)| {
                    bytes[40..44].copy_from_slice(&kind.to_ne_bytes());
                    bytes
                }),
            ],
            0..32,
        )
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut line = Line::new();
        let (mut malformed, mut anomalies) = (0, 0);
        for record in &records {
            line.record(record);
            match bytemuck::try_pod_read_unaligned::<NetworkEvent>(record) {
                Ok(event) if KINDS.contains(&event.kind) => anomalies += 1 + u64::from(event.header.suppressed),
                _ => malformed += 1,
            }
        }
        line.finish();
        prop_assert_eq!(line.events(), records.len() as u64);
        prop_assert_eq!((line.malformed(), line.anomalies()), (malformed, anomalies));
        let reported = runtime.block_on(line.occurrences());
        prop_assert_eq!(count(&reported), anomalies);
    }
}
