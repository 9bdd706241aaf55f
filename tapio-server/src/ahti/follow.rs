//! From the journal into the engine.

use std::{sync::atomic::Ordering, time::Duration};

use tapio_occurrence::event;
use tapio_service::backoff::Backoff;
use tokio::{sync::watch, time::sleep};

use super::Ahti;

/// Facts that are taken at once: while they are, nobody else can ask the engine.
const TOGETHER: usize = 256;
/// Waits until the journal can be read again.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// Takes facts until the server stops.
pub(super) async fn follow(ahti: &Ahti, mut stopped: watch::Receiver<bool>) -> anyhow::Result<()> {
    let mut newest = ahti.journal.watch();
    let at_start = *newest.borrow();
    let mut retry = RETRY;
    let mut next = 0;
    loop {
        let known = *newest.borrow_and_update();
        let facts = tokio::select! {
            facts = ahti.journal.read(next, TOGETHER) => facts,
            _ = stopped.wait_for(|stop| *stop) => return Ok(()),
        };
        let facts = match facts {
            Ok(facts) => facts,
            Err(error) => {
                tracing::warn!(%error, "ahti: the journal cannot be read now; its facts wait there");
                sleep(retry.wait()).await;
                continue;
            }
        };
        retry = RETRY;
        if let Some((last, _)) = facts.last() {
            next = last + 1;
            tokio::task::block_in_place(|| take(ahti, &facts));
            ahti.taken.store(*last, Ordering::Relaxed);
            // Under load there may always be more.
            ahti.is_restored.fetch_or(*last >= at_start, Ordering::Relaxed);
            continue;
        }
        // Nothing is left; an empty journal has nothing from the start.
        ahti.taken.fetch_max(known, Ordering::Relaxed);
        ahti.is_restored.store(true, Ordering::Relaxed);
        tokio::select! {
            changed = newest.changed() => if changed.is_err() { return Ok(()) },
            _ = stopped.wait_for(|stop| *stop) => return Ok(()),
        }
    }
}

fn take(ahti: &Ahti, facts: &[(u64, event::v1::Event)]) {
    let mut engine = ahti.engine();
    for (seq, fact) in facts {
        match event::occurrence(fact) {
            Ok(occurrence) => {
                if let Err(error) = engine.take(&occurrence) {
                    tracing::debug!(seq, %error, "ahti: a fact says something impossible");
                }
            }
            // Another program's event: kept in the journal, and nothing to explain.
            Err(_) => {
                ahti.opaque.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
