//! A sink's queue, its accounts, and the task that empties it into the destination.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout_at},
};

use super::{Batching, Destination, Failure, Ledger, Receipt, State, Status, Verdict};
use crate::{backoff::Backoff, metrics::Metrics, occurrence::Occurrence};

/// How often an occurrence is sent to a destination that answers but says nothing about it.
const MOST_SENDS: u8 = 3;
/// Waits between attempts: 0.25 s to 30 s.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// Waits between batches for a destination that is about to be full.
const SLOW: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
/// The same while draining, where little time is left.
const LAST_WAIT: Duration = Duration::from_millis(250);

/// Bounded, in order, with accounts that always balance: an occurrence leaves it only when its fate is known.
#[derive(Debug)]
pub(super) struct Queue {
    name: &'static str,
    capacity: usize,
    metrics: Arc<Metrics>,
    inner: Mutex<Inner>,
    /// Something was pushed, or the phase changed. Only the sink's task waits for it.
    changed: Notify,
    /// Draining has begun. Only the sink's task waits for it.
    draining: Notify,
}

#[derive(Debug)]
struct Inner {
    entries: VecDeque<Entry>,
    ledger: Ledger,
    state: State,
    phase: Phase,
}

#[derive(Debug)]
struct Entry {
    occurrence: Arc<Occurrence>,
    arrived: Instant,
    sends: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Draining,
    /// Nobody empties it any more; the reason that later drops are counted by.
    Closed(&'static str),
}

/// Why the task stopped to deliver.
enum Stop {
    /// All is delivered.
    Drained,
    /// The batch was refused; the next may not be.
    Refused,
    Failed(Failure),
}

impl Queue {
    pub(super) fn new(name: &'static str, capacity: usize, metrics: Arc<Metrics>) -> Self {
        let inner = Inner {
            entries: VecDeque::new(),
            ledger: Ledger::default(),
            state: State::Connecting,
            phase: Phase::Open,
        };
        Self {
            name,
            capacity,
            metrics,
            inner: Mutex::new(inner),
            changed: Notify::new(),
            draining: Notify::new(),
        }
    }

    pub(super) fn push(&self, occurrence: Arc<Occurrence>) {
        let mut inner = self.lock();
        inner.ledger.accepted += 1;
        let reason = match inner.phase {
            Phase::Open if inner.entries.len() < self.capacity => {
                inner.entries.push_back(Entry { occurrence, arrived: Instant::now(), sends: 0 });
                drop(inner);
                return self.changed.notify_one();
            }
            Phase::Open => "queue_full",
            Phase::Draining => "shutdown",
            Phase::Closed(reason) => reason,
        };
        *inner.ledger.dropped.entry(reason).or_default() += 1;
        drop(inner);
        self.metrics.dropped(self.name, reason, 1);
    }

    pub(super) fn status(&self) -> Status {
        let inner = self.lock();
        let ledger = Ledger { queued: inner.entries.len() as u64, ..inner.ledger.clone() };
        Status { sink: self.name, state: inner.state.clone(), ledger }
    }

    /// Takes no more; the task ends when all is delivered.
    pub(super) fn drain(&self) {
        let mut inner = self.lock();
        if inner.phase == Phase::Open {
            inner.phase = Phase::Draining;
        }
        drop(inner);
        self.changed.notify_one();
        self.draining.notify_one();
    }

    /// Drops what is here and what will come.
    pub(super) fn abandon(&self, reason: &'static str) -> u64 {
        let mut inner = self.lock();
        inner.phase = Phase::Closed(reason);
        let left = mem::take(&mut inner.entries).len() as u64;
        if left > 0 {
            *inner.ledger.dropped.entry(reason).or_default() += left;
        }
        drop(inner);
        if left > 0 {
            self.metrics.dropped(self.name, reason, left);
            tracing::warn!(sink = self.name, reason, count = left, "occurrences dropped");
        }
        left
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies the next complete batch, which stays queued. False when all is delivered and no more comes.
    async fn next(&self, batching: Batching, batch: &mut Vec<Arc<Occurrence>>) -> bool {
        loop {
            let wait_until = {
                let inner = self.lock();
                let oldest = inner.entries.front().map(|entry| entry.arrived + batching.age);
                match oldest {
                    None if inner.phase == Phase::Open => None,
                    None => return false,
                    Some(due) => {
                        let complete = inner.entries.len() >= batching.count.min(self.capacity);
                        if complete || inner.phase != Phase::Open || due <= Instant::now() {
                            batch.clear();
                            let first = inner.entries.iter().take(batching.count);
                            batch.extend(first.map(|entry| Arc::clone(&entry.occurrence)));
                            return true;
                        }
                        Some(due)
                    }
                }
            };
            match wait_until {
                None => self.changed.notified().await,
                // Late is as good as notified: both look again.
                Some(due) => drop(timeout_at(due, self.changed.notified()).await),
            }
        }
    }

    /// Accounts for the first occurrences; true if any of them is done with.
    fn settle(&self, verdicts: &[Verdict]) -> bool {
        let (mut sent, mut rejected, mut lost) = (0, 0, 0);
        let mut again = Vec::new();
        let mut inner = self.lock();
        for verdict in verdicts {
            let Some(mut entry) = inner.entries.pop_front() else { break };
            match verdict {
                Verdict::Taken => sent += 1,
                Verdict::Refused => rejected += 1,
                Verdict::Unanswered => {
                    entry.sends += 1;
                    if entry.sends < MOST_SENDS {
                        again.push(entry);
                    } else {
                        lost += 1;
                    }
                }
            }
        }
        let repeats = !again.is_empty();
        for entry in again.into_iter().rev() {
            inner.entries.push_front(entry);
        }
        inner.ledger.sent += sent;
        inner.ledger.rejected += rejected;
        if lost > 0 {
            *inner.ledger.dropped.entry("unacknowledged").or_default() += lost;
        }
        drop(inner);
        self.metrics.sent(self.name, sent);
        self.metrics.rejected(self.name, rejected);
        if lost > 0 {
            self.metrics.dropped(self.name, "unacknowledged", lost);
        }
        if repeats {
            self.metrics.retried(self.name);
        }
        sent + rejected > 0
    }

    /// Says each change once.
    fn turn(&self, state: State) {
        let mut inner = self.lock();
        let before = mem::replace(&mut inner.state, state.clone());
        let queued = inner.entries.len();
        drop(inner);
        if mem::discriminant(&before) == mem::discriminant(&state) {
            return tracing::debug!(sink = self.name, %state, queued, "sink");
        }
        match state {
            State::Connecting => {}
            State::Ok => tracing::info!(sink = self.name, queued, "sink delivers"),
            State::Slowed => tracing::warn!(sink = self.name, queued, "sink is nearly full, sending slower"),
            State::Retrying(why) => tracing::warn!(sink = self.name, why, queued, "sink away, trying again"),
            State::Closed(why) => tracing::warn!(sink = self.name, why, queued, "sink ended"),
        }
    }

    /// A connection alone proves little: with something to deliver, the delivery is the proof, else a
    /// destination that takes connections and nothing more would be "ok" between any two attempts.
    fn connected(&self) {
        let inner = self.lock();
        let proof = inner.entries.is_empty() || inner.state == State::Connecting;
        drop(inner);
        if proof {
            self.turn(State::Ok);
        }
    }

    /// Ends when draining has begun and nothing is left to deliver.
    async fn drained(&self) {
        loop {
            {
                let inner = self.lock();
                if inner.phase != Phase::Open && inner.entries.is_empty() {
                    return;
                }
            }
            self.draining.notified().await;
        }
    }

    /// Waits, but not on the way out.
    async fn pause(&self, wait: Duration) {
        let open = self.lock().phase == Phase::Open;
        if open {
            tokio::select! {
                () = sleep(wait) => {}
                () = self.draining.notified() => {}
            }
        } else {
            sleep(wait.min(LAST_WAIT)).await;
        }
    }
}

/// The sink's task: delivers until the queue is drained or the destination ends.
pub(super) async fn run<D: Destination>(
    queue: Arc<Queue>,
    mut destination: D,
    ended: watch::Sender<Vec<String>>,
) {
    let mut retry = RETRY;
    loop {
        let connected = tokio::select! {
            connected = destination.connect() => connected,
            () = queue.drained() => break,
        };
        let stop = match connected {
            Ok(()) => {
                queue.connected();
                deliver(&queue, &mut destination, &mut retry).await
            }
            Err(failure) => Stop::Failed(failure),
        };
        match stop {
            Stop::Drained => break,
            Stop::Refused => {}
            Stop::Failed(Failure::Retry(why)) => {
                queue.turn(State::Retrying(why));
                queue.pause(retry.next()).await;
            }
            Stop::Failed(Failure::Reject(why)) => {
                queue.turn(State::Closed(why.clone()));
                queue.abandon("closed");
                ended.send_modify(|ended| ended.push(why));
                return;
            }
        }
    }
    destination.close().await;
    queue.abandon("shutdown");
}

/// Delivers until something is wrong.
async fn deliver<D: Destination>(queue: &Queue, destination: &mut D, retry: &mut Backoff) -> Stop {
    let batching = destination.batching();
    let connected = Instant::now();
    let mut batch = Vec::new();
    let mut slow = SLOW;
    loop {
        let more = tokio::select! {
            biased;
            more = queue.next(batching, &mut batch) => more,
            failure = destination.idle() => {
                if connected.elapsed() > retry.most() {
                    retry.reset();
                }
                return Stop::Failed(failure);
            }
        };
        if !more {
            return Stop::Drained;
        }
        match destination.deliver(&batch).await {
            Ok(Receipt { verdicts, slow: wants_less }) => {
                let unanswered = verdicts.contains(&Verdict::Unanswered);
                let progress = queue.settle(&verdicts);
                if progress {
                    retry.reset();
                }
                if wants_less {
                    queue.turn(State::Slowed);
                    queue.pause(slow.next()).await;
                } else {
                    slow.reset();
                    queue.turn(State::Ok);
                    if unanswered || !progress {
                        queue.pause(retry.next()).await;
                    }
                }
            }
            Err(Failure::Retry(why)) => {
                queue.metrics.retried(queue.name);
                return Stop::Failed(Failure::Retry(why));
            }
            Err(Failure::Reject(why)) => {
                tracing::warn!(sink = queue.name, why, count = batch.len(), "batch refused");
                queue.settle(&vec![Verdict::Refused; batch.len()]);
                return Stop::Refused;
            }
        }
    }
}
