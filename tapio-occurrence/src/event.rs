//! An occurrence as a gateway's event (`polku.event.v1`). Payload, typed data and metadata contain the same
//! values.

use std::collections::HashMap;

use crate::Occurrence;
use v1::{Event, NetworkEventData, Outcome, Severity, event::Data};

/// The event, generated from `proto/polku/event`.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, reason = "generated")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/polku.event.v1.rs"));
}

/// The JSON of most occurrences fits into this.
const PAYLOAD_BYTES: usize = 1024;

/// Why an event is not an occurrence.
#[derive(Debug, thiserror::Error)]
pub enum NotOne {
    /// Its payload is not the JSON of an occurrence.
    #[error("its payload is no occurrence: {0}")]
    Payload(#[from] serde_json::Error),
    /// The event and its payload differ.
    #[error("its {field} is {event}, and its payload's is {payload}")]
    Differs {
        /// The field that differs.
        field: &'static str,
        /// The event's value.
        event: String,
        /// The payload's value.
        payload: String,
    },
}

/// Converts an event made by [`event`] back.
///
/// # Errors
/// The event was made by another program, or changed on the way.
pub fn occurrence(event: &Event) -> Result<Occurrence, NotOne> {
    let occurrence = Occurrence::read_json(&event.payload)?;
    let same = |field, event: &str, payload: &str| match event == payload {
        true => Ok(()),
        false => Err(NotOne::Differs { field, event: event.to_owned(), payload: payload.to_owned() }),
    };
    same("id", &event.id, &occurrence.id.to_string())?;
    same("type", &event.event_type, &occurrence.kind)?;
    Ok(occurrence)
}

/// Converts an occurrence to an event.
#[must_use]
pub fn event(occurrence: &Occurrence) -> Event {
    let mut payload = Vec::with_capacity(PAYLOAD_BYTES);
    occurrence.write_json(&mut payload);
    let severity = match occurrence.severity {
        crate::Severity::Debug => Severity::Debug,
        crate::Severity::Info => Severity::Info,
        crate::Severity::Warning => Severity::Warning,
        crate::Severity::Error => Severity::Error,
        crate::Severity::Critical => Severity::Critical,
    };
    let outcome = match occurrence.outcome {
        crate::Outcome::Success => Outcome::Success,
        crate::Outcome::Failure => Outcome::Failure,
        crate::Outcome::Timeout => Outcome::Timeout,
        crate::Outcome::Unknown => Outcome::Unknown,
    };
    Event {
        id: occurrence.id.to_string(),
        timestamp_unix_ns: i64::try_from(occurrence.time_unix_ns).unwrap_or(i64::MAX),
        source: occurrence.source.clone().into_owned(),
        event_type: occurrence.kind.clone().into_owned(),
        metadata: metadata(occurrence),
        payload,
        route_to: Vec::new(),
        severity: severity.into(),
        outcome: outcome.into(),
        data: occurrence.peer.is_some().then(|| Data::Network(network(occurrence))),
    }
}

/// The keys that mappers downstream look up. Unknown values are left out.
fn metadata(occurrence: &Occurrence) -> HashMap<String, String> {
    let workload = occurrence.workload.as_deref();
    let cluster = occurrence.cluster.as_deref();
    let pod = workload.and_then(|w| w.pod.as_deref());
    let of_workload = [
        ("namespace", workload.and_then(|w| w.namespace.as_deref())),
        ("resource", pod.map(|_| "pod")),
        ("name", pod),
        ("pod_name", pod),
        ("uid", workload.and_then(|w| w.pod_uid.as_deref())),
        ("container_id", workload.and_then(|w| w.container_id.as_deref())),
        ("owner_kind", workload.and_then(|w| w.owner_kind.as_deref())),
        ("owner_name", workload.and_then(|w| w.owner.as_deref())),
    ];
    let node = Some(&*occurrence.node).filter(|node| !node.is_empty());
    let known = [("cluster", cluster), ("cluster_id", cluster), ("node_name", node)]
        .into_iter()
        .chain(of_workload)
        .filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())));
    let duration = latency_us(occurrence).map(|us| ("duration_us".to_owned(), us.to_string()));
    let mut metadata = HashMap::with_capacity(12);
    metadata.extend(known.chain(duration));
    metadata
}

/// The affected end is `src` and the peer is `dst`, whichever side connected.
fn network(occurrence: &Occurrence) -> NetworkEventData {
    let data = &occurrence.data;
    let text = |key| data.text(key).unwrap_or_default().to_owned();
    let port = |key| data.number(key).and_then(|port| u16::try_from(port).ok()).map(u32::from);
    let peer = occurrence.peer.as_ref();
    let rtt = data.number("rtt_us");
    let rtt_baseline = occurrence.baseline.as_ref().filter(|normal| rtt.is_some() && normal.unit == "us");
    // The first SYN is not a retransmission.
    let again = data.number("syns").map(|syns| syns.saturating_sub(1));
    let retransmits = data.number("retransmits").or(again);
    NetworkEventData {
        protocol: data.text("transport").unwrap_or("tcp").to_owned(),
        src_ip: data.address("local_address").map(|ip| ip.to_string()).unwrap_or_default(),
        dst_ip: peer.map(|peer| peer.address.to_string()).unwrap_or_default(),
        src_port: port("local_port").unwrap_or_default(),
        dst_port: peer.map(|peer| peer.port.into()).unwrap_or_default(),
        direction: text("direction"),
        dns_query: text("question"),
        dns_response: data.text("question").map(|_| text("error")).unwrap_or_default(),
        latency_ms: latency_us(occurrence).map(ms).unwrap_or_default(),
        rtt_baseline_ms: rtt_baseline.map(|normal| ms(normal.mean)).unwrap_or_default(),
        rtt_current_ms: rtt.map(ms).unwrap_or_default(),
        rtt_degradation_pct: match (rtt, rtt_baseline) {
            (Some(now), Some(normal)) if normal.mean > 0 => 100.0 * (now as f64 / normal.mean as f64 - 1.0),
            _ => 0.0,
        },
        bytes_received: data.number("bytes_received").unwrap_or_default(),
        retransmit_count: retransmits
            .map(|count| u32::try_from(count).unwrap_or(u32::MAX))
            .unwrap_or_default(),
        process_name: occurrence.process.as_ref().map(|p| p.comm.clone()).unwrap_or_default(),
        container_id: workload_text(occurrence, |w| &w.container_id),
        pod_name: workload_text(occurrence, |w| &w.pod),
        ..NetworkEventData::default()
    }
}

/// How long the connect took, or how long until it failed.
fn latency_us(occurrence: &Occurrence) -> Option<u64> {
    occurrence.data.number("handshake_us").or_else(|| occurrence.data.number("elapsed_us"))
}

fn workload_text(occurrence: &Occurrence, field: impl Fn(&crate::Workload) -> &Option<String>) -> String {
    occurrence.workload.as_deref().and_then(|w| field(w).clone()).unwrap_or_default()
}

fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}
