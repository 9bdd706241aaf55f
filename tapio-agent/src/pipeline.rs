//! The path of an event: record -> judge -> fold -> (queue) -> name -> expected? steady? -> sinks.

mod deliver;
mod expected;
pub mod fold;
mod memory;
mod owner;
mod restarts;
mod scope;
mod steady;

use std::{
    future::pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;
use tapio_common::{Header, WHOLE_NODE};
use tapio_occurrence::{Actor, Occurrence, Process, SOURCE, Workload, printable::printable};
use tapio_service::clock;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use ulid::Ulid;

pub use self::deliver::deliver;
use self::fold::Fold;
pub use self::{expected::Expected, steady::Steady};
use crate::{
    enrich::{Identity, cgroups::Lookup},
    metrics::Metrics,
    observer::{Anomaly, Judge},
    snapshot::Contributions,
    source::Records,
};

/// Minimum time between two ticks. A tick closes windows and reports pending anomalies when the first of them is due.
const TICK: Duration = Duration::from_millis(250);
/// Maximum number of records taken before ticks and other tasks run.
const BURST: usize = 1024;

/// The first half of the pipeline, one task per observer: from its records to the queue of anomalies.
#[derive(Debug)]
pub struct Stage {
    observer: &'static str,
    anomalies: mpsc::Sender<Anomaly>,
    /// Counts events, anomalies and losses.
    pub metrics: Arc<Metrics>,
    /// The counter of events, looked up once since every event increments it.
    events: Counter,
    /// Number of anomalies that the record under judgement stands for; 0 while none is being judged.
    under_judgement: AtomicU64,
    contributions: Option<Arc<Contributions>>,
}

impl Stage {
    /// Creates the stage of the observer of this name. It sends to this queue.
    #[must_use]
    pub fn new(observer: &'static str, anomalies: mpsc::Sender<Anomaly>, metrics: &Arc<Metrics>) -> Self {
        Self {
            observer,
            anomalies,
            metrics: Arc::clone(metrics),
            events: metrics.events(observer),
            under_judgement: AtomicU64::new(0),
            contributions: None,
        }
    }

    /// Makes the stage contribute learned state to snapshots, and restore it from them.
    #[must_use]
    pub fn contributing_to(self, contributions: Arc<Contributions>) -> Self {
        Self { contributions: Some(contributions), ..self }
    }

    /// Restores a judge from the snapshot, if the snapshot has state for its observer.
    pub fn restore(&self, judge: &mut dyn Judge) {
        let Some(before) =
            self.contributions.as_ref().and_then(|contributions| contributions.before(self.observer))
        else {
            return;
        };
        if let Err(error) = judge.restore(&before) {
            tracing::warn!(observer = self.observer, %error, "the observer's state snapshot cannot be used; it starts over");
        }
    }

    /// Contributes to the next snapshot if that is due. Returns false if this judge never contributes.
    fn contribute(&self, judge: &dyn Judge, is_last: bool) -> bool {
        let Some(contributions) = &self.contributions else { return false };
        if !is_last && !contributions.is_due(self.observer) {
            return true;
        }
        let Some(snapshot) = judge.snapshot() else { return false };
        contributions.contribute(self.observer, snapshot);
        true
    }

    /// Runs until `stop` completes, then takes the remaining records. Judged anomalies pass through `out`, and stay there
    /// if the judge panics.
    ///
    /// # Errors
    /// The source cannot be polled.
    pub async fn run(
        &self,
        records: &mut dyn Records,
        judge: &mut dyn Judge,
        fold: &mut Fold,
        out: &mut Vec<Anomaly>,
        stop: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let mut stop = std::pin::pin!(stop);
        let mut earliest = Instant::now();
        // An earlier run may have left records, and the kernel sends no wake-up while unread records exist.
        let mut more = true;
        let mut contributes = true;
        loop {
            let wake = self.wake_at(judge, fold, contributes);
            let due = async {
                match wake {
                    Some(wake) => sleep_until(wake.max(earliest)).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = due => {
                    earliest = Instant::now() + TICK;
                    judge.tick(clock::boot_ns(), out);
                    self.admit(out, fold);
                    fold.flush(clock::boot_ns(), out);
                    self.send(out);
                    contributes = contributes && self.contribute(judge, false);
                }
                () = tokio::task::yield_now(), if more => more = self.take(records, judge, fold, out),
                ready = records.ready(), if !more => {
                    ready?;
                    more = true;
                }
            }
        }
        while self.take(records, judge, fold, out) {}
        self.contribute(judge, true);
        judge.tick(u64::MAX, out);
        self.admit(out, fold);
        fold.finish(out);
        self.send(out);
        Ok(())
    }

    /// When the next tick is due: for the judge, for an open window, or for the next contribution.
    fn wake_at(&self, judge: &dyn Judge, fold: &Fold, contributes: bool) -> Option<Instant> {
        let boot_ns = [judge.wake_at(), fold.wake_at()].into_iter().flatten().min();
        let wake = boot_ns
            .map(|at_ns| Instant::now() + Duration::from_nanos(at_ns.saturating_sub(clock::boot_ns())));
        let contributions = self.contributions.as_ref().filter(|_| contributes);
        let contribution =
            contributions.and_then(|contributions| contributions.due_at(self.observer)).map(Into::into);
        wake.into_iter().chain(contribution).min()
    }

    /// Takes up to a burst of records. Returns true if there may be more.
    fn take(
        &self,
        records: &mut dyn Records,
        judge: &mut dyn Judge,
        fold: &mut Fold,
        out: &mut Vec<Anomaly>,
    ) -> bool {
        for _ in 0..BURST {
            if !records.next(&mut |record| self.observe(record, judge, out)) {
                return false;
            }
            self.admit(out, fold);
        }
        true
    }

    /// Judges one record and adds the resulting anomalies to `out`.
    pub fn observe(&self, record: &[u8], judge: &mut dyn Judge, out: &mut Vec<Anomaly>) {
        self.events.inc();
        self.under_judgement.store(stands_for(record), Ordering::Relaxed);
        let judged = judge.observe(record, out);
        self.under_judgement.store(0, Ordering::Relaxed);
        if let Err(malformed) = judged {
            self.metrics.dropped("record", "malformed", 1);
            tracing::warn!(observer = self.observer, %malformed, "an event cannot be read");
        }
    }

    /// Returns, and resets, the number of anomalies that the record stands for on which the judge panicked. 0 if it did
    /// not panic on a record.
    pub fn under_judgement(&self) -> u64 {
        self.under_judgement.swap(0, Ordering::Relaxed)
    }

    /// Counts anomalies, and queues those that do not wait in a window.
    pub fn admit(&self, out: &mut Vec<Anomaly>, fold: &mut Fold) {
        for anomaly in out.drain(..) {
            self.metrics.anomalies(self.observer, anomaly.kind.name, anomaly.count);
            let count = anomaly.count;
            match fold.admit(anomaly, clock::boot_ns()) {
                Some(now) => {
                    // A much worse repeat is sent at once, and its count includes the repeats before it.
                    if now.count > count {
                        self.metrics.folded(self.observer, count);
                    }
                    self.queue(now);
                }
                None => self.metrics.folded(self.observer, count),
            }
        }
    }

    /// Queues the follow-ups of closed windows.
    pub fn send(&self, out: &mut Vec<Anomaly>) {
        out.drain(..).for_each(|anomaly| self.queue(anomaly));
    }

    fn queue(&self, anomaly: Anomaly) {
        let count = anomaly.count;
        if self.anomalies.try_send(anomaly).is_err() {
            self.metrics.dropped("enrich", "queue_full", count);
        }
    }
}

/// Number of anomalies that a record stands for: itself, and those that the kernel suppressed before it.
fn stands_for(record: &[u8]) -> u64 {
    let header = record.get(..size_of::<Header>()).map(bytemuck::pod_read_unaligned::<Header>);
    header.map_or(1, |header| 1 + u64::from(header.suppressed))
}

/// The second half of the pipeline: resolves names and turns an anomaly into an occurrence. `None` if its report policy
/// excludes it, or if a probe of a pod that is not ready caused it.
pub fn name(anomaly: Anomaly, identity: &Identity, metrics: &Metrics) -> Option<Occurrence> {
    let time_unix_ns = clock::unix_ns(anomaly.time_ns);
    let owner = identity
        .of_volume(&anomaly)
        .map_or_else(|| identity.owner(anomaly.cgroup_id, anomaly.pid, anomaly.time_ns), Lookup::Known);
    if scope::is_probe(&anomaly, &owner)
        && anomaly.peer.is_some_and(|(address, _)| identity.may_fail_probes(address, time_unix_ns))
    {
        metrics.expected(anomaly.count);
        return None;
    }
    let actor = anomaly.actor.map(|actor| {
        let owner = identity.owner(actor.cgroup_id, actor.pid, anomaly.time_ns);
        (Process { pid: actor.pid, comm: comm(&actor.comm) }, owner)
    });
    let is_over = |workload: &Workload| identity.is_over(workload);
    if !scope::is_reported(anomaly.only, &owner, actor.as_ref().map(|(_, owner)| owner), is_over) {
        metrics.out_of_scope(anomaly.count);
        return None;
    }
    let workload = owner.workload();
    let actor = actor.map(|(process, owner)| Actor { process, workload: owner.workload() });
    let process = (anomaly.pid != 0).then(|| Process { pid: anomaly.pid, comm: comm(&anomaly.comm) });
    if workload.is_none() && process.is_none() && anomaly.cgroup_id != WHOLE_NODE {
        metrics.unattributed();
    }
    let peer = anomaly.peer.map(|(address, port)| identity.peer(address, port, time_unix_ns));
    let mut data = anomaly.data;
    if let Some(volume) = &anomaly.volume {
        data.push("volume", volume.name.clone());
        if let Some(claim) = identity.claim(volume) {
            data.push("claim", claim);
        }
    }
    if let Some(group) = anomaly.noisy_neighbour {
        let noisy_neighbour = identity.owner(group, 0, anomaly.time_ns).workload();
        // A container is not its own noisy neighbour: cgroups may be nested.
        match noisy_neighbour.filter(|noisy_neighbour| Some(noisy_neighbour) != workload.as_ref()) {
            Some(noisy_neighbour) => data.push("noisy_neighbour", noisy_neighbour),
            // Without the neighbour's name its numbers mean nothing.
            None => data.0.retain(|(key, _)| !key.starts_with("noisy_neighbour")),
        }
    }
    let mut occurrence = Occurrence {
        id: Ulid::from_parts(time_unix_ns / 1_000_000, fastrand::u128(..)),
        time_unix_ns,
        source: SOURCE.into(),
        kind: anomaly.kind.name.into(),
        severity: anomaly.severity,
        outcome: anomaly.outcome,
        message: String::new(),
        cluster: identity.cluster(),
        node: identity.node(),
        workload,
        process,
        actor,
        peer,
        data,
        baseline: anomaly.baseline,
        count: anomaly.count,
    };
    // Messages end up on terminals, so they must be printable.
    occurrence.message = printable(&(anomaly.message)(&occurrence)).into_owned();
    Some(occurrence)
}

/// Returns a command name without its padding. Bytes that are not UTF-8 become U+FFFD.
fn comm(padded: &[u8; 16]) -> String {
    let end = padded.iter().position(|byte| *byte == 0).unwrap_or(padded.len());
    String::from_utf8_lossy(&padded[..end]).into_owned()
}
