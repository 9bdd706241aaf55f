//! Several replicas: each watches and compares, and the one that holds the Lease reports.
//!
//! The others hold what they see for some minutes. Ids depend on the fact alone, so whoever takes over sends all that it
//! holds, and the receiver drops what it has. What exists is not held: whoever takes over says it again.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tapio_occurrence::{
    Occurrence,
    kubernetes::{Change, Condition, Deleted, Fact as _, Warning},
};
use tapio_service::clock;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    lease::{GIVE_UP, LOOK, Lease, RENEW, Turn},
    read::SECOND_NS,
    status::Status,
};
use crate::facts::Facts;

/// How long a fact is held at least: longer than a watch may take to come back.
const HOLD_S: u64 = 600;
/// Most facts that are held.
const MAX_HELD: usize = 16_384;
/// How long the Lease may take to be released at the end.
const RELEASE: Duration = Duration::from_secs(3);

/// A place for facts that gets those of one replica.
pub(super) struct Elected<F> {
    facts: F,
    held: Held,
    /// Whether it is this replica's turn.
    turn: watch::Receiver<bool>,
    finish: watch::Sender<bool>,
    election: JoinHandle<()>,
}

/// What a replica holds that stands by.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<VecDeque<(u64, Occurrence)>>>);

impl<F: Facts> Elected<F> {
    /// Stands by until the Lease says otherwise. Call it within a tokio runtime.
    pub(super) fn new(facts: F, lease: Lease, status: Arc<Status>) -> Self {
        let held = Held::default();
        let (turns, turn) = watch::channel(false);
        let (finish, finished) = watch::channel(false);
        let election = tokio::spawn(elect(lease, held.clone(), status, turns, finished));
        Self { facts, held, turn, finish, election }
    }

    /// Lets another replica take over at once.
    pub(super) async fn finish(self) {
        self.finish.send_replace(true);
        // It logs its own failure.
        if timeout(RELEASE, self.election).await.is_err() {
            tracing::warn!(
                "portti: the Lease was not released in time: another replica takes over when it is over"
            );
        }
    }
}

impl<F: Facts> Facts for Elected<F> {
    async fn accept(&mut self, facts: Vec<Occurrence>) -> anyhow::Result<()> {
        let Self { facts: place, held, turn, .. } = self;
        if *turn.borrow() {
            let accepted = async {
                let all = held.all();
                if !all.is_empty() {
                    place.accept(all).await?;
                    held.clear();
                }
                place.accept(facts.clone()).await
            };
            let mut lost = turn.clone();
            tokio::select! {
                accepted = accepted => return accepted,
                // An error means that nobody elects any more: the role ends.
                _ = lost.wait_for(|own| !own) => {}
            }
        }
        held.add(now_s(), facts);
        Ok(())
    }

    async fn begins(&mut self) {
        // Only what has changed counts: the turn may have been seen before.
        while self.turn.changed().await.is_ok() {
            if *self.turn.borrow_and_update() {
                tracing::info!(held = self.held.len(), "portti: this replica reports from now on");
                return;
            }
        }
        std::future::pending().await
    }
}

/// Renews the Lease, or waits for it, until this replica ends.
async fn elect(
    mut lease: Lease,
    held: Held,
    status: Arc<Status>,
    turns: watch::Sender<bool>,
    mut finished: watch::Receiver<bool>,
) {
    let mut renewed = Instant::now();
    let mut trouble = String::new();
    loop {
        let turn = lease.turn(status.delivered_unix_ns() / SECOND_NS).await;
        let is_own = match &turn {
            Ok(Turn::Own) => {
                renewed = Instant::now();
                true
            }
            Ok(Turn::Other(..)) => false,
            Err(_) => *turns.borrow() && renewed.elapsed() < GIVE_UP,
        };
        match turn {
            Ok(turn) => {
                trouble.clear();
                let delivered_s = match &turn {
                    Turn::Own => None,
                    Turn::Other(_, delivered) => *delivered,
                };
                let dropped = if is_own { 0 } else { held.let_go(now_s(), delivered_s) };
                status.turn(turn, held.len(), dropped);
            }
            Err(error) => {
                let said = format!("{error:#}");
                if said != trouble {
                    tracing::warn!(error = said, "portti: whose turn it is cannot be found out");
                    trouble = said;
                }
                // Nobody knows what was delivered: as much is held as there is room for.
                let dropped = held.let_go(now_s(), Some(0));
                status.no_turn(is_own, trouble.clone(), held.len(), dropped);
            }
        }
        if turns.send_if_modified(|known| std::mem::replace(known, is_own) != is_own) && !is_own {
            tracing::warn!("portti: another replica reports from now on, or nobody can");
        }
        let wait = if is_own && trouble.is_empty() { RENEW } else { LOOK };
        tokio::select! {
            () = sleep(wait) => {}
            _ = finished.wait_for(|finished| *finished) => break,
        }
    }
    if let Err(error) = lease.release().await {
        tracing::warn!(error = format!("{error:#}"), "portti: the Lease was not released");
    }
}

fn now_s() -> u64 {
    clock::unix_ns(clock::boot_ns()) / SECOND_NS
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, Occurrence)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn len(&self) -> usize {
        self.lock().len()
    }

    fn all(&self) -> Vec<Occurrence> {
        self.lock().iter().map(|(_, fact)| fact.clone()).collect()
    }

    fn clear(&self) {
        self.lock().clear();
    }

    fn add(&self, now_s: u64, facts: Vec<Occurrence>) {
        const TYPES: [&str; 4] = [Change::TYPE, Condition::TYPE, Deleted::TYPE, Warning::TYPE];
        let facts = facts.into_iter().filter(|fact| TYPES.contains(&&*fact.kind));
        self.lock().extend(facts.map(|fact| (now_s, fact)));
    }

    /// Lets go of what the one that reports had delivered long ago. Returns how many others were let go, since there are
    /// too many.
    fn let_go(&self, now_s: u64, delivered_s: Option<u64>) -> u64 {
        let mut held = self.lock();
        let limit = delivered_s.map_or(now_s, |delivered| delivered.min(now_s)).saturating_sub(HOLD_S);
        while held.front().is_some_and(|(since, _)| *since < limit) {
            held.pop_front();
        }
        let more = held.len().saturating_sub(MAX_HELD);
        held.drain(..more);
        more as u64
    }
}

#[cfg(test)]
mod tests {
    use tapio_occurrence::{kubernetes::Object, samples};

    use super::*;

    fn fact(kind: &'static str) -> Occurrence {
        Occurrence { kind: kind.into(), ..samples::occurrence() }
    }

    #[test]
    fn what_was_not_delivered_is_held() {
        let held = Held::default();
        held.add(1_000, vec![fact(Object::TYPE), fact(Change::TYPE)]);
        held.add(1_100, vec![fact(Deleted::TYPE), fact(Condition::TYPE), fact(Warning::TYPE)]);
        assert_eq!(held.len(), 4, "what exists is said by each run");
        assert_eq!((held.let_go(1_600, Some(1_600)), held.len()), (0, 4));
        assert_eq!((held.let_go(1_601, Some(1_601)), held.len()), (0, 3));
        // The one that reports cannot deliver.
        assert_eq!((held.let_go(9_000, Some(1_650)), held.len()), (0, 3));
        assert_eq!((held.let_go(9_000, Some(1_701)), held.len()), (0, 0));
    }

    #[test]
    fn what_is_held_is_bounded_and_the_rest_counted() {
        let held = Held::default();
        held.add(1, vec![fact(Change::TYPE); 10]);
        held.add(2, vec![fact(Change::TYPE); MAX_HELD]);
        assert_eq!((held.let_go(3, Some(0)), held.len()), (10, MAX_HELD));
        assert!(held.lock().iter().all(|(since, _)| *since == 2));
    }
}
