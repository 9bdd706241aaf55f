//! Facts as occurrences.

use std::sync::Arc;

use tapio_occurrence::{
    Occurrence, Outcome, Severity, Workload,
    kubernetes::{Condition, Fact, Reference, SOURCE, condition},
};
use ulid::Ulid;

use super::salt::fingerprint;

/// A fact, and what an occurrence says beside it.
pub(super) struct Said<'a, F> {
    pub(super) fact: &'a F,
    /// When it happened.
    pub(super) time_unix_ns: u64,
    /// The time in its id, if that is another one: where nothing says when it happened, each replica has heard of it at
    /// another time.
    pub(super) id_unix_ns: Option<u64>,
    pub(super) severity: Severity,
    pub(super) outcome: Outcome,
    pub(super) message: String,
    /// What it is about, and in which version.
    pub(super) about: (&'a Reference, &'a str),
    /// What distinguishes it from other facts of that version.
    pub(super) apart: &'a [&'a str],
    pub(super) node: Option<&'a str>,
    pub(super) workload: Option<Workload>,
    pub(super) count: u64,
}

impl<F: Fact> Said<'_, F> {
    /// The occurrence. Its id depends on nothing but the fact, so that a receiver drops it if it is sent again.
    pub(super) fn occurrence(self, cluster: Option<&Arc<str>>) -> anyhow::Result<Occurrence> {
        let (object, version) = self.about;
        let uid = object.uid.as_deref().unwrap_or_default();
        let parts = [&[uid, version, F::TYPE], self.apart].concat();
        Ok(Occurrence {
            id: Ulid::from_parts(
                self.id_unix_ns.unwrap_or(self.time_unix_ns) / 1_000_000,
                fingerprint(&parts),
            ),
            time_unix_ns: self.time_unix_ns,
            source: SOURCE.into(),
            kind: F::TYPE.into(),
            severity: self.severity,
            outcome: self.outcome,
            message: self.message,
            cluster: cluster.cloned(),
            node: self.node.unwrap_or_default().into(),
            workload: self.workload.map(Arc::new),
            process: None,
            actor: None,
            peer: None,
            data: self.fact.to_data()?,
            baseline: None,
            count: self.count,
        })
    }
}

/// How bad a state is.
pub(super) fn severity(state: &Condition) -> Severity {
    let reason = state.reason.as_deref().unwrap_or_default();
    match state.condition.as_str() {
        _ if state.status == "false" => Severity::Info,
        condition::WAITING if reason == "ContainerCreating" || reason == "PodInitializing" => {
            Severity::Warning
        }
        condition::TERMINATED if state.exit_code == Some(0) => Severity::Info,
        condition::NOT_READY
        | condition::MEMORY_PRESSURE
        | condition::DISK_PRESSURE
        | condition::PID_PRESSURE
        | condition::PENDING
        | condition::AT_MAXIMUM => Severity::Warning,
        _ => Severity::Error,
    }
}
