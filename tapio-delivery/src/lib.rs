//! Sinks: where occurrences go. Each is a bounded queue and a task with a destination, so a slow one holds up
//! nothing but itself.
//!
//! What is given to a sink is at every moment either sent, rejected, dropped for a reason, on disk, or in memory:
//! [`Ledger::balanced`]. It is **accepted** once the destination has acknowledged it or it is on disk, which is within
//! a second: what is accepted arrives, at least once.

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

/// How many occurrences wait for a sink before more are dropped: some 10 MB, hours of a bad day.
pub const QUEUE_CAPACITY: usize = 8192;

/// A delivery that takes longer is one that does not get on.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long what is left may take once nobody wants to wait for it.
const HURRY: Duration = Duration::from_secs(1);
/// How long a spool may take to be closed at the end.
const CLOSE: Duration = Duration::from_secs(2);

/// Where a sink delivers to.
pub trait Destination: Send + 'static {
    /// The sink's one name: metric label and key in `/status`.
    const NAME: &'static str;

    /// Whether what it cannot take in time is kept on disk for it, and for the next run. Not where it never
    /// acknowledges anything.
    const SPOOLED: bool = true;

    /// What it means that a delivery takes longer than [`PATIENCE`]; not where deliveries have a time limit of their own.
    const STALLED: Option<&'static str> = None;

    /// When a batch is delivered.
    fn batching(&self) -> Batching;

    /// Which of several places it delivers to now, where it is connected to one.
    fn endpoint(&self) -> Option<&str> {
        None
    }

    /// Makes ready to deliver; called at the start and after each [`Failure`]. `Reject` ends the sink for good.
    fn connect(&mut self) -> impl Future<Output = Result<(), Failure>> + Send {
        ready(Ok(()))
    }

    /// Delivers a batch, or as much of its beginning as the receipt has verdicts for.
    fn deliver(&mut self, batch: &[Arc<Occurrence>])
    -> impl Future<Output = Result<Receipt, Failure>> + Send;

    /// Runs while there is nothing to deliver, and ends only when the destination is lost. Cancelled when
    /// there is something to deliver.
    fn idle(&mut self) -> impl Future<Output = Failure> + Send {
        pending()
    }

    /// Takes leave after the last batch.
    fn close(&mut self) -> impl Future<Output = ()> + Send {
        ready(())
    }
}

/// When a batch is complete: at `count` occurrences or when the first has waited for `age`. A destination that
/// also counts bytes answers for the beginning of a batch only.
#[derive(Clone, Copy, Debug)]
pub struct Batching {
    /// Most occurrences of a batch.
    pub count: usize,
    /// How long the first waits for company.
    pub age: Duration,
}

/// What became of the first occurrences of a batch. The others stay queued.
#[derive(Clone, Debug, Default)]
pub struct Receipt {
    /// One for each, in order.
    pub verdicts: Vec<Verdict>,
    /// The destination is about to be full and wants less.
    pub slow: bool,
}

/// What became of one occurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It arrived.
    Taken,
    /// It is refused, and would be again.
    Refused,
    /// Nothing was said about it: it is sent again, a few times.
    Unanswered,
}

/// Why a batch was not delivered: all that a destination can answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The batch is kept and delivered later.
    #[error("{0}")]
    Retry(String),
    /// The same, once an operator has corrected the configuration of either side.
    #[error("{0}")]
    Hold(Trouble),
    /// The batch is refused for good.
    #[error("{0}")]
    Reject(String),
}

/// How a sink is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is known yet.
    Connecting,
    /// It delivers.
    Ok,
    /// It delivers, as slowly as the destination asked for.
    Slowed,
    /// It does not deliver, and tries again.
    Retrying(String),
    /// It does not deliver until an operator has corrected the configuration of either side, and tries again.
    Misconfigured(Trouble),
    /// It has begun to deliver, and nothing is taken.
    Stalled(&'static str),
    /// It has ended and drops what it is given.
    Closed(String),
}

/// What became of everything that a sink was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// Received from the agent.
    pub received: u64,
    /// Found in the spool when it was opened: accepted by an earlier run.
    pub recovered: u64,
    /// Acknowledged by the destination.
    pub sent: u64,
    /// Refused by the destination for good.
    pub rejected: u64,
    /// Lost, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// In memory alone: waiting, or on the way without an answer.
    pub queued: u64,
    /// On disk: waiting, or on the way without an answer.
    pub spooled: u64,
    /// How many of these two are on the way.
    pub in_flight: u64,
}

/// A sink in `/status`.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Its name.
    pub sink: &'static str,
    /// How it is.
    pub state: State,
    /// Which of several places it delivers to, where it is connected to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Its accounts.
    #[serde(flatten)]
    pub ledger: Ledger,
    /// Its spool, where it has one.
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
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
    /// Why each that ended by itself did.
    ended: watch::Sender<Vec<String>>,
}

impl Receipt {
    /// All of a batch arrived.
    #[must_use]
    pub fn taken(count: usize) -> Self {
        Self { verdicts: vec![Verdict::Taken; count], slow: false }
    }
}

impl Ledger {
    /// What came in equals what went out, what was lost and what is here.
    #[must_use]
    pub fn balanced(&self) -> bool {
        let done = self.sent + self.rejected + self.dropped.values().sum::<u64>();
        self.received + self.recovered == done + self.queued + self.spooled
    }

    /// Whose fate is not known yet.
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

    /// Whether an operator has nothing new to read: the same kind, and where there is something to correct, the same.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Misconfigured(one), Self::Misconfigured(other)) => match (&one.remedy, &other.remedy) {
                // Words of the other side's may have an id or a time in them.
                (Some(one), Some(other)) => one == other,
                _ => one.what == other.what,
            },
            _ => mem::discriminant(self) == mem::discriminant(other),
        }
    }

    /// The one of [`Self::LABELS`] that it is.
    pub(crate) const fn label(&self) -> &'static str {
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
    /// None yet; each that is added gets a queue of `capacity` occurrences.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, capacity: usize) -> Self {
        let (tasks, ended) = (Arc::default(), watch::Sender::default());
        Self { metrics, capacity, spools: None, queues: Vec::new(), tasks, ended }
    }

    /// Those that are added from now on spool what they cannot take, each into a file of its own in `state_dir/spool`
    /// that takes at most `cap_bytes` on disk.
    #[must_use]
    pub fn spooling(mut self, state_dir: &Path, cap_bytes: u64) -> Self {
        self.spools = Some(spool::Place::new(state_dir, cap_bytes));
        self
    }

    /// Starts a sink. Called within a tokio runtime, before clones are made: they do not learn of it. Its spool is opened
    /// by a task of its own: all of it is read, which takes a large one many seconds.
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
        self.queues.push(queue);
    }

    /// Gives an occurrence to every sink. Never blocks: a full queue drops it and counts that.
    pub fn send(&self, occurrence: Arc<Occurrence>) {
        if let Some((last, others)) = self.queues.split_last() {
            for queue in others {
                queue.push(Arc::clone(&occurrence));
            }
            last.push(occurrence);
        }
    }

    /// How each sink is, and its accounts.
    #[must_use]
    pub fn status(&self) -> Vec<Status> {
        self.queues.iter().map(|queue| queue.status()).collect()
    }

    /// Has the gauges say how each sink is now.
    pub fn measure(&self) {
        for status in self.status() {
            self.metrics.sink(&status);
        }
    }

    /// How many occurrences arrived so far, all sinks together.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.queues.iter().map(|queue| queue.status().ledger.sent).sum()
    }

    /// Waits until every sink has ended by itself, as standard output does when its reader has gone, and says why.
    /// One that has ended drops what it is given; the others go on. For ever where there are no sinks.
    pub async fn ended(&self) -> String {
        let mut ended = self.ended.subscribe();
        let all = |ended: &Vec<String>| !ended.is_empty() && ended.len() == self.queues.len();
        match ended.wait_for(all).await {
            Ok(all) => all.join("; "),
            // Its sender is here.
            Err(_) => pending().await,
        }
    }

    /// Closes the queues and delivers what is in them within the time, or writes it to the spools: at once where the
    /// destination is away, else after half of the time. What is in memory alone then is dropped, counted and its number
    /// returned.
    pub async fn drain(self, within: Duration) -> u64 {
        self.drain_until(within, pending()).await
    }

    /// As [`Self::drain`], but when `hurry` ends, what is left is written at once, and no destination is waited for.
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
                // Only an aborted task has surely stopped to settle what it has sent.
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

/// An error with its causes, of which the first alone says nothing ("transport error").
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
