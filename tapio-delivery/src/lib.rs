//! Sinks: the destinations of occurrences. Each is a bounded queue and a task with a destination, so a slow
//! sink delays only itself.
//!
//! Every occurrence given to a sink is at any moment sent, rejected, dropped for a reason, on disk, or in
//! memory: [`Ledger::balanced`]. It counts as **accepted** once the destination has acknowledged it or it is
//! on disk, which takes at most a second. Accepted occurrences arrive, at least once.

#![forbid(unsafe_code)]

mod connection;
mod metrics;
pub mod otlp;
pub mod polku;
mod queue;
mod sizing;
pub mod spool;
pub mod stdout;
mod task;
#[cfg_attr(not(feature = "telemetry"), path = "telemetry/absent.rs")]
pub mod telemetry;

use std::{
    collections::BTreeMap,
    error::Error,
    fmt,
    future::{Future, pending, ready},
    mem,
    path::Path,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt as _, future::join_all};
use serde::{Serialize, Serializer};
use tapio_occurrence::Occurrence;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

use queue::Queue;

pub use connection::{About, Trouble};
pub use metrics::Metrics;

/// The most occurrences that wait for a sink before more are dropped: some 10 MB, hours of a bad day.
pub const QUEUE_CAPACITY: usize = 8192;

/// A delivery that takes longer counts as stalled.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long remaining work may take once the user wants to stop at once.
const HURRY: Duration = Duration::from_secs(1);
/// How long closing a spool may take at the end.
const CLOSE: Duration = Duration::from_secs(2);

/// The destination of a sink.
pub trait Destination: Send + 'static {
    /// The sink's name, used as metric label and key in `/status`.
    const NAME: &'static str;

    /// Whether occurrences that it cannot take in time are spooled on disk, also for the next run. False for
    /// a destination that never acknowledges.
    const SPOOLED: bool = true;

    /// Whether programs read it, and get heartbeats and edges, too. False for a destination that people read.
    const FOR_PROGRAMS: bool = true;

    /// The state when a delivery takes longer than [`PATIENCE`]; `None` if deliveries have their own timeout.
    const STALLED: Option<&'static str> = None;

    /// When a batch is delivered.
    fn batching(&self) -> Batching;

    /// The connected endpoint, for a destination with several.
    fn endpoint(&self) -> Option<&str> {
        None
    }

    /// Prepares to deliver. Called at the start and after each [`Failure`]. `Reject` ends the sink for good.
    fn connect(&mut self) -> impl Future<Output = Result<(), Failure>> + Send {
        ready(Ok(()))
    }

    /// Delivers a batch, or the part at its beginning for which the receipt has verdicts.
    fn deliver(&mut self, batch: &[Arc<Occurrence>])
    -> impl Future<Output = Result<Receipt, Failure>> + Send;

    /// Runs while there is nothing to deliver, and returns only when the connection to the destination is
    /// lost. It is cancelled when there is something to deliver.
    fn idle(&mut self) -> impl Future<Output = Failure> + Send {
        pending()
    }

    /// Closes the connection after the last batch.
    fn close(&mut self) -> impl Future<Output = ()> + Send {
        ready(())
    }
}

/// A batch is complete at `count` occurrences, or when the first has waited for `age`. A destination that
/// also limits bytes may answer for only the beginning of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Batching {
    /// The most occurrences in a batch.
    pub count: usize,
    /// How long the first occurrence waits for others.
    pub age: Duration,
}

/// The verdicts on the first occurrences of a batch. The others stay queued.
#[derive(Clone, Debug, Default)]
pub struct Receipt {
    /// One verdict per occurrence, in order.
    pub verdicts: Vec<Verdict>,
    /// The destination is nearly full and wants less.
    pub slow: bool,
}

/// The result for one occurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The destination acknowledged it.
    Taken,
    /// The destination refused it, and would refuse it again.
    Refused,
    /// The destination gave no verdict. It is sent again, a few times.
    Unanswered,
}

/// Why a batch was not delivered; the only failures that a destination may return.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Temporary: the batch is retained and delivered later.
    #[error("{0}")]
    Retry(String),
    /// As `Retry`, but only after an operator has corrected the configuration of either side.
    #[error("{0}")]
    Hold(Trouble),
    /// Permanent: the batch is refused.
    #[error("{0}")]
    Reject(String),
}

/// The state of a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// There has been no result yet.
    Connecting,
    /// It delivers.
    Ok,
    /// It delivers, as slowly as the destination asked for.
    Slowed,
    /// It does not deliver, and retries.
    Retrying(String),
    /// It does not deliver until an operator has corrected the configuration of either side, and retries.
    Misconfigured(Trouble),
    /// It has begun to deliver, and the destination takes nothing.
    Stalled(&'static str),
    /// It has ended, and drops everything it receives.
    Closed(String),
}

/// The accounts of a sink: what happened to every occurrence that it received.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// Received from the agent.
    pub received: u64,
    /// Found in the spool when it was opened; an earlier run had accepted them.
    pub recovered: u64,
    /// Acknowledged by the destination.
    pub sent: u64,
    /// Refused by the destination for good.
    pub rejected: u64,
    /// Lost, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// In memory only: waiting, or in flight.
    pub queued: u64,
    /// On disk: waiting, or in flight.
    pub spooled: u64,
    /// How many of `queued` and `spooled` are in flight.
    pub in_flight: u64,
}

/// A sink in `/status`.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Its name.
    pub sink: &'static str,
    /// Its state.
    pub state: State,
    /// The connected endpoint, for a destination with several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Its accounts.
    #[serde(flatten)]
    pub ledger: Ledger,
    /// Its spool, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spool: Option<spool::Status>,
}

/// All sinks of the agent. Clones share them.
#[derive(Clone, Debug)]
pub struct Sinks {
    metrics: Arc<Metrics>,
    capacity: usize,
    spools: Option<spool::Place>,
    queues: Vec<Arc<Queue>>,
    /// Those of `queues` whose destinations programs read.
    for_programs: Vec<Arc<Queue>>,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
    /// The reasons of sinks that ended by themselves.
    ended: watch::Sender<Vec<String>>,
}

impl Receipt {
    /// The whole batch was accepted.
    #[must_use]
    pub fn taken(count: usize) -> Self {
        Self { verdicts: vec![Verdict::Taken; count], slow: false }
    }
}

impl Ledger {
    /// Whether everything received is sent, rejected, lost, or still here.
    #[must_use]
    pub fn balanced(&self) -> bool {
        let done = self.sent + self.rejected + self.dropped.values().sum::<u64>();
        self.received + self.recovered == done + self.queued + self.spooled
    }

    /// Occurrences whose outcome is not known yet.
    #[must_use]
    pub const fn waiting(&self) -> u64 {
        self.queued + self.spooled
    }

    fn drop(&mut self, reason: &'static str, count: u64) {
        if count > 0 {
            *self.dropped.entry(reason).or_default() += count;
        }
    }
}

impl State {
    pub(crate) const LABELS: [&str; 7] =
        ["connecting", "ok", "slowed", "retrying", "misconfigured", "stalled", "closed"];

    /// Whether an operator would learn nothing new: the same kind of state and, for a misconfiguration, the
    /// same error.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Misconfigured(one), Self::Misconfigured(other)) => match (&one.remedy, &other.remedy) {
                // Texts from the other side may contain an id or a time.
                (Some(one), Some(other)) => one == other,
                _ => one.what == other.what,
            },
            _ => mem::discriminant(self) == mem::discriminant(other),
        }
    }

    /// The current one of [`Self::LABELS`].
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Ok => "ok",
            Self::Slowed => "slowed",
            Self::Retrying(_) => "retrying",
            Self::Misconfigured(_) => "misconfigured",
            Self::Stalled(_) => "stalled",
            Self::Closed(_) => "closed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting | Self::Ok | Self::Slowed => f.write_str(self.label()),
            Self::Misconfigured(why) => write!(f, "{}({why})", self.label()),
            Self::Stalled(why) => write!(f, "{}({why})", self.label()),
            Self::Retrying(why) | Self::Closed(why) => write!(f, "{}({why})", self.label()),
        }
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Sinks {
    /// No sinks yet. Each that is added gets a queue of `capacity` occurrences.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, capacity: usize) -> Self {
        let (tasks, ended) = (Arc::default(), watch::Sender::default());
        Self { metrics, capacity, spools: None, queues: Vec::new(), for_programs: Vec::new(), tasks, ended }
    }

    /// Sinks added from now on spool what they cannot deliver, each into a file of its own in
    /// `state_dir/spool` that takes at most `cap_bytes` on disk.
    #[must_use]
    pub fn spooling(mut self, state_dir: &Path, cap_bytes: u64) -> Self {
        self.spools = Some(spool::Place::new(state_dir, cap_bytes));
        self
    }

    /// Starts a sink. Call it within a tokio runtime, before cloning, because existing clones do not get the
    /// new sink. A task of its own opens the spool, because reading a large one takes many seconds.
    pub fn add<D: Destination>(&mut self, destination: D) {
        let spool = self.spools.as_ref().filter(|_| D::SPOOLED).map(|place| place.of(D::NAME));
        let spooled = spool.is_some();
        let queue = Arc::new(Queue::new(D::NAME, self.capacity, Arc::clone(&self.metrics), spool));
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let run = task::run(Arc::clone(&queue), destination, self.ended.clone());
        tasks.push(tokio::spawn(task::watched(Arc::clone(&queue), self.ended.clone(), run)));
        if spooled {
            let keep = queue::keep(Arc::clone(&queue));
            tasks.push(tokio::spawn(task::watched(Arc::clone(&queue), self.ended.clone(), keep)));
        }
        drop(tasks);
        if D::FOR_PROGRAMS {
            self.for_programs.push(Arc::clone(&queue));
        }
        self.queues.push(queue);
    }

    /// Gives an occurrence to every sink. Never blocks: a full queue drops the occurrence and counts it.
    pub fn send(&self, occurrence: Arc<Occurrence>) {
        if let Some((last, others)) = self.queues.split_last() {
            for queue in others {
                queue.push(Arc::clone(&occurrence));
            }
            last.push(occurrence);
        }
    }

    /// Gives an occurrence that only programs read, such as a heartbeat, to the sinks whose destinations they read.
    pub fn send_to_programs(&self, occurrence: &Arc<Occurrence>) {
        self.for_programs.iter().for_each(|queue| queue.push(Arc::clone(occurrence)));
    }

    /// Whether programs read any sink's destination.
    #[must_use]
    pub fn reach_programs(&self) -> bool {
        !self.for_programs.is_empty()
    }

    /// The state and the accounts of each sink.
    #[must_use]
    pub fn status(&self) -> Vec<Status> {
        self.queues.iter().map(|queue| queue.status()).collect()
    }

    /// Sets the gauges to the current state of each sink.
    pub fn measure(&self) {
        for status in self.status() {
            self.metrics.sink(&status);
        }
    }

    /// Number of occurrences delivered so far, all sinks together.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.queues.iter().map(|queue| queue.status().ledger.sent).sum()
    }

    /// Waits until every sink has ended by itself, as standard output does when its reader has gone, and
    /// returns the reasons. An ended sink drops what it receives; the others go on. Without sinks this waits
    /// for ever.
    pub async fn ended(&self) -> String {
        let mut ended = self.ended.subscribe();
        let all = |ended: &Vec<String>| !ended.is_empty() && ended.len() == self.queues.len();
        match ended.wait_for(all).await {
            Ok(all) => all.join("; "),
            // The sender is a field of `self`, so this does not happen.
            Err(_) => pending().await,
        }
    }

    /// Closes the queues, and delivers their content within the time or writes it to the spools: at once if
    /// the destination is away, else after half of the time. Anything left in memory only is then dropped and
    /// counted. Returns that number.
    pub async fn drain(self, within: Duration) -> u64 {
        self.drain_until(within, pending()).await
    }

    /// Like [`Self::drain`], but when `hurry` completes, remaining occurrences are written at once without
    /// waiting for destinations.
    pub async fn drain_until(self, within: Duration, hurry: impl Future<Output = ()>) -> u64 {
        let now = Instant::now();
        let mut end = now + within;
        let mut hurry = pin!(hurry.fuse());
        for queue in &self.queues {
            queue.drain(now + within / 2);
        }
        let tasks = mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for mut task in tasks {
            let ended = loop {
                tokio::select! {
                    biased;
                    () = &mut hurry => {
                        let now = Instant::now();
                        self.queues.iter().for_each(|queue| queue.drain(now));
                        end = end.min(now + HURRY);
                    }
                    ended = timeout_at(end, &mut task) => break ended.is_ok(),
                }
            };
            if !ended {
                task.abort();
                // Only an aborted task has certainly stopped settling what it sent.
                let _ = task.await;
            }
        }
        let left = self.queues.iter().map(|queue| queue.abandon("shutdown")).sum();
        let closing = self.queues.iter().map(|queue| async {
            if queue.is_opening() {
                let sink = queue.name;
                return tracing::info!(sink, "the spool was still being opened; it is left as it was");
            }
            let closed = queue::on_disk(queue, |queue| queue.close_spool());
            if timeout(CLOSE, closed).await.is_err() {
                tracing::warn!(sink = queue.name, "the spool could not be closed in time: its disk hangs");
            }
        });
        join_all(closing).await;
        for queue in &self.queues {
            let Status { sink, ledger, .. } = queue.status();
            if ledger.spooled > 0 {
                tracing::info!(sink, count = ledger.spooled, "left in the spool, for the next run");
            }
        }
        left
    }
}

/// An error with its causes, because the outermost alone may say nothing ("transport error").
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
