//! What PORTTI says about the objects of a cluster: the `data` of its occurrences.
//!
//! Texts are Kubernetes' own: kinds, names, reasons and condition types are spelled as in its API. Values of ConfigMaps
//! and Secrets are only here as salted hashes, and values of environment variables not at all.

use std::net::IpAddr;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Data, Occurrence};

/// The `source` of PORTTI's occurrences.
pub const SOURCE: &str = "portti";

/// The data of one type of occurrence.
pub trait Fact: Serialize + DeserializeOwned {
    /// The type of the occurrence.
    const TYPE: &'static str;

    /// The occurrence's `data`, with keys in the order of the fields.
    ///
    /// # Errors
    /// Never for the types of this module: their fields are texts, numbers and lists of such.
    fn to_data(&self) -> serde_json::Result<Data> {
        serde_json::from_slice(&serde_json::to_vec(self)?)
    }

    /// Reads the `data` of an occurrence; `None` if it is of another type.
    fn of(occurrence: &Occurrence) -> Option<serde_json::Result<Self>> {
        let read = || serde_json::from_value(serde_json::to_value(&occurrence.data)?);
        (occurrence.kind == Self::TYPE).then(read)
    }
}

/// An object of the API.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Reference {
    /// Kind, such as `Deployment`.
    pub kind: String,
    /// Namespace; absent for objects of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// UID; absent where another object only names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// `kubernetes.object`: an object as it has been since the timestamp, with its relations. Sent when PORTTI first sees the
/// object, and when anything in it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// The object.
    #[serde(flatten)]
    pub object: Reference,
    /// When it was created, nanoseconds since 1970 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_unix_ns: Option<u64>,
    /// Owner references, the controller first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<Reference>,
    /// The node that a pod is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// `true` for a pod with the network of its node: its addresses are the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_network: Option<String>,
    /// Addresses of a pod, a node, or a service (cluster, external and load balancer addresses).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
    /// Ports of a service or an EndpointSlice, or the declared ports of a pod's containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Labels that an object selects pods by: of a Service, a workload, a NetworkPolicy, a PodDisruptionBudget.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub selector: Vec<Pair>,
    /// Labels of a pod, of a workload's pod template, or of a node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<Pair>,
    /// What a pod or a pod template uses (ConfigMap, Secret, PersistentVolumeClaim, ServiceAccount), what a claim is bound
    /// to (PersistentVolume), what an Ingress or HTTPRoute routes to (Service), what an EndpointSlice is of (Service),
    /// what an autoscaler scales.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uses: Vec<Reference>,
    /// Members of an EndpointSlice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// Containers of a pod or a pod template, init containers too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<Container>,
    /// Desired number of pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u64>,
    /// Revision of a ReplicaSet (`deployment.kubernetes.io/revision`) or of a pod (its `pod-template-hash` or
    /// `controller-revision-hash`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

/// An address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
}

/// A port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Number.
    pub port: u16,
    /// Port of the pods behind a service: a number, or the name of a container's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Protocol, if it is not TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

/// A label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Hash)]
pub struct Pair {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
}

/// A member of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The pod's UID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// Whether it gets connections: `true` or `false`.
    pub ready: String,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Name.
    pub name: String,
    /// Image.
    pub image: String,
    /// Memory limit, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// Memory request, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_request_bytes: Option<u64>,
    /// CPU limit, thousandths of a core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit_millicores: Option<u64>,
    /// CPU request, thousandths of a core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_request_millicores: Option<u64>,
}

/// `kubernetes.deleted`: an object is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// The object.
    #[serde(flatten)]
    pub object: Reference,
}

/// `kubernetes.change`: somebody changed what an object should be. Status is not a change, nor is what a controller does
/// as a consequence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The object.
    #[serde(flatten)]
    pub object: Reference,
    /// What was done.
    pub verb: Verb,
    /// What differs; empty where the object was created or deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Field>,
    /// Number of further fields that differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more: Option<u64>,
    /// Field manager, such as `kubectl-client-side-apply`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager: Option<String>,
    /// Tool that owns the object: `Argo CD`, `Flux`, `Helm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The tool's application or release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<String>,
    /// The tool's revision, such as a commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_revision: Option<String>,
    /// Changes that were made together have the same set: one apply or one sync.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// `metadata.generation` after the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

/// What was done to an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// It did not exist before.
    Created,
    /// It is different now.
    #[default]
    Updated,
    /// It does not exist any more.
    Deleted,
}

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Path, with entries of lists by name: `spec.template.spec.containers.app.image`.
    pub path: String,
    /// What it is about.
    pub aspect: Aspect,
    /// Value before; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Value after; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// What a field is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aspect {
    /// Image of a container.
    Image,
    /// Memory limit or request.
    Memory,
    /// CPU limit or request.
    Cpu,
    /// Command or arguments.
    Command,
    /// Environment variables, and where they come from.
    Environment,
    /// Liveness, readiness or startup probe.
    Probe,
    /// Volumes and mounts.
    Volume,
    /// Where pods may run: node selector, affinity, tolerations, priority, topology.
    Placement,
    /// Users, capabilities, service account.
    Security,
    /// Anything else of a pod template.
    Template,
    /// Number of pods, and bounds of an autoscaler.
    Replicas,
    /// Entries of a ConfigMap or Secret.
    Data,
    /// Which pods are selected.
    Selector,
    /// Ports of a service.
    Ports,
    /// Rules of a NetworkPolicy, a route, a role or a webhook.
    Rules,
    /// Amounts of a ResourceQuota, a LimitRange, a claim.
    Amount,
    /// Taints and cordon of a node.
    Node,
    /// Labels and annotations.
    Metadata,
    /// Anything else.
    Other,
}

/// `kubernetes.condition`: a state that an object's status has had since the timestamp, or no longer has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// The object.
    #[serde(flatten)]
    pub object: Reference,
    /// The condition: one of [`condition`].
    pub condition: String,
    /// `true`, or `false` where it has ended.
    pub status: String,
    /// Reason, such as `CrashLoopBackOff`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Text of the API server or the kubelet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Container of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Exit status of a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// Signal that ended a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<u64>,
    /// Restarts of a container so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarts: Option<u64>,
}

/// Conditions.
pub mod condition {
    /// A container does not start; the reason says why. Not for the reasons of a normal start (`ContainerCreating`,
    /// `PodInitializing`) in the first minute.
    pub const WAITING: &str = "Waiting";
    /// A container ended, with a reason, an exit status or a signal. It has no end.
    pub const TERMINATED: &str = "Terminated";
    /// A pod that was ready, or started a minute ago, is not ready.
    pub const NOT_READY: &str = "NotReady";
    /// No node takes a pod; the text says why.
    pub const UNSCHEDULABLE: &str = "Unschedulable";
    /// A kubelet evicted a pod; the text says why. It has no end.
    pub const EVICTED: &str = "Evicted";
    /// A node's kubelet reports that it is not ready, or reports nothing.
    pub const NODE_NOT_READY: &str = "NodeNotReady";
    /// A node is short of memory.
    pub const MEMORY_PRESSURE: &str = "MemoryPressure";
    /// A node is short of disk space.
    pub const DISK_PRESSURE: &str = "DiskPressure";
    /// A node is short of process ids.
    pub const PID_PRESSURE: &str = "PIDPressure";
    /// A node's network is not set up.
    pub const NETWORK_UNAVAILABLE: &str = "NetworkUnavailable";
    /// A rollout does not progress.
    pub const PROGRESS_DEADLINE_EXCEEDED: &str = "ProgressDeadlineExceeded";
    /// A workload's pods cannot be created; the text says why.
    pub const REPLICA_FAILURE: &str = "ReplicaFailure";
    /// A service selects pods, or has endpoints listed, and none of them is ready.
    pub const NO_ENDPOINTS: &str = "NoEndpoints";
    /// A claim is not bound.
    pub const PENDING: &str = "Pending";
    /// A claim's volume is gone.
    pub const LOST: &str = "Lost";
    /// A job failed.
    pub const FAILED: &str = "Failed";
    /// A quota has nothing left of a resource; the text says of which.
    pub const USED_UP: &str = "UsedUp";
    /// An autoscaler wants more pods than its maximum.
    pub const AT_MAXIMUM: &str = "AtMaximum";
    /// An autoscaler cannot scale; the reason says why.
    pub const UNABLE_TO_SCALE: &str = "UnableToScale";
}

/// `kubernetes.warning`: Warning Events about an object, folded by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// The object.
    #[serde(flatten)]
    pub object: Reference,
    /// Reason, such as `FailedMount`.
    pub reason: String,
    /// Text of the last one.
    pub text: String,
    /// Component that reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reporter: Option<String>,
    /// When the first one came, nanoseconds since 1970 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_unix_ns: Option<u64>,
}

/// `kubernetes.synced`: PORTTI has sent all objects of these kinds as they were at the timestamp; what it did not send does
/// not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Synced {
    /// Kinds that are watched.
    pub kinds: Vec<Watched>,
    /// Kinds that cannot be watched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// A kind that is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// Kind.
    pub kind: String,
    /// Number of objects.
    pub objects: u64,
}

/// A kind that cannot be watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Kind.
    pub kind: String,
    /// Why, and what to do.
    pub reason: String,
}

impl Fact for Object {
    const TYPE: &'static str = "kubernetes.object";
}

impl Fact for Deleted {
    const TYPE: &'static str = "kubernetes.deleted";
}

impl Fact for Change {
    const TYPE: &'static str = "kubernetes.change";
}

impl Fact for Condition {
    const TYPE: &'static str = "kubernetes.condition";
}

impl Fact for Warning {
    const TYPE: &'static str = "kubernetes.warning";
}

impl Fact for Synced {
    const TYPE: &'static str = "kubernetes.synced";
}
