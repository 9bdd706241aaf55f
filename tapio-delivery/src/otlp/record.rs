//! Converts an occurrence to a LogRecord.

use std::net::IpAddr;

use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use tapio_occurrence::{Data, Normal, Occurrence, Outcome, Peer, Severity};

use super::attributes::{Attributes, real, text};

/// The prefix of each event name.
pub(super) const NAMESPACE: &str = "tapio.";
/// Members of `data` that have an OpenTelemetry name, and are sent under that name only.
pub(super) const NAMED: &[(&str, &str)] = &[
    ("question", "dns.question.name"),
    ("transport", "network.transport"),
    ("local_address", "network.local.address"),
    ("local_port", "network.local.port"),
    ("status", "process.exit.code"),
    ("error", "error.type"),
    ("device", "system.device"),
    ("mount_point", "system.filesystem.mountpoint"),
    ("filesystem", "system.filesystem.type"),
    ("claim", "k8s.persistentvolumeclaim.name"),
];

/// Builds the record; with its event name also as an attribute, if `named`.
pub(super) fn record(occurrence: &Occurrence, named: bool) -> LogRecord {
    let (severity_number, severity_text) = match occurrence.severity {
        Severity::Debug => (SeverityNumber::Debug, "debug"),
        Severity::Info => (SeverityNumber::Info, "info"),
        Severity::Warning => (SeverityNumber::Warn, "warning"),
        Severity::Error => (SeverityNumber::Error, "error"),
        Severity::Critical => (SeverityNumber::Fatal, "critical"),
    };
    // The agent's own types are in that namespace already.
    let namespace = if occurrence.kind.starts_with(NAMESPACE) { "" } else { NAMESPACE };
    let event_name = format!("{namespace}{}", occurrence.kind);
    let mut attributes = attributes(occurrence);
    if named {
        attributes.text("event.name", Some(&event_name));
    }
    LogRecord {
        time_unix_nano: occurrence.time_unix_ns,
        // The kernel programs observe the event while it happens, so both times are the same.
        observed_time_unix_nano: occurrence.time_unix_ns,
        severity_number: severity_number.into(),
        severity_text: severity_text.to_owned(),
        body: Some(text(&occurrence.message)),
        attributes: attributes.0,
        event_name,
        ..LogRecord::default()
    }
}

/// Attributes under their OpenTelemetry names where those exist, else as `tapio.` and the path in the JSON.
fn attributes(occurrence: &Occurrence) -> Attributes {
    let mut found = Attributes::default();
    found.text("log.record.uid", Some(&occurrence.id.to_string()));
    if let Some(process) = &occurrence.process {
        found.number("process.pid", Some(process.pid.into()));
        found.text("process.executable.name", Some(&process.comm));
    }
    if let Some(peer) = &occurrence.peer {
        connection(peer, occurrence, &mut found);
    }
    let outcome = match occurrence.outcome {
        Outcome::Success => "success",
        Outcome::Failure => "failure",
        Outcome::Timeout => "timeout",
        Outcome::Unknown => "unknown",
    };
    found.text("tapio.outcome", Some(outcome));
    let (named, own): (Vec<_>, Vec<_>) =
        occurrence.data.0.iter().cloned().partition(|(key, _)| NAMED.iter().any(|(member, _)| member == key));
    for (member, attribute) in NAMED {
        let value = named.iter().find(|(key, _)| key == member);
        if let Some((_, value)) = value {
            found.value(*attribute, value);
        }
    }
    // A flush has no direction.
    let direction =
        occurrence.data.text("operation").filter(|operation| ["read", "write"].contains(operation));
    found.text("disk.io.direction", direction);
    match occurrence.outcome {
        Outcome::Failure => {
            // Without further details, the occurrence's type says what kind of failure it is.
            let kind = occurrence.kind.rsplit_once('.').map_or(&*occurrence.kind, |(_, kind)| kind);
            found.text("error.type", Some(kind));
        }
        Outcome::Timeout => found.text("error.type", Some("timeout")),
        Outcome::Success | Outcome::Unknown => {}
    }
    found.data("tapio.data", &Data(own));
    if let Some(actor) = &occurrence.actor {
        found.process("tapio.actor.process", &actor.process);
        if let Some(workload) = &actor.workload {
            found.workload("tapio.actor.workload", workload);
        }
    }
    if let Some(Normal { mean, deviation, unit, samples, ratio }) = &occurrence.baseline {
        found.number("tapio.value", judged(&occurrence.data, unit));
        found.number("tapio.baseline.mean", Some(*mean));
        found.number("tapio.baseline.deviation", Some(*deviation));
        found.text("tapio.baseline.unit", Some(unit));
        found.number("tapio.baseline.samples", Some((*samples).into()));
        if let Some(ratio) = ratio {
            found.put("tapio.ratio", real(*ratio));
        }
    }
    found.number("tapio.count", Some(occurrence.count));
    found
}

/// The judged value: the first member of `data` that is named in the unit of the baseline, as `rtt_us` is.
fn judged(data: &Data, unit: &str) -> Option<u64> {
    let is_in_unit = |key: &str| key.rsplit_once('_').is_some_and(|(_, suffix)| suffix == unit);
    data.0.iter().find(|(key, _)| is_in_unit(key)).and_then(|(key, _)| data.number(key))
}

/// Both ends of the connection, and the workload at the other end. The server is the end that was connected
/// to.
fn connection(peer: &Peer, occurrence: &Occurrence, found: &mut Attributes) {
    let data = &occurrence.data;
    if data.text("transport").is_none() {
        found.text("network.transport", Some("tcp"));
    }
    let version = match peer.address {
        IpAddr::V4(_) => "ipv4",
        IpAddr::V6(_) => "ipv6",
    };
    found.text("network.type", Some(version));
    found.text("network.peer.address", Some(&peer.address.to_string()));
    found.number("network.peer.port", Some(peer.port.into()));
    match data.text("direction") {
        Some("outbound") => {
            found.text("network.io.direction", Some("transmit"));
            found.text("server.address", Some(&peer.address.to_string()));
            found.number("server.port", Some(peer.port.into()));
        }
        Some("inbound") => {
            found.text("network.io.direction", Some("receive"));
            found.text("server.address", data.address("local_address").map(|ip| ip.to_string()).as_deref());
            found.number("server.port", data.number("local_port"));
        }
        _ => {}
    }
    let names = peer.names();
    let (kind, name) = match (&names.service, &names.pod, &names.node) {
        (Some(service), ..) => (Some("Service"), Some(service)),
        (None, Some(pod), _) => (Some("Pod"), Some(pod)),
        (None, None, Some(node)) => (Some("Node"), Some(node)),
        (None, None, None) => (None, None),
    };
    found.text("k8s.dst.type", kind);
    found.text("k8s.dst.name", name.map(String::as_str));
    found.text("k8s.dst.namespace", names.namespace.as_deref());
    found.text("k8s.dst.owner.type", names.owner_kind.as_deref());
    found.text("k8s.dst.owner.name", names.owner.as_deref());
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;

    use super::*;
    use tapio_occurrence::samples::occurrence as sample;

    #[test]
    fn names_of_attributes_are_unique_and_of_a_namespace() {
        let keys: Vec<_> = record(&sample(), true).attributes.into_iter().map(|pair| pair.key).collect();
        for (nth, key) in keys.iter().enumerate() {
            assert!(!keys[..nth].contains(key), "{key} is there twice");
            let first = key.split('.').next().unwrap();
            let known = [
                "log", "process", "network", "server", "dns", "error", "k8s", "tapio", "event", "system",
                "disk",
            ];
            assert!(known.contains(&first), "{key}");
        }
    }

    #[test]
    fn a_look_up_has_its_name_and_its_transport() {
        let data =
            [("question", "redis.prod".into()), ("transport", "udp".into()), ("error", "SERVFAIL".into())];
        let look_up = Occurrence {
            data: Data::from(data),
            kind: "network.dns_failure".into(),
            outcome: Outcome::Failure,
            ..sample()
        };
        let found = record(&look_up, false).attributes;
        for (key, text) in
            [("dns.question.name", "redis.prod"), ("network.transport", "udp"), ("error.type", "SERVFAIL")]
        {
            let values: Vec<_> = found.iter().filter(|pair| pair.key == key).collect();
            let [pair] = values[..] else { panic!("{key}: {values:?}") };
            let value = pair.value.as_ref().and_then(|value| value.value.as_ref());
            assert_eq!(value, Some(&Value::StringValue(text.to_owned())), "{key}");
        }
    }

    #[test]
    fn a_disk_has_its_device_and_its_direction() {
        let of = |operation: &'static str| {
            let data = [("device", "vda".into()), ("operation", operation.into()), ("error", "EIO".into())];
            let failed = Occurrence {
                data: Data::from(data),
                kind: "storage.io_error".into(),
                outcome: Outcome::Failure,
                ..sample()
            };
            let found = record(&failed, false).attributes;
            ["system.device", "disk.io.direction", "error.type"].map(|key| {
                let pair = found.iter().find(|pair| pair.key == key)?.clone();
                pair.value?.value
            })
        };
        let text = |text: &str| Some(Value::StringValue(text.to_owned()));
        assert_eq!(of("write"), [text("vda"), text("write"), text("EIO")]);
        assert_eq!(of("flush"), [text("vda"), None, text("EIO")]);
    }

    #[test]
    fn a_failure_has_the_best_type_that_is_known() {
        let of = |outcome, data| {
            let found =
                record(&Occurrence { outcome, data, kind: "container.crash".into(), ..sample() }, false)
                    .attributes;
            found.into_iter().find(|pair| pair.key == "error.type").and_then(|pair| pair.value?.value)
        };
        let error = || Data::from([("error", "ECONNREFUSED".into())]);
        let text = |text: &str| Some(Value::StringValue(text.to_owned()));
        assert_eq!(of(Outcome::Failure, error()), text("ECONNREFUSED"));
        assert_eq!(of(Outcome::Failure, Data::default()), text("crash"));
        assert_eq!(of(Outcome::Timeout, Data::default()), text("timeout"));
        assert_eq!(of(Outcome::Unknown, Data::default()), None);
    }
}
