//! Sinks: where occurrences go. Each is a bounded queue and a task with a destination, so a slow one holds up
//! nothing but itself.
//!
//! What is given to a sink is at every moment either sent, rejected, dropped for a reason, or queued:
//! [`Ledger::balanced`].

pub mod polku;
mod queue;
pub mod stdout;

use std::{
    collections::BTreeMap,
    fmt,
    future::{Future, pending, ready},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Serialize, Serializer};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::{metrics::Metrics, occurrence::Occurrence};
use queue::Queue;

/// How many occurrences wait for a sink before more are dropped: some 10 MB, hours of a bad day.
pub const QUEUE_CAPACITY: usize = 8192;

/// Where a sink delivers to.
pub trait Destination: Send + 'static {
    /// The sink's one name: metric label and key in `/status`.
    const NAME: &'static str;

    /// When a batch is delivered.
    fn batching(&self) -> Batching;

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
    /// It has ended and drops what it is given.
    Closed(String),
}

/// What became of everything that a sink was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// Given to the sink.
    pub accepted: u64,
    /// Taken by the destination.
    pub sent: u64,
    /// Refused by the destination for good.
    pub rejected: u64,
    /// Lost, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Waiting, or on the way without an answer.
    pub queued: u64,
}

/// A sink in `/status`.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Its name.
    pub sink: &'static str,
    /// How it is.
    pub state: State,
    /// Its accounts.
    #[serde(flatten)]
    pub ledger: Ledger,
}

/// All sinks of the agent. Clones share them.
#[derive(Clone, Debug)]
pub struct Sinks {
    metrics: Arc<Metrics>,
    capacity: usize,
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
        self.accepted == self.sent + self.rejected + self.dropped.values().sum::<u64>() + self.queued
    }
}

impl State {
    pub(crate) const LABELS: [&str; 5] = ["connecting", "ok", "slowed", "retrying", "closed"];

    /// The one of [`Self::LABELS`] that it is.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Ok => "ok",
            Self::Slowed => "slowed",
            Self::Retrying(_) => "retrying",
            Self::Closed(_) => "closed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting | Self::Ok | Self::Slowed => f.write_str(self.label()),
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
        Self { metrics, capacity, queues: Vec::new(), tasks: Arc::default(), ended: watch::Sender::default() }
    }

    /// Starts a sink. Called within a tokio runtime, before clones are made: they do not learn of it.
    pub fn add<D: Destination>(&mut self, destination: D) {
        let queue = Arc::new(Queue::new(D::NAME, self.capacity, Arc::clone(&self.metrics)));
        let task = tokio::spawn(queue::run(Arc::clone(&queue), destination, self.ended.clone()));
        self.queues.push(queue);
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
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

    /// Closes the queues and delivers what is in them within the time. What is left then is dropped, counted
    /// and its number returned.
    pub async fn drain(self, within: Duration) -> u64 {
        let deadline = Instant::now() + within;
        for queue in &self.queues {
            queue.drain();
        }
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for mut task in tasks {
            if timeout_at(deadline, &mut task).await.is_err() {
                task.abort();
                // Only an aborted task has surely stopped to settle what it has sent.
                let _ = task.await;
            }
        }
        self.queues.iter().map(|queue| queue.abandon("shutdown")).sum()
    }
}

#[cfg(test)]
mod tests;
