//! Nezha: faults of a shop's services, as metrics of pods and of calls.
//!
//! A pod that uses its CPU limit up is throttled; what a caller waits longer than the callee takes is the network's. Faults in
//! code (`return`, `exception`) leave no trace in either: the right answer is that the cause is not known.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use tapio_occurrence::{
    Data, Severity,
    kubernetes::{Address, Object, Pair, Reference},
    signal::LATENCY,
};

use crate::{
    case::{Case, NAMESPACE, Said},
    describe::text,
    facts::{Calls, Facts, Judged, SEC, pod, service},
    files::{self, Table},
    folders,
    series::Series,
};

/// From this part of its limit on, a pod waits for CPU time.
const THROTTLED_PERCENT: f64 = 80.0;
/// The question is asked so long after the fault began.
const ASKED_NS: u64 = 240 * SEC;
/// Faults of code.
const CODE: &[&str] = &["return", "exception"];

pub(crate) fn cases(directory: &Path) -> Result<Vec<Case>, String> {
    let calls = Table::read(&directory.join("calls.csv"))?;
    let placement = Table::read(&directory.join("placement.csv"))?;
    let nodes: BTreeMap<&str, &str> =
        placement.texts("service").into_iter().zip(placement.texts("node")).collect();
    folders(&directory.join("cases"))?.iter().map(|folder| case(folder, &calls, &nodes)).collect()
}

fn case(folder: &Path, calls: &Table, nodes: &BTreeMap<&str, &str>) -> Result<Case, String> {
    let about = files::json(&folder.join("case.json"))?;
    let metrics = Table::read(&folder.join("metrics.csv.gz"))?;
    let began = about.get("inject_time").and_then(serde_json::Value::as_u64).unwrap_or_default() * SEC;
    let truth = about.get("truth").cloned().unwrap_or_default();
    let fault = text(&truth, "fault_type").to_owned();
    Ok(Case {
        name: folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        object: text(&truth, "service").to_owned(),
        cause: String::new(),
        choices: nodes.len(),
        leaves_no_trace: CODE.contains(&&*fault),
        fault,
        asked: None,
        since_unix_ns: 0,
        facts: facts(&metrics, calls, nodes, began),
        say: Box::new(|cause, _| Said { object: cause.workload.name.clone(), cause: String::new() }),
    })
}

fn reference(kind: &str, name: &str) -> Reference {
    let namespace = (kind != "Node").then(|| NAMESPACE.to_owned());
    Reference { kind: kind.to_owned(), namespace, name: name.to_owned(), uid: Some(format!("{kind}-{name}")) }
}

/// The one pod of a service.
pub(crate) fn pod_of(service: &str) -> String {
    format!("{service}-1")
}

/// The system: a pod and a service each, and who calls whom.
pub(crate) fn system(facts: &mut Facts, nodes: &BTreeMap<&str, &str>, calls: &[(&str, &str)], from_ns: u64) {
    for node in nodes.values() {
        facts.portti(from_ns, &Object { object: reference("Node", node), ..Object::default() }, "");
    }
    for (name, node) in nodes {
        let labels = vec![Pair { key: "app".to_owned(), value: (*name).to_owned() }];
        let deployment = Object {
            object: reference("Deployment", name),
            labels: labels.clone(),
            created_unix_ns: Some(from_ns),
            ..Object::default()
        };
        facts.portti(from_ns, &deployment, "");
        let object = Object {
            object: reference("Pod", &pod_of(name)),
            created_unix_ns: Some(from_ns),
            owners: vec![reference("Deployment", name)],
            node: Some((*node).to_owned()),
            labels: labels.clone(),
            ..Object::default()
        };
        facts.portti(from_ns, &object, "");
        let object = Object {
            object: reference("Service", name),
            created_unix_ns: Some(from_ns),
            addresses: vec![Address { address: address(nodes, name) }],
            selector: labels,
            ..Object::default()
        };
        facts.portti(from_ns, &object, "");
    }
    for (caller, callee) in calls {
        let Some(node) = nodes.get(caller).filter(|_| nodes.contains_key(callee)) else { continue };
        let edge = Data::from([
            ("direction", "outbound".into()),
            ("address", address(nodes, callee).into()),
            ("port", 80u64.into()),
        ]);
        let fact = facts.agent(from_ns, "network.edges", node, "");
        fact.severity = Severity::Debug;
        fact.workload = Some(of_service(caller));
        fact.data = Data::from([("edges", tapio_occurrence::Value::List(vec![edge]))]);
    }
}

pub(crate) fn of_service(name: &str) -> std::sync::Arc<tapio_occurrence::Workload> {
    pod(NAMESPACE, &pod_of(name), &format!("Pod-{}", pod_of(name)), name)
}

/// What the one pod of a service answers.
pub(crate) fn signal(facts: &mut Facts, at_ns: u64, kind: &str, of: &str, judged: Judged, message: &str) {
    facts.signal(at_ns, kind, &Calls { of, pods: &[pod_of(of)], to: None }, judged, message);
}

fn us(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1e6) as u64
}

pub(crate) fn address(nodes: &BTreeMap<&str, &str>, name: &str) -> IpAddr {
    let at = nodes.keys().position(|known| *known == name).unwrap_or(250);
    IpAddr::V4(Ipv4Addr::new(10, 96, (at / 250) as u8, (at % 250) as u8 + 1))
}

fn facts(
    metrics: &Table,
    calls: &Table,
    nodes: &BTreeMap<&str, &str>,
    began: u64,
) -> Vec<tapio_occurrence::Occurrence> {
    let asked = began + ASKED_NS;
    let mut facts = Facts::default();
    let times: Vec<u64> = metrics.numbers("time").into_iter().map(|time| time as u64 * SEC).collect();
    let first = times.iter().min().copied().unwrap_or(asked) - 60 * SEC;
    let names: Vec<&str> =
        nodes.values().copied().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    facts.watched(&names, first, asked + 60 * SEC);
    let edges: Vec<(&str, &str)> = calls.texts("caller").into_iter().zip(calls.texts("callee")).collect();
    system(&mut facts, nodes, &edges, first);
    let node = |name: &str| nodes.get(name).copied().unwrap_or_default();
    let each = |facts: &mut Facts,
                values: Vec<f64>,
                scale: f64,
                floor: f64,
                say: &dyn Fn(&mut Facts, u64, f64, f64)| {
        let mut series = Series::new((floor * scale) as u64);
        for (at, value) in times.iter().zip(values) {
            if *at > asked || !value.is_finite() {
                continue;
            }
            if let Some(normal) = series.judge((value.max(0.0) * scale) as u64, *at) {
                say(facts, *at, value, normal as f64 / scale);
            }
        }
    };
    for column in metrics.columns() {
        if let Some(name) = column.strip_suffix("__cpu_pct").filter(|name| nodes.contains_key(name)) {
            throttled(&mut facts, name, node(name), &times, &metrics.numbers(column), asked);
        }
        let edge = column.strip_prefix("EDGE.sou.").and_then(|edge| edge.strip_suffix("__p50"));
        let Some((caller, callee)) = edge.and_then(|edge| edge.split_once('_')) else { continue };
        let waited = metrics.numbers(column);
        let took = metrics.numbers(&format!("EDGE.des.{caller}_{callee}__p50"));
        let gaps = waited.iter().zip(&took).map(|(waited, took)| waited - took).collect();
        let peer = service(NAMESPACE, callee, address(nodes, callee), 80);
        let (client, server, on) = (caller.to_owned(), callee.to_owned(), node(caller).to_owned());
        let say = move |facts: &mut Facts, at, value: f64, normal: f64| {
            let message = format!(
                "{client} -> {server}: {:.0} ms on the way (normally {:.0} ms)",
                value * 1e3,
                normal * 1e3
            );
            let fact = facts.agent(at, "network.rtt_shift", &on, &message);
            fact.workload = Some(of_service(&client));
            fact.peer = Some(peer.clone());
        };
        each(&mut facts, gaps, 1e6, 0.02, &say);
        let server = callee.to_owned();
        let say = move |facts: &mut Facts, at, value: f64, normal: f64| {
            let message =
                format!("{server} answers in {:.0} ms (normally {:.0} ms)", value * 1e3, normal * 1e3);
            signal(facts, at, LATENCY, &server, Judged { value: us(value), normal: us(normal) }, &message);
        };
        each(&mut facts, took, 1e6, 0.02, &say);
    }
    let say = |facts: &mut Facts, at, value: f64, normal: f64| {
        let message = format!("users wait {value:.1} s (normally {normal:.1} s)");
        signal(facts, at, LATENCY, "frontend", Judged { value: us(value), normal: us(normal) }, &message);
    };
    each(&mut facts, metrics.numbers("ENTRY__p90"), 1e6, 0.2, &say);
    // Faults follow each other: the question is about what began with this one.
    facts.all.retain(|fact| fact.time_unix_ns >= began.saturating_sub(60 * SEC) || is_of_system(fact));
    facts.all
}

/// Whether a fact only says what there is.
fn is_of_system(fact: &tapio_occurrence::Occurrence) -> bool {
    fact.source == tapio_occurrence::kubernetes::SOURCE
        || ["tapio.heartbeat", "network.edges"].contains(&&*fact.kind)
}

/// A pod that uses its CPU limit up, which an agent reports without knowing what is normal.
fn throttled(facts: &mut Facts, name: &str, node: &str, times: &[u64], values: &[f64], asked: u64) {
    for (at, value) in
        times.iter().zip(values).filter(|(at, value)| **at <= asked && **value >= THROTTLED_PERCENT)
    {
        let message = format!("{name} uses {value:.0} % of its CPU limit");
        for nth in 0..3 {
            facts.agent(at + nth * SEC, "node.cpu_throttled", node, &message).workload =
                Some(of_service(name));
        }
    }
}
