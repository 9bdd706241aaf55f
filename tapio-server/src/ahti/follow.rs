//! From the journal into the engine.

use std::{sync::atomic::Ordering, time::Duration};

use tapio_occurrence::event;
use tapio_service::{backoff::Backoff, clock};
use tokio::{sync::watch, time::sleep};

use super::{Ahti, api::events::publish};

/// Facts that are taken at once: while they are, nobody else can ask the engine.
const TOGETHER: usize = 256;
/// When no fact comes for so long, the incidents are brought up to date with the last ones: the engine itself does that every
/// few seconds of the facts' own time, or when somebody asks.
const QUIET: Duration = Duration::from_secs(1);
/// Waits until the journal can be read again.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// Takes facts until the server stops.
pub(super) async fn follow(ahti: &Ahti, mut stopped: watch::Receiver<bool>) -> anyhow::Result<()> {
    let mut newest = ahti.journal.watch();
    let at_start = *newest.borrow();
    let mut retry = RETRY;
    let (mut next, mut opened) = (0, 0);
    let mut is_said = true;
    // Once this fact is taken, all are that there were at this time.
    let mut mark = (at_start, clock::boot_ns());
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
            (next, is_said) = (last + 1, false);
            opened = tokio::task::block_in_place(|| take(ahti, &facts, opened));
            ahti.taken.store(*last, Ordering::Relaxed);
            if *last >= mark.0 {
                ahti.caught_up_boot_ns.store(mark.1, Ordering::Relaxed);
                mark = (*newest.borrow(), clock::boot_ns());
            }
            // Under load there may always be more.
            ahti.is_restored.fetch_or(*last >= at_start, Ordering::Relaxed);
            continue;
        }
        // Nothing is left; an empty journal has nothing from the start.
        ahti.taken.fetch_max(known, Ordering::Relaxed);
        mark = (known, clock::boot_ns());
        ahti.caught_up_boot_ns.store(mark.1, Ordering::Relaxed);
        ahti.is_restored.store(true, Ordering::Relaxed);
        tokio::select! {
            changed = newest.changed() => if changed.is_err() { return Ok(()) },
            () = sleep(QUIET), if !is_said => {
                is_said = true;
                tokio::task::block_in_place(|| {
                    let mut engine = ahti.engine();
                    engine.incidents();
                    publish(&ahti.latest, &engine);
                });
            }
            _ = stopped.wait_for(|stop| *stop) => return Ok(()),
        }
    }
}

/// Takes facts. Returns the number of the newest incident; those after `opened` are new.
fn take(ahti: &Ahti, facts: &[(u64, event::v1::Event)], opened: u64) -> u64 {
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
    publish(&ahti.latest, &engine);
    let now_ns = clock::unix_ns(clock::boot_ns());
    // What is read again at the start was delayed by nothing but the restart.
    let is_live = ahti.is_restored.load(Ordering::Relaxed);
    engine.opened_after(opened).fold(opened, |_, (number, since_ns)| {
        if is_live {
            ahti.metrics.opened(Duration::from_nanos(now_ns.saturating_sub(since_ns)));
        }
        number
    })
}
