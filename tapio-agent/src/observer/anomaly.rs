//! An anomaly: a judgement that has no names yet.

use std::net::IpAddr;

use tapio_common::Header;
use tapio_occurrence::{Data, Normal, Occurrence, Outcome, Severity};

use super::{Kind, Volume};

/// A judgement on one or several events, before names are resolved.
#[derive(Clone, Debug)]
pub struct Anomaly {
    /// Its type.
    pub kind: &'static Kind,
    /// Severity: the default of its type, or one for this case.
    pub severity: Severity,
    /// Outcome of the attempted operation.
    pub outcome: Outcome,
    /// When it happened, in boot clock nanoseconds.
    pub time_ns: u64,
    /// Owner's cgroup; 0 if unknown; [`tapio_common::WHOLE_NODE`] for the node itself.
    pub cgroup_id: u64,
    /// Owner's process; 0 if unknown.
    pub pid: u32,
    /// Owner's command name, zero-padded.
    pub comm: [u8; 16],
    /// The process that caused it, such as the sender of a signal. `None` if there is none or it is unknown.
    pub actor: Option<Box<Actor>>,
    /// The OOM cgroup. Enrichment adds its processes and its memory history to the report.
    pub full: Option<u64>,
    /// The pod's volume that it is about. What has no owner of its own belongs to that pod.
    pub volume: Option<Volume>,
    /// Report policy: the owners for which it is reported, and how often.
    pub only: Only,
    /// Address and port of the peer.
    pub peer: Option<(IpAddr, u16)>,
    /// Distinguishes anomalies of the same type, owner and peer address, such as a service's port. Repeats share it.
    pub detail: u32,
    /// Data that is specific to the type.
    pub data: Data,
    /// The cgroup whose CPU time rose at the same time: the likely cause.
    pub noisy_neighbour: Option<u64>,
    /// The normal value. `None` for a type without a baseline.
    pub baseline: Option<Normal>,
    /// The number by which repeats are compared: the repeat with the greatest is reported.
    pub magnitude: u64,
    /// Number of anomalies that it stands for, including those that the kernel suppressed.
    pub count: u64,
    /// Rate of the repeats in a follow-up. `None` for a first report, and for repeats that are left when the agent ends.
    pub pace: Option<Pace>,
    /// Writes the one-sentence message, once names are resolved.
    pub message: fn(&Occurrence) -> String,
}

impl Anomaly {
    /// Sets the fields that the type determines, and takes owner and time from an event's header. A caller sets the
    /// others by struct update: `Anomaly { data, ..Anomaly::new(kind, header) }`.
    #[must_use]
    pub fn new(kind: &'static Kind, header: &Header) -> Self {
        Self {
            kind,
            severity: kind.severity,
            outcome: kind.outcome,
            time_ns: header.time_ns,
            cgroup_id: header.cgroup_id,
            pid: header.pid,
            comm: header.comm.into(),
            actor: None,
            full: None,
            volume: None,
            only: Only::ALL,
            peer: None,
            detail: 0,
            data: Data::default(),
            noisy_neighbour: None,
            baseline: None,
            magnitude: 0,
            count: 1 + u64::from(header.suppressed),
            pace: None,
            message: kind.message,
        }
    }
}

/// The rate of folded repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Length of the window in which they came, in nanoseconds.
    pub window_ns: u64,
    /// The most repeats in any one second.
    pub per_second: u64,
    /// They were spread evenly over the window, not in bursts.
    pub is_even: bool,
}

/// A process that caused an anomaly, before names are resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Its cgroup; 0 if unknown.
    pub cgroup_id: u64,
    /// Process id.
    pub pid: u32,
    /// Its command name, zero-padded.
    pub comm: [u8; 16],
}

/// Report policy: for which owners an anomaly is reported, and how often. The pipeline applies it once names are
/// resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Only {
    /// The owners for which it is reported.
    pub scope: Scope,
    /// Do not report it if the actor is in the same container or unit.
    pub from_outside: bool,
    /// Length of the windows, in nanoseconds, in which the expected rate per owner is learned. At the expected rate,
    /// one report per window stands for all. `None`: every anomaly is reported.
    pub expected_window_ns: Option<u64>,
    /// Do not report the exit of a pod's sandbox: the container that holds the pod's namespaces, which runs no workload.
    pub sandbox: Sandbox,
    /// Fold repeats by pod, since a restarted pod runs a new container each time.
    pub by_pod: bool,
    /// Do not report it, only count it: the other end of the connection is also on this node and reports it.
    pub by_other_end: bool,
}

/// Whether an exit may be that of a pod's sandbox. A container that the pod's status names is never the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// It is not the sandbox.
    No,
    /// It is the sandbox if the pod has ended and its status does not name the container.
    Unlisted,
    /// It is the sandbox if it is in a pod.
    Likely {
        /// It is the first process of its pid namespace: then it counts as the sandbox even if its cgroup has vanished.
        is_first: bool,
    },
}

impl Only {
    /// Report it for every owner, every time.
    pub const ALL: Self = Self {
        scope: Scope::All,
        from_outside: false,
        expected_window_ns: None,
        sandbox: Sandbox::No,
        by_pod: false,
        by_other_end: false,
    };
}

tapio_service::setting::choices! {
    /// The processes that are in scope. Each value includes those before it.
    pub enum Scope {
        /// Processes in containers and pods.
        Containers = "containers",
        /// Also processes of systemd services.
        Services = "services",
        /// All processes on the host.
        All = "all",
    }
}
