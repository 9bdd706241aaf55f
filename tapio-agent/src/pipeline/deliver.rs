//! The second half of the pipeline, as one task: it takes anomalies from the queue, resolves names, and sends
//! occurrences to the sinks.

use std::{sync::Arc, time::Duration};

use tapio_occurrence::Occurrence;
use tapio_service::clock;
use tokio::sync::mpsc;

use super::{
    expected::{self, Expected},
    name,
    restarts::Restarts,
    steady::{self, Steady},
};
use crate::{
    enrich::{Identity, Waiting},
    metrics::Metrics,
    observer::{self, Anomaly},
    snapshot::Contributions,
};

/// How often the task checks for expected occurrences that have waited long enough.
const TICK: Duration = Duration::from_secs(1);

/// Runs until the queue is closed and empty. Anomalies whose names may still come wait aside and delay no
/// others; the task waits for them even after the queue has closed.
pub async fn deliver(
    mut queue: mpsc::Receiver<Anomaly>,
    mut identity: Identity,
    metrics: &Arc<Metrics>,
    contributions: &Contributions,
    mut send: impl FnMut(Occurrence),
) {
    let mut send = |occurrence: Occurrence| {
        // What has stopped is already counted as expected.
        if !steady::has_stopped(&occurrence) {
            metrics.reported(occurrence.count);
        }
        send(occurrence);
    };
    let mut waiting = Waiting::default();
    let mut expected = Expected::restored(Arc::clone(metrics), contributions);
    let mut steady = Steady::restored(Arc::clone(metrics), contributions);
    let mut restarts = Restarts::default();
    let mut tick = tokio::time::interval(TICK);
    let mut open = true;
    while open || !waiting.is_empty() {
        let anomaly = tokio::select! {
            biased;
            // This comes first, so that a full queue does not delay them further.
            next = waiting.next(), if !waiting.is_empty() => {
                if let Some(Anomaly { cgroup_id, time_ns, .. }) = next {
                    identity.find(cgroup_id, time_ns).await;
                }
                next
            }
            _ = tick.tick() => {
                steady.stopped(clock::boot_ns()).into_iter().for_each(&mut send);
                expected.over(clock::boot_ns()).for_each(&mut send);
                steady.over(clock::boot_ns()).into_iter().for_each(&mut send);
                for repeats in restarts.over(clock::boot_ns()) {
                    identity.find(repeats.cgroup_id, repeats.time_ns).await;
                    named(repeats, &identity, metrics, &mut expected, &mut steady).into_iter().for_each(&mut send);
                }
                if contributions.is_due(Expected::NAME) {
                    expected.contribute(contributions);
                }
                if contributions.is_due(Steady::NAME) {
                    steady.contribute(contributions);
                }
                None
            }
            next = queue.recv(), if open => match next {
                Some(anomaly) => arrive(anomaly, &mut identity, &mut waiting).await,
                None => {
                    open = false;
                    None
                }
            },
        };
        let Some(anomaly) = anomaly else { continue };
        let (observer, count) = (observer::of(anomaly.kind.name), anomaly.count);
        let Some(first) = first_of_pod(anomaly, &identity, &mut restarts) else {
            metrics.folded(observer, count);
            continue;
        };
        named(first, &identity, metrics, &mut expected, &mut steady).into_iter().for_each(&mut send);
    }
    for repeats in restarts.over(u64::MAX) {
        identity.find(repeats.cgroup_id, repeats.time_ns).await;
        named(repeats, &identity, metrics, &mut expected, &mut steady).into_iter().for_each(&mut send);
    }
    expected.contribute(contributions);
    steady.contribute(contributions);
    expected.over(u64::MAX).for_each(&mut send);
    steady.over(u64::MAX).into_iter().for_each(&mut send);
}

/// Returns the anomaly, or `None` if it is a repeat within its pod.
fn first_of_pod(anomaly: Anomaly, identity: &Identity, restarts: &mut Restarts) -> Option<Anomaly> {
    if !anomaly.only.by_pod {
        return Some(anomaly);
    }
    let owner = identity.owner(anomaly.cgroup_id, anomaly.pid, anomaly.time_ns).workload();
    match owner.as_ref().and_then(|workload| workload.pod_uid.as_deref()) {
        Some(pod_uid) => restarts.admit(pod_uid, anomaly, clock::boot_ns()),
        None => Some(anomaly),
    }
}

/// Turns an anomaly into an occurrence. `None` if it is out of scope, or retained as expected or steady.
fn named(
    anomaly: Anomaly,
    identity: &Identity,
    metrics: &Metrics,
    expected: &mut Expected,
    steady: &mut Steady,
) -> Option<Occurrence> {
    let (expected_sample, steady_sample) = (expected::Sample::of(&anomaly), steady::Sample::of(&anomaly));
    let occurrence = name(anomaly, identity, metrics)?;
    match (expected_sample, steady_sample) {
        (Some(sample), _) => expected.admit(sample, occurrence),
        (None, Some(sample)) => steady.admit(sample, occurrence, clock::boot_ns()),
        (None, None) => Some(occurrence),
    }
}

/// Returns the anomaly if it need not wait for names, or if there is no room to wait.
async fn arrive(
    mut anomaly: Anomaly,
    identity: &mut Identity,
    waiting: &mut Waiting<Anomaly>,
) -> Option<Anomaly> {
    identity.find_all(&mut anomaly).await;
    match identity.missing(&anomaly) {
        Some(missing) => waiting.hold(anomaly, missing),
        None => Some(anomaly),
    }
}
