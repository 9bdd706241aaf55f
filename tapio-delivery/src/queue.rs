//! A sink's queue and its accounts: every occurrence received is in memory, on disk, or settled.
//!
//! ```text
//!  oldest                                             newest
//!  head (memory; some of it on disk, too)  |  unread (disk)  |  tail (memory)
//! ```

mod spooled;

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tapio_occurrence::Occurrence;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};

use super::{
    Batching, Ledger, State, Status, Verdict,
    spool::{self, Spool},
};
use crate::metrics::Metrics;

pub(super) use spooled::{keep, on_disk};

/// How often an occurrence is sent to a destination that answers without a verdict on it.
const MOST_SENDS: u8 = 3;
/// How long an occurrence is in memory only before it is written to the spool. A crash of the agent can lose
/// no more than that.
const HOLD: Duration = Duration::from_secs(1);
/// How long new occurrences wait for a spool that is being opened, because older ones in it go first. A disk
/// that hangs must not stop delivery for good.
const OPENING_WAIT: Duration = Duration::from_secs(120);
/// The longest wait while draining, when little time is left.
const LAST_WAIT: Duration = Duration::from_millis(250);

/// A bounded, ordered queue whose accounts always balance: an occurrence leaves it only once its outcome is
/// known.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) name: &'static str,
    pub(super) metrics: Arc<Metrics>,
    /// The most occurrences in memory only. Of those that are also on disk, at most one batch is in memory.
    capacity: usize,
    spool: Option<Spool>,
    inner: Mutex<Inner>,
    /// There may be something to deliver. Only the sink's task waits for it.
    changed: Notify,
    /// Draining has begun or progressed. Only the sink's task waits for it.
    draining: Notify,
    /// There may be something to write. Only the spool's task waits for it.
    unwritten: Notify,
}

#[derive(Debug)]
struct Inner {
    /// The next occurrences to deliver.
    head: VecDeque<Entry>,
    /// Number of occurrences on disk and not in `head`: newer than those, older than `tail`.
    unread: u64,
    /// The newest occurrences. None of them is on disk.
    tail: VecDeque<Entry>,
    /// Number of occurrences in memory only, in `head` and `tail`.
    alone: usize,
    /// Number of occurrences in flight, at the front of `head`.
    in_flight: usize,
    /// Keys on disk of settled occurrences.
    finished: Vec<u64>,
    /// The number of the next entry.
    nth: u64,
    /// The spool cannot even be read, so occurrences in memory go first.
    away: bool,
    /// The spool is being opened for the first time; until then, occurrences in memory wait.
    opening_until: Option<Instant>,
    spool: spool::Status,
    ledger: Ledger,
    state: State,
    /// The connected endpoint, if any.
    endpoint: Option<String>,
    phase: Phase,
}

#[derive(Debug)]
struct Entry {
    nth: u64,
    /// Its key in the spool, if it is there.
    key: Option<u64>,
    occurrence: Arc<Occurrence>,
    arrived: Instant,
    sends: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// From this time on, remaining occurrences are written to the spool, even while the destination takes
    /// some.
    Draining(Instant),
    /// Nothing empties the queue any more. The reason is counted with later drops.
    Closed(&'static str),
}

/// The next action of the sink's task.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Deliver the batch.
    Deliver,
    /// Read this many from the spool.
    Read(usize),
    /// Stop: no more occurrences come, and nothing is left that would be lost.
    Leave,
}

impl Queue {
    pub(super) fn new(
        name: &'static str,
        capacity: usize,
        metrics: Arc<Metrics>,
        spool: Option<Spool>,
    ) -> Self {
        let inner = Inner {
            head: VecDeque::new(),
            unread: 0,
            tail: VecDeque::new(),
            alone: 0,
            in_flight: 0,
            finished: Vec::new(),
            nth: 0,
            away: false,
            opening_until: spool.is_some().then(|| Instant::now() + OPENING_WAIT),
            spool: spool::Status {
                state: if spool.is_some() { spool::OPENING } else { spool::OK }.to_owned(),
                ..spool::Status::default()
            },
            ledger: Ledger::default(),
            state: State::Connecting,
            endpoint: None,
            phase: Phase::Open,
        };
        Self {
            name,
            metrics,
            capacity,
            spool,
            inner: Mutex::new(inner),
            changed: Notify::new(),
            draining: Notify::new(),
            unwritten: Notify::new(),
        }
    }

    /// Adds an occurrence; drops and counts it if there is no room.
    pub(super) fn push(&self, occurrence: Arc<Occurrence>) {
        let mut inner = self.lock();
        inner.ledger.received += 1;
        let reason = match inner.phase {
            // Occurrences that are also on disk do not use capacity.
            Phase::Open if inner.alone < self.capacity => {
                let entry = inner.entry(occurrence, None);
                inner.tail.push_back(entry);
                inner.alone += 1;
                let news = inner.tail.len() == 1 || inner.alone >= self.capacity.div_ceil(2);
                drop(inner);
                if news {
                    self.unwritten.notify_one();
                }
                return self.changed.notify_one();
            }
            Phase::Open => "queue_full",
            Phase::Draining(_) => "shutdown",
            Phase::Closed(reason) => reason,
        };
        inner.ledger.drop(reason, 1);
        drop(inner);
        self.metrics.dropped(self.name, reason, 1);
    }

    /// The state and the accounts.
    pub(super) fn status(&self) -> Status {
        let inner = self.lock();
        let ledger = Ledger {
            queued: inner.alone as u64,
            spooled: inner.unread + inner.head.iter().filter(|entry| entry.key.is_some()).count() as u64,
            in_flight: inner.in_flight as u64,
            ..inner.ledger.clone()
        };
        let spool = self.spool.as_ref().map(|_| inner.spool.clone());
        let endpoint = inner.endpoint.clone();
        Status { sink: self.name, state: inner.state.clone(), endpoint, ledger, spool }
    }

    /// Accepts no more occurrences. The task ends when all are delivered or written. They are written from
    /// `flush_at` on, or from the earliest time given in any call.
    pub(super) fn drain(&self, flush_at: Instant) {
        let mut inner = self.lock();
        inner.phase = match inner.phase {
            Phase::Open => Phase::Draining(flush_at),
            Phase::Draining(before) => Phase::Draining(before.min(flush_at)),
            closed @ Phase::Closed(_) => closed,
        };
        drop(inner);
        self.changed.notify_one();
        self.draining.notify_one();
        self.unwritten.notify_one();
    }

    /// Drops occurrences that are in memory only, and all later ones. Returns how many are dropped now.
    pub(super) fn abandon(&self, reason: &'static str) -> u64 {
        let mut inner = self.lock();
        inner.phase = Phase::Closed(reason);
        inner.in_flight = 0;
        let left = mem::take(&mut inner.alone) as u64;
        let written = mem::take(&mut inner.head).into_iter().filter(|entry| entry.key.is_some()).count();
        // On disk they are all alike.
        inner.unread += written as u64;
        inner.tail.clear();
        inner.ledger.drop(reason, left);
        drop(inner);
        self.unwritten.notify_one();
        if left > 0 {
            self.metrics.dropped(self.name, reason, left);
            tracing::warn!(sink = self.name, reason, count = left, "occurrences dropped");
        }
        left
    }

    /// Returns the next action. To deliver, it copies the batch, which stays queued.
    pub(super) async fn next(&self, batching: Batching, batch: &mut Vec<Arc<Occurrence>>) -> Next {
        let count = batching.count.min(self.capacity);
        loop {
            let wait_until = {
                let mut inner = self.lock();
                if inner.may_leave() {
                    return Next::Leave;
                }
                let from_disk = inner.unread > 0 && !inner.away;
                let is_waiting = inner.waits_for_spool(self.capacity);
                if from_disk && inner.head.is_empty() {
                    return Next::Read(count);
                }
                if !from_disk && !is_waiting {
                    let more = count.saturating_sub(inner.head.len()).min(inner.tail.len());
                    let Inner { head, tail, .. } = &mut *inner;
                    head.extend(tail.drain(..more));
                }
                let oldest = inner.head.front().map(|entry| entry.arrived + batching.age);
                match oldest {
                    None if is_waiting => inner.opening_until,
                    None => None,
                    Some(due) => {
                        let complete = inner.head.len() >= count || from_disk;
                        if complete || inner.phase != Phase::Open || due <= Instant::now() {
                            batch.clear();
                            batch.extend(
                                inner.head.iter().take(count).map(|entry| Arc::clone(&entry.occurrence)),
                            );
                            inner.in_flight = batch.len();
                            return Next::Deliver;
                        }
                        Some(due)
                    }
                }
            };
            match wait_until {
                None => self.changed.notified().await,
                // A timeout and a notification are equivalent: both lead to another check.
                Some(due) => drop(timeout_at(due, self.changed.notified()).await),
            }
        }
    }

    /// Records that nothing is in flight any more.
    pub(super) fn returned(&self) {
        self.lock().in_flight = 0;
    }

    /// Settles the first occurrences with these verdicts. True if any of them left the queue.
    pub(super) fn settle(&self, verdicts: &[Verdict]) -> bool {
        let (mut sent, mut rejected, mut lost) = (0, 0, 0);
        let mut again = Vec::new();
        let mut inner = self.lock();
        inner.in_flight = 0;
        for verdict in verdicts {
            let Some(mut entry) = inner.head.pop_front() else { break };
            match verdict {
                Verdict::Taken => sent += 1,
                Verdict::Refused => rejected += 1,
                Verdict::Unanswered => {
                    entry.sends += 1;
                    if entry.sends < MOST_SENDS {
                        again.push(entry);
                        continue;
                    }
                    lost += 1;
                }
            }
            match entry.key {
                Some(key) => inner.finished.push(key),
                None => inner.alone -= 1,
            }
        }
        let repeats = !again.is_empty();
        for entry in again.into_iter().rev() {
            inner.head.push_front(entry);
        }
        inner.ledger.sent += sent;
        inner.ledger.rejected += rejected;
        inner.ledger.drop("unacknowledged", lost);
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

    /// Sets the state, and logs each change once.
    pub(super) fn turn(&self, state: State) {
        let mut inner = self.lock();
        let before = mem::replace(&mut inner.state, state.clone());
        if matches!(state, State::Retrying(_) | State::Misconfigured(_) | State::Closed(_)) {
            inner.endpoint = None;
        }
        let endpoint = inner.endpoint.clone();
        let queued = inner.alone;
        let spooled = inner.spool.records;
        drop(inner);
        // While draining, the state decides when to write.
        self.unwritten.notify_one();
        if state.is_like(&before) {
            return tracing::debug!(sink = self.name, %state, queued, spooled, "sink");
        }
        match state {
            State::Connecting => {}
            State::Ok => tracing::info!(sink = self.name, endpoint, queued, spooled, "sink delivers"),
            State::Slowed => tracing::warn!(sink = self.name, queued, "sink is nearly full, sending slower"),
            State::Retrying(why) => {
                tracing::warn!(sink = self.name, why, queued, spooled, "sink away, trying again");
            }
            State::Misconfigured(why) => tracing::warn!(
                sink = self.name, %why, queued, spooled,
                "sink does not deliver until its configuration is corrected; occurrences wait, and it tries again"
            ),
            State::Stalled(why) => tracing::warn!(sink = self.name, why, queued, "sink stalled"),
            State::Closed(why) => tracing::warn!(sink = self.name, why, queued, spooled, "sink ended"),
        }
    }

    /// Records a connection. It proves little by itself: if something waits for delivery, only a delivery
    /// counts as success. Otherwise a destination that accepts only connections would be "ok" between any two
    /// attempts.
    pub(super) fn connected(&self, endpoint: Option<&str>) {
        let mut inner = self.lock();
        inner.endpoint = endpoint.map(str::to_owned);
        let empty = inner.head.is_empty() && inner.tail.is_empty() && inner.unread == 0;
        let proof = empty || inner.state == State::Connecting;
        drop(inner);
        if proof {
            self.turn(State::Ok);
        }
    }

    /// Returns when draining has begun and nothing is left that would be lost.
    pub(super) async fn drained(&self) {
        loop {
            if self.lock().may_leave() {
                return;
            }
            self.draining.notified().await;
        }
    }

    /// Whether the queue accepts nothing any more.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.lock().phase, Phase::Closed(_))
    }

    /// Returns when draining has begun.
    async fn closing(&self) {
        while self.lock().phase == Phase::Open {
            self.draining.notified().await;
        }
    }

    /// Waits; only briefly while draining, and not at all if nothing is left.
    pub(super) async fn pause(&self, wait: Duration) {
        let open = self.lock().phase == Phase::Open;
        if open {
            tokio::select! {
                () = sleep(wait) => {}
                () = self.closing() => {}
            }
        } else {
            tokio::select! {
                () = sleep(wait.min(LAST_WAIT)) => {}
                () = self.drained() => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn entry(&mut self, occurrence: Arc<Occurrence>, key: Option<u64>) -> Entry {
        self.nth += 1;
        Entry { nth: self.nth, key, occurrence, arrived: Instant::now(), sends: 0 }
    }

    /// Whether occurrences in memory wait for those that may be in the spool. They no longer wait if some
    /// would have to be dropped.
    fn waits_for_spool(&self, capacity: usize) -> bool {
        // While draining, there may be no time left to write to the spool.
        self.phase == Phase::Open
            && self.alone < capacity.div_ceil(2)
            && self.opening_until.is_some_and(|time| Instant::now() < time)
    }

    fn may_leave(&self) -> bool {
        self.phase != Phase::Open && self.alone == 0
    }
}
