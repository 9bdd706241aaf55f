//! The load: requests at a steady rate.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::settings::Settings;
use crate::{call, stop};

/// How often it says what came of it.
const EVERY: Duration = Duration::from_secs(10);
/// Requests that wait for their answer at once; more are not sent.
const WAITING: u64 = 64;

#[derive(Default)]
struct Counts {
    good: Cell<u64>,
    bad: Cell<u64>,
    waiting: Cell<u64>,
}

/// Sends requests until SIGTERM.
pub(crate) async fn run(settings: &Settings) -> Result<()> {
    LocalSet::new()
        .run_until(async {
            tokio::select! {
                () = send(settings) => Ok(()),
                stopped = stop::asked() => stopped,
            }
        })
        .await
}

async fn send(settings: &Settings) {
    let counts = Rc::new(Counts::default());
    let mut ticks =
        interval(Duration::from_secs(1) / u32::try_from(settings.rate.max(1)).unwrap_or(u32::MAX));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut report = Instant::now() + EVERY;
    loop {
        ticks.tick().await;
        if counts.waiting.get() < WAITING {
            counts.waiting.set(counts.waiting.get() + 1);
            let (counts, target, port) = (Rc::clone(&counts), settings.target.clone(), settings.port);
            spawn_local(async move {
                let is_good = call::get(&target, port, "/buy").await.is_ok_and(|status| status == 200);
                let of_kind = if is_good { &counts.good } else { &counts.bad };
                of_kind.set(of_kind.get() + 1);
                counts.waiting.set(counts.waiting.get().saturating_sub(1));
            });
        }
        if Instant::now() >= report {
            println!(
                "{} good, {} bad, {} waiting",
                counts.good.take(),
                counts.bad.take(),
                counts.waiting.get()
            );
            report = Instant::now() + EVERY;
        }
    }
}
