//! What POLKU concludes from OpenTelemetry: the `data` of its occurrences.
//!
//! Spans, metrics and log records are samples. They are compared with their own past, and only the outcome is kept: one
//! signal for each entity whose calls fail, are slow, or that logs errors, and who calls whom.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Data, Occurrence,
    kubernetes::{Fact, Reference},
};

/// The `source` of signals.
pub const SOURCE: &str = "otlp";

/// Calls fail more often than normal.
pub const ERRORS: &str = "signal.errors";
/// Calls take longer than normal.
pub const LATENCY: &str = "signal.latency";
/// More errors are logged than normal.
pub const LOGS: &str = "signal.logs";

/// Kind of an entity of which only `service.name` is known.
pub const APPLICATION: &str = "Application";
/// Kind of an entity of which only the name or the address is known that others connect to.
pub const HOST: &str = "Host";

/// Whose view it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The entity is called (span kinds SERVER and CONSUMER).
    #[default]
    Server,
    /// The entity calls (span kinds CLIENT and PRODUCER).
    Client,
}

/// The part of an episode that a signal is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It has begun. There is one such signal in an episode.
    #[default]
    Began,
    /// It goes on; sent once a minute.
    Continues,
    /// It is over.
    Ended,
}

/// `signal.errors`, `signal.latency` and `signal.logs`: an entity is not as it normally is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    /// The entity: a workload by the names of its owner, else a pod, else an `Application`.
    #[serde(flatten)]
    pub object: Reference,
    /// Its `service.name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Whether it is called or calls; absent for logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<Side>,
    /// The entity that it calls, where it is the client.
    #[serde(flatten)]
    pub peer: Peer,
    /// The operation class: `http`, `rpc`, `database`, `messaging` or `other`; absent for logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// What it is concluded from: `spans`, `metrics` or `logs`.
    pub from: String,
    /// The part of the episode.
    pub phase: Phase,
    /// How long before the timestamp the episode began.
    pub since_ms: u64,
    /// The time that the following numbers are about: it ends with the timestamp.
    pub window_ms: u64,
    /// Calls, or log records.
    pub calls: u64,
    /// Failed calls, or log records of severity ERROR and above.
    pub errors: u64,
    /// 90th percentile of the duration of calls that did not fail, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p90_us: Option<u64>,
    /// Pods with failed or slow calls; at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<Member>,
    /// Exemplars: traces with a failed or slow call; at most [`EXEMPLARS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traces: Vec<Trace>,
    /// Entities that these traces passed through, as far as they are known; at most 16 a trace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed: Vec<Passed>,
}

/// Most exemplars of a signal.
pub const EXEMPLARS: usize = 5;

/// The other end of calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Peer {
    /// Kind.
    #[serde(default, rename = "peer_kind", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Namespace; of a `Host` without dots the caller's.
    #[serde(default, rename = "peer_namespace", skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    #[serde(default, rename = "peer_name", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Its UID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
}

/// An exemplar.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Trace id, 32 hexadecimal digits.
    pub trace_id: String,
    /// Span id, 16 hexadecimal digits; absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span_id: Option<String>,
}

/// An entity that a trace passed through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// The trace.
    pub trace_id: String,
    /// The entity.
    #[serde(flatten)]
    pub object: Reference,
}

/// `signal.calls`: whom an entity calls. Sent when it calls somebody for the first time, and every ten minutes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// The caller.
    #[serde(flatten)]
    pub object: Reference,
    /// Its `service.name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Whom it calls; at most 64 in one occurrence.
    pub calls: Vec<Call>,
}

/// One that is called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The entity.
    #[serde(flatten)]
    pub object: Reference,
    /// The operation class.
    pub operation: String,
    /// How long before the timestamp the first of these calls was.
    pub since_ms: u64,
    /// How long before the timestamp the last of them was.
    pub last_ms: u64,
    /// How many.
    pub count: u64,
}

impl Fact for Calls {
    const TYPE: &'static str = "signal.calls";
}

impl Signal {
    /// The occurrence's `data`, with keys in the order of the fields.
    ///
    /// # Errors
    /// Never: the fields are texts, numbers and lists of such.
    pub fn to_data(&self) -> serde_json::Result<Data> {
        round(self)
    }

    /// Reads the `data` of an occurrence; `None` if it is of another type.
    pub fn of(occurrence: &Occurrence) -> Option<serde_json::Result<Self>> {
        matches!(&*occurrence.kind, ERRORS | LATENCY | LOGS).then(|| round(&occurrence.data))
    }

    /// The entity that it calls.
    #[must_use]
    pub fn called(&self) -> Option<Reference> {
        let (kind, name) = self.peer.kind.clone().zip(self.peer.name.clone())?;
        Some(Reference { kind, namespace: self.peer.namespace.clone(), name, uid: None })
    }
}

fn round<T: DeserializeOwned>(from: &impl Serialize) -> serde_json::Result<T> {
    serde_json::from_slice(&serde_json::to_vec(from)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn what_is_written_is_read() {
        let object = Reference {
            kind: "Deployment".to_owned(),
            namespace: Some("shop".to_owned()),
            name: "checkout".to_owned(),
            uid: None,
        };
        let signal = Signal {
            object: object.clone(),
            service: Some("checkout".to_owned()),
            side: Some(Side::Client),
            peer: Peer {
                kind: Some(HOST.to_owned()),
                namespace: Some("shop".to_owned()),
                name: Some("payments".to_owned()),
            },
            operation: Some("http".to_owned()),
            from: "spans".to_owned(),
            since_ms: 30_000,
            window_ms: 30_000,
            calls: 100,
            errors: 50,
            p90_us: Some(7),
            pods: vec![Member { pod: Some("checkout-1".to_owned()), pod_uid: None }],
            traces: vec![Trace { trace_id: "0af7651916cd43dd8448eb211c80319c".to_owned(), span_id: None }],
            passed: vec![Passed {
                trace_id: "0af7651916cd43dd8448eb211c80319c".to_owned(),
                object: object.clone(),
            }],
            ..Signal::default()
        };
        let fact =
            Occurrence { kind: ERRORS.into(), data: signal.to_data().unwrap(), ..samples::occurrence() };
        let mut json = Vec::new();
        fact.write_json(&mut json);
        let fact = Occurrence::read_json(&json).unwrap();
        assert_eq!(Signal::of(&fact).unwrap().unwrap(), signal);
        assert_eq!(signal.called().unwrap().name, "payments");
        assert!(Signal::of(&samples::occurrence()).is_none());

        let call = Call { object: object.clone(), operation: "rpc".to_owned(), count: 3, ..Call::default() };
        let calls = Calls { object, service: None, calls: vec![call] };
        let fact =
            Occurrence { kind: Calls::TYPE.into(), data: calls.to_data().unwrap(), ..samples::occurrence() };
        assert_eq!(Calls::of(&fact).unwrap().unwrap(), calls);
    }
}
