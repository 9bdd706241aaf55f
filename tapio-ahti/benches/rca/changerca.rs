//! ChangeRCA: which of several rollouts that go on at once is the defective one.
//!
//! A workload's calls are judged by the shared baseline; how much of the time a pod fails is what new and old pods are compared
//! by.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use serde_json::Value;
use tapio_occurrence::{
    Data, Severity,
    kubernetes::{Address, Aspect, Change, Container, Deleted, Field, Object, Pair, Reference},
    signal::{ERRORS, LATENCY},
};

use crate::{
    case::{Case, NAMESPACE, Said},
    describe::{list, text},
    facts::{Calls, Facts, Judged, SEC, pod},
    files::{self, Table},
    folders,
    series::Series,
};

/// The question is asked so long after the alarm.
const ANSWERED_NS: u64 = 120 * SEC;
/// Nothing is known of the set's nodes.
const NODE: &str = "node";

pub(crate) fn cases(directory: &Path) -> Result<Vec<Case>, String> {
    folders(&directory.join("cases"))?.iter().map(|folder| case(folder)).collect()
}

fn case(folder: &Path) -> Result<Case, String> {
    let about = files::json(&folder.join("case.json"))?;
    let edges = Table::read(&folder.join("pod_edges.csv.gz"))?;
    let success = Table::read(&folder.join("destination_success.csv"))?;
    let truth = about.get("truth").cloned().unwrap_or_default();
    Ok(Case {
        name: folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        fault: text(&truth, "fault_type").to_owned(),
        object: text(&truth, "change").to_owned(),
        cause: String::new(),
        choices: list(&about, "changes").len(),
        leaves_no_trace: false,
        asked: None,
        since_unix_ns: 0,
        facts: facts(&about, &edges, &success),
        // The question is which rollout it was.
        say: Box::new(|cause, _| Said { object: cause.workload.name.clone(), cause: String::new() }),
    })
}

fn number(of: &Value, key: &str) -> u64 {
    of.get(key).and_then(Value::as_u64).unwrap_or_default()
}

fn reference(kind: &str, name: &str) -> Reference {
    let namespace = (kind != "Node").then(|| NAMESPACE.to_owned());
    Reference { kind: kind.to_owned(), namespace, name: name.to_owned(), uid: Some(format!("{kind}-{name}")) }
}

/// The Deployment of a pod: `adservice-v2-fd6989b7c-w7f44`.
fn deployment(pod: &str) -> &str {
    pod.split('-').next().unwrap_or(pod)
}

/// The ReplicaSet of a pod: `adservice-v2-fd6989b7c-w7f44`.
fn replica_set(pod: &str) -> &str {
    pod.rsplit_once('-').map_or(pod, |(set, _)| set)
}

fn facts(about: &Value, edges: &Table, success: &Table) -> Vec<tapio_occurrence::Occurrence> {
    let mut facts = Facts::default();
    let detected = number(about, "detect_time") * SEC + ANSWERED_NS;
    let times: Vec<u64> = edges.numbers("time").into_iter().map(|time| time as u64 * SEC).collect();
    let first = times.iter().min().copied().unwrap_or(detected);
    facts.watched(&[NODE], first - 3_600 * SEC, detected + 120 * SEC);
    facts.portti(first - 3_600 * SEC, &Object { object: reference("Node", NODE), ..Object::default() }, "");

    let callees = edges.texts("callee");
    let pods = edges.texts("pod");
    let services: BTreeSet<&str> = callees.iter().chain(&edges.texts("caller")).copied().collect();
    let address = |name: &str| {
        let at = services.iter().position(|known| *known == name).unwrap_or(250);
        IpAddr::V4(Ipv4Addr::new(10, 96, 0, at as u8))
    };
    for name in &services {
        let object = Object {
            object: reference("Deployment", name),
            labels: vec![Pair { key: "app".to_owned(), value: (*name).to_owned() }],
            ..Object::default()
        };
        facts.portti(first - 3_600 * SEC, &object, "");
        let object = Object {
            object: reference("Service", name),
            addresses: vec![Address { address: address(name) }],
            selector: vec![Pair { key: "app".to_owned(), value: (*name).to_owned() }],
            ..Object::default()
        };
        facts.portti(first - 3_600 * SEC, &object, "");
    }
    // When each pod came.
    let mut created: BTreeMap<&str, u64> = BTreeMap::new();
    for change in list(about, "changes") {
        for step in list(change, "steps") {
            for pod in list(step, "new_pods").iter().filter_map(Value::as_str) {
                created.insert(pod, number(step, "t") * SEC);
            }
        }
    }
    let owner: BTreeMap<&str, &str> = pods.iter().map(|pod| (*pod, deployment(pod))).collect();
    let mut sets = BTreeSet::new();
    for (pod, owner) in &owner {
        let since = created.get(pod).copied().unwrap_or(first - 3_600 * SEC);
        if since > detected {
            continue;
        }
        if sets.insert(replica_set(pod)) {
            let object = Object {
                object: reference("ReplicaSet", replica_set(pod)),
                created_unix_ns: Some(since),
                owners: vec![reference("Deployment", owner)],
                ..Object::default()
            };
            facts.portti(since, &object, "");
        }
        let object = Object {
            object: reference("Pod", pod),
            created_unix_ns: Some(since),
            owners: vec![reference("ReplicaSet", replica_set(pod))],
            node: Some(NODE.to_owned()),
            labels: vec![Pair { key: "app".to_owned(), value: (*owner).to_owned() }],
            containers: vec![Container {
                name: "server".to_owned(),
                image: "x".to_owned(),
                ..Container::default()
            }],
            ..Object::default()
        };
        facts.portti(since, &object, "");
    }
    for change in list(about, "changes") {
        let name = text(change, "name");
        let at = number(change, "release_time") * SEC;
        for step in list(change, "steps").iter().filter(|step| number(step, "t") * SEC <= detected) {
            for pod in list(step, "old_pods").iter().filter_map(Value::as_str) {
                facts.portti(
                    number(step, "t") * SEC + 30 * SEC,
                    &Deleted { object: reference("Pod", pod) },
                    "",
                );
            }
        }
        if at > detected {
            continue;
        }
        let rolled_out = Change {
            object: reference("Deployment", name),
            fields: vec![Field {
                path: "spec.template.spec.containers.server.image".to_owned(),
                aspect: Aspect::Image,
                from: Some("v1".to_owned()),
                to: Some("v2".to_owned()),
            }],
            ..Change::default()
        };
        facts.portti(at, &rolled_out, &format!("{name} was rolled out"));
    }
    signals(&mut facts, edges, detected);
    calls(&mut facts, success, detected, &owner, &address);
    facts.all
}

/// A time, a workload, the other end, and that again where it is the one that is called.
type Minute<'a> = (u64, &'a str, &'a str, Option<&'a str>);

/// What the calls of each workload say, until the alarm.
fn signals(facts: &mut Facts, edges: &Table, detected: u64) {
    let (times, pods) = (edges.numbers("time"), edges.texts("pod"));
    let (callers, callees) = (edges.texts("caller"), edges.texts("callee"));
    for (column, kind, scale, floor) in
        [("succ_pct", ERRORS, 100.0, 500), ("latency_s", LATENCY, 1e6, 20_000)]
    {
        let values = edges.numbers(column);
        // POLKU judges a workload as a whole.
        let mut minutes: BTreeMap<Minute<'_>, Vec<(&str, u64)>> = BTreeMap::new();
        for row in 0..times.len() {
            let at = times[row] as u64 * SEC;
            if at > detected || !values[row].is_finite() {
                continue;
            }
            let of = deployment(pods[row]);
            // The calls that a pod makes are listed as well as those that it answers.
            let (other, to) = match of == callers[row] {
                true => (callees[row], Some(callees[row])),
                false => (callers[row], None),
            };
            let value = if kind == ERRORS { 100.0 - values[row] } else { values[row] };
            let of_pod = (pods[row], (value.max(0.0) * scale) as u64);
            minutes.entry((at, of, other, to)).or_default().push(of_pod);
        }
        let mut series: BTreeMap<(&str, &str), Series> = BTreeMap::new();
        for ((at, of, other, to), of_pods) in minutes {
            let value = of_pods.iter().map(|(_, value)| value).sum::<u64>() / of_pods.len() as u64;
            let known = series.entry((of, other)).or_insert_with(|| Series::new(floor));
            let Some(normal) = known.judge(value, at) else { continue };
            let is_bad = |(pod, value): &(&str, u64)| (*value >= normal + floor).then(|| (*pod).to_owned());
            let pods: Vec<String> = of_pods.iter().filter_map(is_bad).collect();
            let message = format!(
                "{of}: {column} {} with {other} (normally {:.4})",
                value as f64 / scale,
                normal as f64 / scale
            );
            facts.signal(at, kind, &Calls { of, pods: &pods, to }, Judged { value, normal }, &message);
        }
    }
}

/// What callers say about their calls, until the alarm.
fn calls(
    facts: &mut Facts,
    table: &Table,
    detected: u64,
    pods: &BTreeMap<&str, &str>,
    address: &dyn Fn(&str) -> IpAddr,
) {
    let times = table.numbers("timestamp");
    for column in table.columns() {
        let Some((caller, callee)) = column.split_once('_') else { continue };
        let Some((client, _)) = pods.iter().find(|(_, owner)| **owner == caller) else { continue };
        let workload = pod(NAMESPACE, client, &format!("Pod-{client}"), caller);
        let edge = Data::from([
            ("direction", "outbound".into()),
            ("address", address(callee).into()),
            ("port", 80u64.into()),
        ]);
        let start = times.first().copied().unwrap_or_default() as u64 * SEC;
        let fact = facts.agent(start, "network.edges", NODE, "");
        fact.severity = Severity::Debug;
        fact.workload = Some(workload.clone());
        fact.data = Data::from([("edges", tapio_occurrence::Value::List(vec![edge]))]);
        let mut series = Series::new(500);
        for (at, value) in times.iter().zip(table.numbers(column)) {
            let at = *at as u64 * SEC;
            if at > detected || !value.is_finite() {
                continue;
            }
            let failed = ((100.0 - value).max(0.0) * 100.0) as u64;
            if let Some(normal) = series.judge(failed, at) {
                let message = format!(
                    "{value:.0} % of the calls of {caller} to {callee} succeed (normally {:.0} %)",
                    100.0 - normal as f64 / 100.0
                );
                let calls = Calls { of: caller, pods: &[], to: Some(callee) };
                facts.signal(at, ERRORS, &calls, Judged { value: failed, normal }, &message);
            }
        }
    }
}
