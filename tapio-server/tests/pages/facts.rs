//! Facts: what was recorded on a cluster, as if it were now, and what is made up.

use std::{fs, time::SystemTime};

use serde_json::Value;
use tapio_occurrence::{
    Data, Occurrence, Outcome, Severity,
    kubernetes::{self, Condition, Fact, Object, Reference, Synced, Watched, condition},
};
use ulid::Ulid;

const SEC: u64 = 1_000_000_000;

pub(crate) fn now_ns() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos().try_into().unwrap()
}

/// The facts of a scenario, the last of them so long ago.
pub(crate) fn recorded(name: &str, ago_s: u64) -> Vec<Occurrence> {
    let path = format!("{}/../tapio-ahti/tests/recorded/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let read = |line: &str| Occurrence::read_json(line.as_bytes()).unwrap();
    let facts: Vec<Occurrence> = text.lines().map(read).collect();
    let last_ns = facts.iter().map(|fact| fact.time_unix_ns).max().unwrap();
    let by_ns = now_ns() - ago_s * SEC - last_ns;
    facts.into_iter().map(|fact| moved(fact, by_ns)).collect()
}

/// The fact so much later.
fn moved(fact: Occurrence, by_ns: u64) -> Occurrence {
    let time_unix_ns = fact.time_unix_ns + by_ns;
    let mut data = serde_json::to_value(&fact.data).unwrap();
    move_times(&mut data, by_ns);
    let id = Ulid::from_parts(time_unix_ns / 1_000_000, fact.id.random());
    Occurrence { id, time_unix_ns, data: serde_json::from_value(data).unwrap(), ..fact }
}

fn move_times(value: &mut Value, by_ns: u64) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_u64().filter(|_| key.ends_with("_unix_ns")) {
                    Some(time) => *value = (time + by_ns).into(),
                    None => move_times(value, by_ns),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| move_times(value, by_ns)),
        _ => {}
    }
}

/// A fact of which everything is made up.
pub(crate) fn fact(
    kind: &'static str,
    source: &'static str,
    ago_s: u64,
    message: &str,
    data: Data,
) -> Occurrence {
    let time_unix_ns = now_ns() - ago_s * SEC;
    Occurrence {
        id: Ulid::from_parts(time_unix_ns / 1_000_000, fastrand::u128(..)),
        time_unix_ns,
        source: source.into(),
        kind: kind.into(),
        severity: Severity::Error,
        outcome: Outcome::Failure,
        message: message.to_owned(),
        cluster: None,
        node: "".into(),
        workload: None,
        process: None,
        actor: None,
        peer: None,
        data,
        baseline: None,
        count: 1,
    }
}

pub(crate) fn portti<F: Fact>(of: &F, ago_s: u64, message: &str) -> Occurrence {
    fact(F::TYPE, kubernetes::SOURCE, ago_s, message, of.to_data().unwrap())
}

/// That an agent on a node lives, and Kubernetes is watched.
pub(crate) fn alive(node: &str, ago_s: u64) -> Vec<Occurrence> {
    let mut beat = fact("tapio.heartbeat", "agent", ago_s, "", Data::from([("phase", "run".into())]));
    beat.node = node.into();
    let kinds = vec![Watched { kind: "Pod".to_owned(), objects: 1 }];
    vec![beat, portti(&Synced { kinds, missing: Vec::new() }, ago_s, "")]
}

pub(crate) fn reference(kind: &str, namespace: &str, name: &str) -> Reference {
    Reference {
        kind: kind.to_owned(),
        namespace: Some(namespace.to_owned()),
        name: name.to_owned(),
        uid: Some(format!("uid-{kind}-{namespace}-{name}")),
    }
}

/// A Deployment whose pod is in a crash loop since some time.
pub(crate) fn crashing(namespace: &str, name: &str, since_s: u64, text: &str) -> Vec<Occurrence> {
    let deployment = reference("Deployment", namespace, name);
    let pod = reference("Pod", namespace, &format!("{name}-0"));
    let created_unix_ns = Some(now_ns() - 7_200 * SEC);
    let of = |object, owners| Object { object, owners, created_unix_ns, ..Object::default() };
    let waiting = Condition {
        object: pod.clone(),
        condition: condition::WAITING.to_owned(),
        status: "true".to_owned(),
        reason: Some("CrashLoopBackOff".to_owned()),
        text: Some(text.to_owned()),
        container: Some("app".to_owned()),
        ..Condition::default()
    };
    vec![
        portti(&of(deployment.clone(), Vec::new()), 7_200, ""),
        portti(&of(pod, vec![deployment]), 7_200, ""),
        portti(&waiting, since_s, &format!("Pod {namespace}/{name}-0: CrashLoopBackOff: {text}")),
    ]
}
