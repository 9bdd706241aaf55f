//! An occurrence: an anomaly with identity, the only data that leaves a node. It can be written and read as
//! JSON and as a gateway's event.
#![forbid(unsafe_code)]

pub mod attention;
mod bytes;
pub mod event;
pub mod feedback;
mod json;
pub mod kubernetes;
pub mod printable;
#[cfg(any(test, feature = "samples"))]
pub mod samples;
pub mod signal;

use std::{borrow::Cow, fmt, net::IpAddr, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

pub use bytes::Bytes;

/// A name: a constant where this program made it, owned where it was received.
pub type Name = Cow<'static, str>;

/// The severity of an occurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Details, for those who look for them.
    Debug,
    /// Worth knowing; nothing is wrong.
    Info,
    /// Something got worse.
    Warning,
    /// Something failed.
    Error,
    /// Something is down.
    Critical,
}

/// The outcome of an attempted operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It succeeded.
    Success,
    /// It failed.
    Failure,
    /// No answer came.
    Timeout,
    /// The outcome is not known.
    Unknown,
}

/// One value of [`Data`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A count, a size, a duration; the unit is in the key.
    Number(u64),
    /// A negative number.
    Signed(i64),
    /// A ratio.
    Real(f64),
    /// A name, or an address.
    Text(Name),
    /// Several entries of a kind, each with keys of its own.
    List(Vec<Data>),
    /// Another workload.
    Workload(Arc<Workload>),
}

/// Data specific to a type: documented keys, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Data(pub Vec<(Name, Value)>);

/// The affected workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Kubernetes namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Pod name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Pod UID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// Container name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Container id, 64 hexadecimal digits, without the runtime's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Container runtime: containerd, cri-o, docker, podman.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Name>,
    /// Image name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Kind of the owner: Deployment, StatefulSet, DaemonSet, Job, CronJob, ReplicaSet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner_kind: Option<String>,
    /// Name of the owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The outermost systemd unit, for processes outside containers; for a container that a user runs, that
    /// user's unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The pod's annotations `resource.opentelemetry.io/*` and labels `app.kubernetes.io/*`, from which sinks
    /// derive service names. Not in the JSON.
    #[serde(skip)]
    pub labels: Vec<(String, String)>,
}

/// The affected process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id in the root pid namespace.
    pub pid: u32,
    /// Command name from the kernel, at most 15 bytes.
    pub comm: String,
}

/// Command names of the kubelet, and of programs that it is a part of: k3s and MicroK8s.
const KUBELETS: [&str; 4] = ["kubelet", "k3s-server", "k3s-agent", "kubelite"];

/// The process that caused the event, such as the sender of a signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The process itself.
    pub process: Process,
    /// Its workload; `None` if unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<Arc<Workload>>,
}

/// The other side of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The names of its owner; `None` if unknown.
    #[serde(flatten, deserialize_with = "json::known")]
    pub names: Option<Arc<PeerNames>>,
}

/// The names of the owner of an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerNames {
    /// Kubernetes namespace of the service or pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Service name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Pod name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Node name. Pods on the host network have the node's address, too, and cannot be distinguished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Kind of the pod's owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner_kind: Option<String>,
    /// Name of the pod's owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// The baseline that the value was compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normal {
    /// Smoothed mean.
    pub mean: u64,
    /// Smoothed mean deviation.
    pub deviation: u64,
    /// Unit of both.
    pub unit: Name,
    /// Number of samples that it was learned from.
    pub samples: u32,
    /// The value divided by the mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

/// What happened, how far from normal, to which workload, and with which peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Occurrence {
    /// Unique id; receivers drop repeats by it.
    pub id: Ulid,
    /// When it happened, nanoseconds since 1970 UTC.
    #[serde(rename = "timestamp", with = "json::rfc3339")]
    pub time_unix_ns: u64,
    /// [`SOURCE`] for an agent's occurrences.
    pub source: Name,
    /// Dotted type, such as `network.rtt_spike`.
    #[serde(rename = "type")]
    pub kind: Name,
    /// The severity.
    pub severity: Severity,
    /// The outcome.
    pub outcome: Outcome,
    /// One sentence for people.
    pub message: String,
    /// Cluster name, from the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Arc<str>>,
    /// Node name; empty for what belongs to no node.
    #[serde(default = "nowhere", skip_serializing_if = "is_nowhere")]
    pub node: Arc<str>,
    /// The affected workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<Arc<Workload>>,
    /// The affected process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// The process that caused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    /// The other side of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<Peer>,
    /// Data specific to the type.
    #[serde(default, skip_serializing_if = "Data::is_empty")]
    pub data: Data,
    /// The baseline, for a measured value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Normal>,
    /// How many anomalies it stands for.
    pub count: u64,
}

/// The data key for the number of owners of an occurrence that stands for several owners' anomalies.
pub const OWNERS: &str = "owners";

/// The data key for the name of the cgroup whose limit was reached, if that cgroup is above the workload's
/// own.
pub const ANCESTOR: &str = "ancestor";

/// The `source` of every agent's occurrences.
pub const SOURCE: &str = "tapio";

impl Data {
    /// Whether the type has no data of its own.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a key.
    pub fn push(&mut self, key: impl Into<Name>, value: impl Into<Value>) {
        self.0.push((key.into(), value.into()));
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// The value of a key that holds a count, a size or a duration.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        match self.get(key) {
            Some(Value::Number(n)) => Some(*n),
            _ => None,
        }
    }

    /// The value of a key that holds a name.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The value of a key that holds another workload.
    #[must_use]
    pub fn workload(&self, key: &str) -> Option<&Workload> {
        match self.get(key) {
            Some(Value::Workload(workload)) => Some(workload),
            _ => None,
        }
    }

    /// The value of a key that holds an address.
    #[must_use]
    pub fn address(&self, key: &str) -> Option<IpAddr> {
        self.text(key)?.parse().ok()
    }
}

impl<K: Into<Name>, const N: usize> From<[(K, Value); N]> for Data {
    fn from(facts: [(K, Value); N]) -> Self {
        facts.into_iter().collect()
    }
}

impl<K: Into<Name>> FromIterator<(K, Value)> for Data {
    fn from_iter<I: IntoIterator<Item = (K, Value)>>(facts: I) -> Self {
        Self(facts.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        u64::try_from(number).map_or(Self::Signed(number), Self::Number)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

impl From<IpAddr> for Value {
    fn from(address: IpAddr) -> Self {
        address.to_string().into()
    }
}

impl From<Arc<Workload>> for Value {
    fn from(workload: Arc<Workload>) -> Self {
        Self::Workload(workload)
    }
}

impl Workload {
    /// The name that people use: pod, unit, container.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        let name = self.pod.as_deref().or(self.unit.as_deref());
        name.or(self.container_id.as_deref().map(short_id))
    }
}

/// Whether this is the command name of the kubelet, or of a program that it is a part of.
#[must_use]
pub fn is_kubelet(comm: &str) -> bool {
    KUBELETS.contains(&comm)
}

impl Occurrence {
    /// The affected workload or process, for messages: pod, container, unit, else the process.
    pub fn subject(&self) -> impl fmt::Display + '_ {
        struct Subject<'a>(&'a Occurrence);
        impl fmt::Display for Subject<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if let Some(owners) = self.0.data.number(OWNERS) {
                    return write!(f, "{owners} workloads or processes, worst case");
                }
                let named = self.0.workload.as_deref().and_then(Workload::name);
                match (named, &self.0.process) {
                    (Some(name), Some(p)) if !p.comm.is_empty() => write!(f, "{name} ({})", p.comm),
                    (Some(name), _) => f.write_str(name),
                    (None, Some(p)) => write!(f, "{}[{}]", p.comm, p.pid),
                    (None, None) => f.write_str("unknown process"),
                }
            }
        }
        Subject(self)
    }
}

fn nowhere() -> Arc<str> {
    "".into()
}

fn is_nowhere(node: &Arc<str>) -> bool {
    node.is_empty()
}

/// The first 12 digits, as container tools show them.
fn short_id(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

impl Peer {
    /// A peer without names.
    #[must_use]
    pub const fn unresolved(address: IpAddr, port: u16) -> Self {
        Self { address, port, names: None }
    }

    /// The names of its owner; empty if unknown.
    #[must_use]
    pub fn names(&self) -> &PeerNames {
        static NOBODY: PeerNames = PeerNames {
            namespace: None,
            service: None,
            pod: None,
            node: None,
            owner_kind: None,
            owner: None,
        };
        self.names.as_deref().unwrap_or(&NOBODY)
    }
}

impl fmt::Display for Peer {
    /// `service.namespace:port`, `pod.namespace:port`, `node:port` or `address:port`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names();
        let port = self.port;
        match (names.service.as_ref().or(names.pod.as_ref()), &names.namespace, &names.node, self.address) {
            (Some(name), Some(namespace), ..) => write!(f, "{name}.{namespace}:{port}"),
            (_, _, Some(node), _) => write!(f, "{node}:{port}"),
            (_, _, _, IpAddr::V6(address)) => write!(f, "[{address}]:{port}"),
            (_, _, _, IpAddr::V4(address)) => write!(f, "{address}:{port}"),
        }
    }
}

/// Converts nanoseconds since 1970 UTC. All of them are before the year 2555, and jiff supports years up to
/// 9999.
#[must_use]
pub fn timestamp(unix_ns: u64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(unix_ns)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
