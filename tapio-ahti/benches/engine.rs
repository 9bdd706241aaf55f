//! The engine on one core: 10,000 pods, and a million facts of a day with failures in it.
//!
//! `engine_facts_per_second`: all facts, in order. `engine_p99_ms`: from one fact to an answer that has it, while failures
//! go on. `engine_memory_mb`: what the process holds at the end.

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench's helpers fail as tests do")]

use std::{
    fs,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tapio_ahti::{Engine, Limits, Rules};
use tapio_occurrence::{
    Data, Occurrence, Outcome, Peer, SOURCE, Severity, Workload,
    kubernetes::{self, Address, Aspect, Change, Fact, Field, Object, Pair, Reference, Synced},
};
use ulid::Ulid;

const START_NS: u64 = 1_795_000_000_000_000_000;
const WORKLOADS: u64 = 500;
const PODS: u64 = 20;
const NODES: u64 = 100;
const FACTS: u64 = 1_000_000;
const DAY_NS: u64 = 86_400_000_000_000;

fn reference(kind: &str, name: String) -> Reference {
    let namespace = (kind != "Node").then(|| "shop".to_owned());
    Reference { kind: kind.to_owned(), namespace, uid: Some(format!("{kind}-{name}")), name }
}

fn fact(nth: u64, time_ns: u64, kind: &str, severity: Severity) -> Occurrence {
    Occurrence {
        id: Ulid::from_parts(time_ns / 1_000_000, u128::from(nth)),
        time_unix_ns: time_ns,
        source: SOURCE.into(),
        kind: kind.to_owned().into(),
        severity,
        outcome: Outcome::Failure,
        message: format!("{kind} of somebody, with a sentence that is as long as such sentences are"),
        cluster: None,
        node: "".into(),
        workload: None,
        process: None,
        actor: None,
        peer: None,
        data: Data::default(),
        baseline: None,
        count: 1,
    }
}

fn of_kubernetes<F: Fact>(nth: u64, time_ns: u64, of: &F) -> Occurrence {
    let data = of.to_data().unwrap();
    let severity = Severity::Info;
    Occurrence { source: kubernetes::SOURCE.into(), data, ..fact(nth, time_ns, F::TYPE, severity) }
}

fn pod(workload: u64, nth: u64) -> Object {
    let number = (workload * PODS + nth) as u32;
    let address = IpAddr::from((0x0a00_0000 + number).to_be_bytes());
    Object {
        object: reference("Pod", format!("w{workload}-{nth}")),
        created_unix_ns: Some(START_NS - DAY_NS),
        owners: vec![reference("ReplicaSet", format!("w{workload}-rs"))],
        node: Some(format!("node-{}", u64::from(number) % NODES)),
        addresses: vec![Address { address }],
        labels: vec![Pair { key: "app".to_owned(), value: format!("w{workload}") }],
        ..Object::default()
    }
}

fn service_address(workload: u64) -> IpAddr {
    IpAddr::from((0x0b00_0000 + workload as u32).to_be_bytes())
}

/// The cluster as it is at first.
fn cluster() -> Vec<Occurrence> {
    let mut objects = Vec::new();
    for node in 0..NODES {
        objects.push(Object { object: reference("Node", format!("node-{node}")), ..Object::default() });
    }
    for workload in 0..WORKLOADS {
        let labels = vec![Pair { key: "app".to_owned(), value: format!("w{workload}") }];
        let deployment = reference("Deployment", format!("w{workload}"));
        objects.push(Object { object: deployment.clone(), labels: labels.clone(), ..Object::default() });
        let object = reference("ReplicaSet", format!("w{workload}-rs"));
        objects.push(Object { object, owners: vec![deployment], ..Object::default() });
        let object = reference("Service", format!("w{workload}"));
        let addresses = vec![Address { address: service_address(workload) }];
        objects.push(Object { object, selector: labels, addresses, ..Object::default() });
        objects.extend((0..PODS).map(|nth| pod(workload, nth)));
    }
    let mut facts: Vec<_> =
        objects.iter().enumerate().map(|(nth, object)| of_kubernetes(nth as u64, START_NS, object)).collect();
    facts.push(of_kubernetes(900_000, START_NS, &Synced::default()));
    facts
}

/// The facts of a day: mostly signs of life and changes of pods, and a failure now and then.
fn day(nth: u64) -> Occurrence {
    let time_ns = START_NS + nth * (DAY_NS / FACTS);
    // A fixed sequence without a pattern.
    let draw = nth.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let (workload, which) = (draw % WORKLOADS, draw / WORKLOADS % PODS);
    let number = workload * PODS + which;
    let id = nth + 1_000_000;
    let agent = |kind: &str, severity| {
        let owner = Workload {
            namespace: Some("shop".to_owned()),
            pod: Some(format!("w{workload}-{which}")),
            pod_uid: Some(format!("Pod-w{workload}-{which}")),
            owner_kind: Some("Deployment".to_owned()),
            owner: Some(format!("w{workload}")),
            ..Workload::default()
        };
        let node = format!("node-{}", number % NODES).into();
        Occurrence { workload: Some(Arc::new(owner)), node, ..fact(id, time_ns, kind, severity) }
    };
    match nth % 1_000 {
        0 => of_kubernetes(
            id,
            time_ns,
            &Change {
                object: reference("Deployment", format!("w{workload}")),
                fields: vec![Field {
                    path: "spec.template.spec.containers.app.image".to_owned(),
                    aspect: Aspect::Image,
                    from: Some("a".to_owned()),
                    to: Some("b".to_owned()),
                }],
                ..Change::default()
            },
        ),
        1 => agent("container.oom_kill", Severity::Error),
        2 => agent("container.exit_error", Severity::Error),
        3..=12 => {
            let peer = Peer::unresolved(service_address((workload + 1) % WORKLOADS), 8080);
            Occurrence { peer: Some(peer), ..agent("network.connection_refused", Severity::Error) }
        }
        13..=400 => of_kubernetes(id, time_ns, &pod(workload, which)),
        _ => Occurrence {
            node: format!("node-{}", draw % NODES).into(),
            data: Data::from([("phase", "run".into())]),
            ..fact(id, time_ns, "tapio.heartbeat", Severity::Debug)
        },
    }
}

fn resident_mib() -> f64 {
    let pages: f64 =
        fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096.0 / 1024.0 / 1024.0
}

fn main() {
    let mut engine = Engine::new(Rules::embedded().unwrap(), Limits::default());
    let before = resident_mib();
    for fact in cluster() {
        engine.take(&fact).unwrap();
    }
    println!("engine_memory_of_10000_pods_mb {:.0} MiB", resident_mib() - before);
    let mut busy = Duration::ZERO;
    let mut waits = Vec::new();
    for nth in 0..FACTS {
        let fact = day(nth);
        let start = Instant::now();
        engine.take(&fact).unwrap();
        // An answer right after a failure.
        if nth % 1_000 == 12 {
            engine.incidents();
            waits.push(start.elapsed());
        }
        busy += start.elapsed();
    }
    waits.sort_unstable();
    println!("engine_facts_per_second {:.0} 1/s", FACTS as f64 / busy.as_secs_f64());
    println!("engine_p99_ms {:.2} ms", waits[waits.len() * 99 / 100].as_secs_f64() * 1e3);
    println!("engine_memory_mb {:.0} MiB", resident_mib() - before);
    let stock = engine.stock();
    eprintln!(
        "{} entities, {} findings, {} incidents, {:?}",
        stock.entities,
        stock.findings,
        engine.incidents().len(),
        engine.ledger()
    );
}
