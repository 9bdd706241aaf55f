//! A sink: follows the journal, and delivers what its routes match.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tapio_delivery::{self as delivery, Destination, Failure, Ledger, State as Condition, Verdict};
use tapio_occurrence::{Occurrence, event};
use tapio_service::backoff::Backoff;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{Match, at_once, cursor::Cursor};
use crate::{journal::Journal, role::Context};

/// Facts that are read at once.
const TOGETHER: usize = 1_024;
/// Waits between attempts.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// How often a fact is sent to a destination that answers without a verdict on it.
const MOST_SENDS: u8 = 3;
/// How long a connection may take to be closed at the end.
const CLOSE: Duration = Duration::from_secs(2);
/// A gap in the sequence numbers that is larger is no gap: a new file of the journal begins with the time in microseconds.
const NEW_FILE: u64 = 1_000_000_000;

/// Why a sink has lost facts.
const EXPIRED: &str = "journal_expired";
const UNACKNOWLEDGED: &str = "unacknowledged";

/// What is known of a sink. Shared with whoever asks.
pub(super) struct State {
    name: &'static str,
    matches: Vec<Match>,
    inner: Mutex<Inner>,
}

struct Inner {
    condition: Condition,
    endpoint: Option<String>,
    ledger: Ledger,
    behind_facts: u64,
}

/// A sink in `/status`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Status {
    #[serde(flatten)]
    pub(super) sink: delivery::Status,
    /// Facts in the journal that it has not looked at yet.
    pub(super) behind_facts: u64,
}

/// The task of a sink.
pub(super) struct Follower {
    state: Arc<State>,
    journal: Journal,
    cursor: Cursor,
    /// The sequence number of the next fact to look at.
    next: u64,
    stopped: watch::Receiver<bool>,
}

/// The server stops.
struct Stopped;

impl State {
    pub(super) fn new(name: &'static str, matches: Vec<Match>) -> Self {
        let mut ledger = Ledger::default();
        // From the start, so that an increase is seen.
        ledger.dropped.extend([(EXPIRED, 0), (UNACKNOWLEDGED, 0)]);
        let inner = Inner { condition: Condition::Connecting, endpoint: None, ledger, behind_facts: 0 };
        Self { name, matches, inner: Mutex::new(inner) }
    }

    pub(super) fn status(&self) -> Status {
        let Inner { condition, endpoint, ledger, behind_facts } = &*self.lock();
        let sink = delivery::Status {
            sink: self.name,
            state: condition.clone(),
            endpoint: endpoint.clone(),
            ledger: ledger.clone(),
            spool: None,
        };
        Status { sink, behind_facts: *behind_facts }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, condition: Condition, endpoint: Option<&str>) {
        let mut inner = self.lock();
        let is_news = condition.label() != inner.condition.label();
        inner.endpoint = endpoint.map(str::to_owned);
        inner.condition = condition.clone();
        drop(inner);
        if !is_news {
            return;
        }
        match &condition {
            Condition::Ok => tracing::info!(sink = self.name, "sink delivers"),
            condition => {
                tracing::warn!(sink = self.name, %condition, "sink does not deliver; facts wait in the journal")
            }
        }
    }
}

impl Follower {
    /// Goes on from where an earlier run was; a new sink gets what comes from now on.
    pub(super) fn new(state: Arc<State>, context: &Context, cursor: Cursor) -> anyhow::Result<Self> {
        let journal = context.journal.clone();
        let next = match cursor.load()? {
            Some(next) => next,
            None => {
                let next = *journal.watch().borrow() + 1;
                cursor.save(next)?;
                next
            }
        };
        Ok(Self { state, journal, cursor, next, stopped: context.stopped.clone() })
    }

    /// Delivers until the server stops.
    pub(super) async fn run(mut self, mut destination: impl Destination) -> anyhow::Result<()> {
        let mut newest = self.journal.watch();
        let mut retry = RETRY;
        loop {
            let known = *newest.borrow_and_update();
            let mut stopped = self.stopped.clone();
            let read = tokio::select! {
                read = self.journal.read(self.next, TOGETHER) => read,
                _ = stopped.wait_for(|stop| *stop) => break,
            };
            let facts = match read {
                Ok(facts) => facts,
                Err(error) => {
                    tracing::warn!(sink = self.state.name, %error, "the journal cannot be read now");
                    tokio::select! {
                        () = sleep(retry.wait()) => continue,
                        _ = stopped.wait_for(|stop| *stop) => break,
                    }
                }
            };
            retry = RETRY;
            let (Some((first, _)), Some((last, _))) = (facts.first(), facts.last()) else {
                self.state.lock().behind_facts = 0;
                tokio::select! {
                    changed = newest.changed() => if changed.is_err() { break },
                    _ = stopped.wait_for(|stop| *stop) => break,
                }
                continue;
            };
            self.note(*first, *last, known);
            let last = *last;
            let wanted = self.wanted(&facts);
            drop(facts);
            if self.deliver(&mut destination, wanted).await.is_err() {
                break;
            }
            self.next = last + 1;
            if let Err(error) = self.cursor.save(self.next) {
                tracing::warn!(
                    sink = self.state.name,
                    error = format!("{error:#}"),
                    "after a restart facts come again"
                );
            }
        }
        // The other end notices by itself.
        let _ = timeout(CLOSE, destination.close()).await;
        Ok(())
    }

    /// Counts what the journal let go before this sink looked at it, and how far behind it is.
    fn note(&self, first: u64, last: u64, newest: u64) {
        let gap = first.saturating_sub(self.next);
        let mut inner = self.state.lock();
        inner.behind_facts = newest.saturating_sub(last).min(self.journal.status().facts);
        if gap > 0 && gap < NEW_FILE {
            inner.ledger.received += gap;
            *inner.ledger.dropped.entry(EXPIRED).or_default() += gap;
            drop(inner);
            tracing::warn!(
                sink = self.state.name,
                facts = gap,
                "the journal let facts go before this sink had them"
            );
        }
    }

    fn wanted(&self, facts: &[(u64, event::v1::Event)]) -> Vec<Arc<Occurrence>> {
        // Another program's event has no type that a route could name.
        let occurrences = facts.iter().filter_map(|(_, fact)| event::occurrence(fact).ok());
        let is_wanted = |fact: &Occurrence| self.state.matches.iter().any(|one| one.fits(fact));
        let wanted: Vec<_> = occurrences.filter(is_wanted).map(Arc::new).collect();
        let mut inner = self.state.lock();
        inner.ledger.received += wanted.len() as u64;
        inner.ledger.queued = wanted.len() as u64;
        wanted
    }

    /// Delivers all of these, however long that takes.
    async fn deliver(
        &self,
        destination: &mut impl Destination,
        wanted: Vec<Arc<Occurrence>>,
    ) -> Result<(), Stopped> {
        let mut stopped = self.stopped.clone();
        let (mut left, mut retry, mut sends) = (wanted.as_slice(), RETRY, 0);
        while !left.is_empty() {
            let batch = left.get(..at_once(destination)).unwrap_or(left);
            let delivered = async {
                destination.connect().await?;
                destination.deliver(batch).await
            };
            let delivered = tokio::select! {
                delivered = delivered => delivered,
                _ = stopped.wait_for(|stop| *stop) => return Err(Stopped),
            };
            let failure = match delivered {
                Ok(receipt) => {
                    let settled = self.settle(&receipt.verdicts, &mut sends);
                    left = left.get(settled..).unwrap_or_default();
                    if settled > 0 && !receipt.slow {
                        self.state.turn(Condition::Ok, destination.endpoint());
                        retry = RETRY;
                        continue;
                    }
                    match receipt.slow {
                        true => Condition::Slowed,
                        false => Condition::Retrying("it answers, and acknowledges nothing".to_owned()),
                    }
                }
                Err(Failure::Retry(why)) => Condition::Retrying(why),
                Err(Failure::Hold(why)) => Condition::Misconfigured(why),
                Err(Failure::Reject(why)) => {
                    tracing::warn!(sink = self.state.name, why, facts = batch.len(), "refused for good");
                    let settled = batch.len();
                    left = left.get(settled..).unwrap_or_default();
                    self.count(|ledger| ledger.rejected += settled as u64, settled);
                    continue;
                }
            };
            self.state.turn(failure, destination.endpoint());
            tokio::select! {
                () = sleep(retry.wait()) => {}
                _ = stopped.wait_for(|stop| *stop) => return Err(Stopped),
            }
        }
        Ok(())
    }

    /// Counts verdicts. Returns how many facts need not be sent again; `sends` is how often the first was sent in vain.
    fn settle(&self, verdicts: &[Verdict], sends: &mut u8) -> usize {
        let known = verdicts.iter().take_while(|verdict| **verdict != Verdict::Unanswered);
        let (mut taken, mut refused) = (0, 0);
        for verdict in known {
            match verdict {
                Verdict::Taken => taken += 1,
                Verdict::Refused | Verdict::Unanswered => refused += 1,
            }
        }
        let settled = taken + refused;
        self.count(
            |ledger| {
                ledger.sent += taken as u64;
                ledger.rejected += refused as u64;
            },
            settled,
        );
        if settled > 0 || verdicts.is_empty() {
            *sends = 0;
            return settled;
        }
        *sends += 1;
        if *sends < MOST_SENDS {
            return 0;
        }
        *sends = 0;
        self.count(|ledger| *ledger.dropped.entry(UNACKNOWLEDGED).or_default() += 1, 1);
        1
    }

    fn count(&self, how: impl FnOnce(&mut Ledger), settled: usize) {
        let mut inner = self.state.lock();
        how(&mut inner.ledger);
        inner.ledger.queued = inner.ledger.queued.saturating_sub(settled as u64);
    }
}
