//! Reads an occurrence back from its LogRecord, for whoever receives what agents send by OTLP.
//!
//! A LogRecord has no place for everything: of a peer's names one is left, of an image no digest, and members of `data` come
//! in another order.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value as Any},
    logs::v1::LogRecord,
};
use tapio_occurrence::{
    Actor, Data, Normal, Occurrence, Outcome, Peer, PeerNames, Process, SOURCE, Severity, Value, Workload,
};
use ulid::Ulid;

use super::record::{NAMED, NAMESPACE};

/// Attributes by name.
struct Known<'a>(BTreeMap<&'a str, &'a AnyValue>);

/// The occurrence of a record; `None` if the record is none of Tapio's.
///
/// # Errors
/// The record says that it is one, and lacks something.
pub fn occurrence(resource: &[KeyValue], record: &LogRecord) -> Option<Result<Occurrence, String>> {
    let own = record.event_name.strip_prefix(NAMESPACE)?;
    // The agent's own types, such as tapio.heartbeat, are in that namespace already.
    let kind = if own.contains('.') { own } else { &record.event_name };
    let attributes = Known::of(&record.attributes);
    attributes.0.get("log.record.uid")?;
    Some(read(kind, &Known::of(resource), &attributes, record))
}

fn read(
    kind: &str,
    resource: &Known<'_>,
    found: &Known<'_>,
    record: &LogRecord,
) -> Result<Occurrence, String> {
    let lacks = |key: &str| format!("{key}: missing, or not as Tapio's agents write it");
    let id = found.text("log.record.uid").and_then(|id| Ulid::from_string(id).ok());
    let severity = match &*record.severity_text {
        "debug" => Severity::Debug,
        "info" => Severity::Info,
        "warning" => Severity::Warning,
        "error" => Severity::Error,
        "critical" => Severity::Critical,
        _ => return Err(lacks("severity_text")),
    };
    let outcome = match found.text("tapio.outcome") {
        Some("success") => Outcome::Success,
        Some("failure") => Outcome::Failure,
        Some("timeout") => Outcome::Timeout,
        Some("unknown") => Outcome::Unknown,
        _ => return Err(lacks("tapio.outcome")),
    };
    let message = record.body.as_ref().and_then(text).ok_or_else(|| lacks("body"))?;
    let process = |path: &str, comm: &str| {
        let pid = u32::try_from(found.number(path)?).ok()?;
        Some(Process { pid, comm: found.text(comm)?.to_owned() })
    };
    let actor = process("tapio.actor.process.pid", "tapio.actor.process.comm");
    let peer = peer(found);
    Ok(Occurrence {
        id: id.ok_or_else(|| lacks("log.record.uid"))?,
        time_unix_ns: record.time_unix_nano,
        source: SOURCE.into(),
        kind: kind.to_owned().into(),
        severity,
        outcome,
        message: message.to_owned(),
        cluster: resource.text("k8s.cluster.name").map(Into::into),
        node: resource.text("host.name").unwrap_or_default().into(),
        workload: affected(resource).map(Arc::new),
        process: process("process.pid", "process.executable.name"),
        actor: actor.map(|process| {
            let path = |key: &str| found.text(&format!("tapio.actor.workload.{key}")).map(ToOwned::to_owned);
            Actor { process, workload: some(workload(path)).map(Arc::new) }
        }),
        data: data(kind, outcome, peer.is_some(), found),
        peer,
        baseline: found.text("tapio.baseline.unit").and_then(|unit| {
            Some(Normal {
                mean: found.number("tapio.baseline.mean")?,
                deviation: found.number("tapio.baseline.deviation")?,
                unit: unit.to_owned().into(),
                samples: u32::try_from(found.number("tapio.baseline.samples")?).ok()?,
                ratio: match found.0.get("tapio.ratio").and_then(|value| value.value.as_ref()) {
                    Some(Any::DoubleValue(ratio)) => Some(*ratio),
                    _ => None,
                },
            })
        }),
        count: found.number("tapio.count").unwrap_or(1),
    })
}

impl<'a> Known<'a> {
    fn of(attributes: &'a [KeyValue]) -> Self {
        Self(attributes.iter().filter_map(|pair| Some((pair.key.as_str(), pair.value.as_ref()?))).collect())
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.0.get(key).and_then(|value| text(value))
    }

    fn number(&self, key: &str) -> Option<u64> {
        match self.0.get(key)?.value.as_ref()? {
            Any::IntValue(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }
}

fn text(value: &AnyValue) -> Option<&str> {
    match value.value.as_ref()? {
        Any::StringValue(text) => Some(text),
        _ => None,
    }
}

/// The workload that the Resource describes.
fn affected(resource: &Known<'_>) -> Option<Workload> {
    let get = |key: &str| resource.text(key).map(ToOwned::to_owned);
    let tag = match resource.0.get("container.image.tags").and_then(|value| value.value.as_ref()) {
        Some(Any::ArrayValue(tags)) => tags.values.first().and_then(text),
        _ => None,
    };
    let image = resource.text("container.image.name");
    let owner =
        ["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "ReplicaSet"].iter().find_map(|kind| {
            let name = resource.text(&format!("k8s.{}.name", kind.to_ascii_lowercase()))?;
            Some(((*kind).to_owned(), name.to_owned()))
        });
    let (owner_kind, owner) = owner.or_else(|| get("tapio.owner.kind").zip(get("tapio.owner.name"))).unzip();
    some(Workload {
        namespace: get("k8s.namespace.name"),
        pod: get("k8s.pod.name"),
        pod_uid: get("k8s.pod.uid"),
        container: get("k8s.container.name"),
        container_id: get("container.id"),
        runtime: get("container.runtime.name").map(Into::into),
        image: image.map(|name| tag.map_or_else(|| name.to_owned(), |tag| format!("{name}:{tag}"))),
        owner_kind,
        owner,
        unit: get("systemd.unit.name"),
        labels: Vec::new(),
    })
}

fn workload(get: impl Fn(&str) -> Option<String>) -> Workload {
    Workload {
        namespace: get("namespace"),
        pod: get("pod"),
        pod_uid: get("pod_uid"),
        container: get("container"),
        container_id: get("container_id"),
        runtime: get("runtime").map(Into::into),
        image: get("image"),
        owner_kind: get("owner_kind"),
        owner: get("owner"),
        unit: get("unit"),
        labels: Vec::new(),
    }
}

fn some(workload: Workload) -> Option<Workload> {
    (workload != Workload::default()).then_some(workload)
}

fn peer(found: &Known<'_>) -> Option<Peer> {
    let address: IpAddr = found.text("network.peer.address")?.parse().ok()?;
    let port = u16::try_from(found.number("network.peer.port")?).ok()?;
    let get = |key: &str| found.text(key).map(ToOwned::to_owned);
    let of = |kind: &str| get("k8s.dst.name").filter(|_| found.text("k8s.dst.type") == Some(kind));
    let names = PeerNames {
        namespace: get("k8s.dst.namespace"),
        service: of("Service"),
        pod: of("Pod"),
        node: of("Node"),
        owner_kind: get("k8s.dst.owner.type"),
        owner: get("k8s.dst.owner.name"),
    };
    Some(Peer { address, port, names: (names != PeerNames::default()).then(|| Arc::new(names)) })
}

/// Members under OpenTelemetry's names first, then those under Tapio's own.
fn data(kind: &str, outcome: Outcome, has_peer: bool, found: &Known<'_>) -> Data {
    let mut data = Data::default();
    for (member, attribute) in NAMED {
        let Some(value) = found.0.get(attribute).and_then(|value| of(value)) else { continue };
        // What the exporter adds where the occurrence does not say it.
        let is_added = match (*member, &value, outcome) {
            ("transport", Value::Text(text), _) => has_peer && text == "tcp",
            ("error", Value::Text(text), Outcome::Failure) => Some(&**text) == kind.rsplit('.').next(),
            ("error", Value::Text(text), Outcome::Timeout) => text == "timeout",
            _ => false,
        };
        if !is_added {
            data.push(*member, value);
        }
    }
    let mut lists: Vec<(&str, Vec<Data>)> = Vec::new();
    let mut workloads: Vec<&str> = Vec::new();
    for (path, value) in &found.0 {
        let Some(path) = path.strip_prefix("tapio.data.") else { continue };
        match (path.split_once('.'), value.value.as_ref()) {
            (Some((key, member)), Some(Any::ArrayValue(column))) => {
                let at = lists.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
                    lists.push((key, Vec::new()));
                    lists.len() - 1
                });
                let Some((_, rows)) = lists.get_mut(at) else { continue };
                rows.resize_with(rows.len().max(column.values.len()), Data::default);
                for (row, value) in rows.iter_mut().zip(&column.values) {
                    if let Some(value) = of(value) {
                        row.push(member.to_owned(), value);
                    }
                }
            }
            (Some((key, _)), Some(_)) if !workloads.contains(&key) => {
                workloads.push(key);
                let get =
                    |member: &str| found.text(&format!("tapio.data.{key}.{member}")).map(ToOwned::to_owned);
                data.push(key.to_owned(), Arc::new(workload(get)));
            }
            (None, _) => {
                if let Some(value) = of(value) {
                    data.push(path.to_owned(), value);
                }
            }
            _ => {}
        }
    }
    for (key, rows) in lists {
        data.push(key.to_owned(), Value::List(rows));
    }
    data
}

fn of(value: &AnyValue) -> Option<Value> {
    match value.value.as_ref()? {
        Any::StringValue(text) => Some(text.clone().into()),
        Any::IntValue(number) => Some((*number).into()),
        Any::DoubleValue(real) => Some((*real).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tapio_occurrence::samples;

    use super::{
        super::{Settings, record::record, resource::ResourceContext},
        *,
    };

    fn round(occurrence: &Occurrence) -> Occurrence {
        let resource = ResourceContext::new(&Settings::default(), true).resource(occurrence);
        super::occurrence(&resource.attributes, &record(occurrence, false)).unwrap().unwrap()
    }

    fn sorted(mut occurrence: Occurrence) -> Occurrence {
        occurrence.data.0.sort_by(|(one, _), (other, _)| one.cmp(other));
        occurrence
    }

    #[test]
    fn an_occurrence_comes_back() {
        let mut sample = samples::occurrence();
        // What a LogRecord has no place for.
        Arc::get_mut(sample.workload.as_mut().unwrap()).unwrap().labels.clear();
        let names = Arc::get_mut(sample.peer.as_mut().unwrap().names.as_mut().unwrap()).unwrap();
        (names.pod, names.node) = (None, None);
        assert_eq!(sorted(round(&sample)), sorted(sample.clone()));

        let neighbour = Workload { pod: Some("batch-0".to_owned()), ..Workload::default() };
        let of_node = Occurrence {
            kind: "tapio.heartbeat".into(),
            outcome: Outcome::Timeout,
            workload: Some(Arc::new(Workload {
                unit: Some("nginx.service".to_owned()),
                ..Workload::default()
            })),
            process: None,
            peer: None,
            baseline: None,
            cluster: None,
            actor: Some(Actor {
                process: Process { pid: 7, comm: "kill".to_owned() },
                workload: Some(Arc::new(neighbour.clone())),
            }),
            data: Data::from([
                ("status", 137u64.into()),
                ("cpi", 1.5.into()),
                ("score", (-5i64).into()),
                ("error", "ETIMEDOUT".into()),
                ("neighbour", Arc::new(neighbour).into()),
                (
                    "users",
                    Value::List(vec![
                        Data::from([("comm", "a".into()), ("pid", 1u64.into())]),
                        Data::from([("pid", 2u64.into())]),
                    ]),
                ),
            ]),
            ..sample
        };
        assert_eq!(sorted(round(&of_node)), sorted(of_node.clone()));
    }

    #[test]
    fn records_of_others_and_records_that_lack_something() {
        let sample = samples::occurrence();
        let mut other = record(&sample, false);
        other.event_name = "checkout.failed".to_owned();
        assert!(occurrence(&[], &other).is_none());
        other.event_name = "tapio.network.rtt_spike".to_owned();
        other.severity_text.clear();
        assert!(occurrence(&[], &other).unwrap().unwrap_err().starts_with("severity_text"));
        other.attributes.retain(|pair| pair.key != "log.record.uid");
        assert!(occurrence(&[], &other).is_none());
    }
}
