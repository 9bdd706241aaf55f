//! The cost that a slow sink causes a fast one: the age of occurrences on arrival at a POLKU gateway, without
//! and with an OTLP receiver that takes half a second per request. That receiver falls behind, so its spool
//! is written.

#[path = "support/receiver.rs"]
#[allow(dead_code, reason = "each benchmark uses a part")]
mod receiver;
#[path = "support/sinks.rs"]
#[allow(dead_code, reason = "each benchmark uses a part")]
mod support;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use receiver::{Receiver, Taken};
use tapio_delivery::otlp::{self, Otlp};
use tapio_service::setting::Node as _;
use tokio::time::interval;

/// Rounds in the order without, with, with, without, so that drift of the machine affects both equally.
const ROUNDS: [bool; 8] = [false, true, true, false, false, true, true, false];
const WINDOW: Duration = Duration::from_secs(4);
/// Two thousand occurrences a second, twice the slow receiver's rate.
const BETWEEN: Duration = Duration::from_micros(500);
const LATE: Duration = Duration::from_millis(500);
const SPOOL_BYTES: u64 = 64 << 20;

fn main() -> anyhow::Result<()> {
    if receiver::was_receiver()? {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut fast = Receiver::start(Duration::ZERO)?;
    let slow = Receiver::start(LATE)?;
    let [mut without, mut with] = [(); 2].map(|()| Vec::new());
    for beside in ROUNDS {
        let taken = runtime.block_on(round(&mut fast, beside.then_some(&slow)))?;
        if beside { with.push(taken) } else { without.push(taken) }
    }
    for (name, of) in [("p50", (|taken| taken.p50_ms) as fn(&Taken) -> f64), ("p99", |taken| taken.p99_ms)] {
        let [alone, beside] = [&without, &with].map(|all| median(all.iter().map(of).collect()));
        println!("fast_sink_alone_{name} {alone:.1} ms");
        println!("fast_sink_beside_slow_{name} {beside:.1} ms");
        println!("fast_sink_{name}_ratio {:.3} x", beside / alone);
    }
    Ok(())
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let half = numbers.len() / 2;
    (numbers[half] + numbers[(numbers.len() - 1) / 2]) / 2.0
}

async fn round(fast: &mut Receiver, slow: Option<&Receiver>) -> anyhow::Result<Taken> {
    let state = tempfile::tempdir()?;
    let mut sinks = support::sinks().spooling(state.path(), SPOOL_BYTES);
    sinks.add(support::polku(fast.address)?);
    if let Some(slow) = slow {
        let mut settings = otlp::Settings::default();
        settings.assign("endpoint", &format!("http://{}", slow.address))?;
        settings.assign("protocol", "grpc")?;
        let otlp = Otlp::new(&settings, true).map_err(|trouble| anyhow::anyhow!("{trouble}"))?;
        sinks.add(otlp.context("no endpoint")?);
    }
    let mut given = 0;
    let mut due = interval(BETWEEN);
    for _ in 0..WINDOW.as_micros() / BETWEEN.as_micros() {
        due.tick().await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        sinks.send(Arc::new(support::occurrence(now.as_nanos() as u64)));
        given += 1;
    }
    support::until(&sinks, |ledger| ledger.sent == given).await?;
    if slow.is_some() {
        let behind = sinks.status().iter().map(|status| status.ledger.spooled).max();
        anyhow::ensure!(behind > Some(0), "the slow sink is not behind");
    }
    // The slow sink has more than it could deliver.
    sinks.drain(Duration::from_secs(2)).await;
    let taken = fast.taken()?;
    anyhow::ensure!(taken.count == given, "{} of {given} came", taken.count);
    Ok(taken)
}
