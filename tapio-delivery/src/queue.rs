//! A sink's queue and its accounts: what it was given is in memory, on disk, or done with.
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

/// How often an occurrence is sent to a destination that answers but says nothing about it.
const MOST_SENDS: u8 = 3;
/// How long one is in memory alone before it is written to the spool: all that a crash of the agent can take.
const HOLD: Duration = Duration::from_secs(1);
/// How long what is new waits for a spool that is being opened, since older occurrences may be in it and go first. A
/// disk that hangs holds up no delivery for good.
const OPENING_WAIT: Duration = Duration::from_secs(120);
/// The longest wait while draining, where little time is left.
const LAST_WAIT: Duration = Duration::from_millis(250);

/// Bounded, in order, with accounts that always balance: an occurrence leaves it only when its fate is known.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) name: &'static str,
    pub(super) metrics: Arc<Metrics>,
    /// Most occurrences in memory alone; of those on disk, too, there is a batch at most.
    capacity: usize,
    spool: Option<Spool>,
    inner: Mutex<Inner>,
    /// There may be something to deliver. Only the sink's task waits for it.
    changed: Notify,
    /// Draining has begun, or got on. Only the sink's task waits for it.
    draining: Notify,
    /// There may be something to write. Only the spool's task waits for it.
    unwritten: Notify,
}

#[derive(Debug)]
struct Inner {
    /// What is delivered next.
    head: VecDeque<Entry>,
    /// How many are on disk and not in `head`: newer than those, older than `tail`.
    unread: u64,
    /// What came since. None of it is on disk.
    tail: VecDeque<Entry>,
    /// How many of both are in memory alone.
    alone: usize,
    /// How many of `head` are on the way.
    in_flight: usize,
    /// Keys on disk of what is done with.
    finished: Vec<u64>,
    /// Numbers the entries.
    nth: u64,
    /// The spool cannot even be read: what is in memory goes first.
    away: bool,
    /// The spool is being opened for the first time; until then what is in memory waits.
    opening_until: Option<Instant>,
    spool: spool::Status,
    ledger: Ledger,
    state: State,
    /// Where it is delivered to, while there is a connection.
    endpoint: Option<String>,
    phase: Phase,
}

#[derive(Debug)]
struct Entry {
    nth: u64,
    /// In the spool.
    key: Option<u64>,
    occurrence: Arc<Occurrence>,
    arrived: Instant,
    sends: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// From the instant on what is left is written, also while the destination takes some.
    Draining(Instant),
    /// Nobody empties it any more; the reason that later drops are counted by.
    Closed(&'static str),
}

/// What the sink's task does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Deliver the batch.
    Deliver,
    /// Read so many from the spool.
    Read(usize),
    /// No more comes, and nothing is left that would be lost.
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

    /// Takes an occurrence, or drops and counts it where there is no room.
    pub(super) fn push(&self, occurrence: Arc<Occurrence>) {
        let mut inner = self.lock();
        inner.ledger.received += 1;
        let reason = match inner.phase {
            // What is on disk, too, takes up no room.
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

    /// How it is, and its accounts.
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

    /// Takes no more. The task ends when all is delivered or written; from `flush_at` on it is written, or earlier where
    /// that was said before.
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

    /// Drops what is in memory alone, and what will come; how many that are now.
    pub(super) fn abandon(&self, reason: &'static str) -> u64 {
        let mut inner = self.lock();
        inner.phase = Phase::Closed(reason);
        inner.in_flight = 0;
        let left = mem::take(&mut inner.alone) as u64;
        let written = mem::take(&mut inner.head).into_iter().filter(|entry| entry.key.is_some()).count();
        // On disk they are all the same.
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

    /// Says what to do next, and copies the batch, which stays queued, where that is to deliver it.
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
                // Late is as good as notified: both look again.
                Some(due) => drop(timeout_at(due, self.changed.notified()).await),
            }
        }
    }

    /// Nothing is on the way any more.
    pub(super) fn returned(&self) {
        self.lock().in_flight = 0;
    }

    /// Accounts for the first occurrences; true if any of them is done with.
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

    /// Says each change once.
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
        // While draining it decides when to write.
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

    /// A connection alone proves little: with something to deliver, the delivery is the proof, else a
    /// destination that takes connections and nothing more would be "ok" between any two attempts.
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

    /// Ends when draining has begun and nothing is left that would be lost.
    pub(super) async fn drained(&self) {
        loop {
            if self.lock().may_leave() {
                return;
            }
            self.draining.notified().await;
        }
    }

    /// Whether it takes nothing any more.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.lock().phase, Phase::Closed(_))
    }

    /// Ends when draining has begun.
    async fn closing(&self) {
        while self.lock().phase == Phase::Open {
            self.draining.notified().await;
        }
    }

    /// Waits, but hardly on the way out, and not where nothing is left.
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

    /// Whether what is in memory waits for what may be in the spool. Not while so much has come that some would be dropped.
    fn waits_for_spool(&self, capacity: usize) -> bool {
        // On the way out there may be no time left to write it.
        self.phase == Phase::Open
            && self.alone < capacity.div_ceil(2)
            && self.opening_until.is_some_and(|time| Instant::now() < time)
    }

    fn may_leave(&self) -> bool {
        self.phase != Phase::Open && self.alone == 0
    }
}
