//! Learned baselines outlive the agent, however it ends.

use std::{fs, path::Path, thread, time::Duration};

use crate::support::{Occurrence, Pair, Tapio, needs_a_kernel};

const QUEUE_MS: u32 = 75;
/// Samples that make a baseline, at four per reading, and some more.
const CALM: usize = 100;
/// Calm samples that a socket needs for a reading, too few to make a baseline.
const FEW: usize = 12;
/// With eleven slow samples, one or two readings are slow.
const SHORT: usize = 12;
/// Writes snapshots as often as allowed.
const EACH_SECOND: &str = "snapshot: 1s\n";
/// Long enough for two snapshots.
const TWICE: Duration = Duration::from_millis(2_200);

/// Number of kills in a row; `KILLS` raises it.
fn kills() -> u32 {
    std::env::var("KILLS").map_or(5, |kills| kills.parse().unwrap())
}

fn start(state: &Path) -> Tapio {
    Tapio::start_with(&[&format!("--state-dir={}", state.display())], EACH_SECOND)
}

/// A rise that an agent without a baseline would take for normal.
fn spike(tapio: &Tapio, pair: &mut Pair) -> Occurrence {
    pair.request(FEW);
    pair.link.slow(QUEUE_MS);
    pair.request(SHORT);
    pair.link.clear();
    pair.request(FEW);
    tapio.expect_one(|o| pair.is_client(o)).named("rtt_spike")
}

#[test]
fn what_was_learned_outlives_a_stop_and_kills() {
    needs_a_kernel!();
    let state = tempfile::tempdir().unwrap();
    let tapio = start(state.path());
    let mut pair = Pair::connected(4801);
    pair.request(CALM);
    tapio.end();

    for _ in 0..kills() {
        let tapio = start(state.path());
        tapio.expect_log("state snapshot restored", "");
        pair.request(CALM);
        thread::sleep(TWICE);
        // Dropping it kills the agent without a chance to write.
        drop(tapio);
    }

    let tapio = start(state.path());
    let reported = spike(&tapio, &mut pair);
    assert!(reported.baseline("mean") < 5_000.0);
    // There is one reading per four samples, and a kill may lose half of them.
    let least = (CALM / 4) as f64 * (1.0 + f64::from(kills()) / 2.0);
    assert!(reported.baseline("samples") >= least, "{least}: {reported:?}");
    let known = fs::metadata(state.path().join("snapshot")).unwrap().len();
    assert!(known < 1 << 20, "only what is used is kept: {known} bytes");
}

#[test]
fn what_cannot_be_used_is_said_and_learned_anew() {
    needs_a_kernel!();
    let state = tempfile::tempdir().unwrap();
    fs::write(state.path().join("snapshot"), "something else").unwrap();
    let tapio = start(state.path());
    tapio.expect_log("state snapshot cannot be used; baselines start over", "it is damaged");
    let mut pair = Pair::connected(4802);
    pair.request(CALM);
    assert!(spike(&tapio, &mut pair).baseline("mean") < 5_000.0);
    tapio.end();
    let tapio = start(state.path());
    tapio.expect_log("state snapshot restored", "");
}

#[test]
fn a_state_directory_that_cannot_be_written_costs_what_is_kept_only() {
    needs_a_kernel!();
    let file = tempfile::NamedTempFile::new().unwrap();
    let tapio = start(file.path());
    tapio.expect_log("what is learned from now on ends with the agent", "cannot be written");
    let mut pair = Pair::connected(4803);
    pair.request(CALM);
    spike(&tapio, &mut pair);
    let log = tapio.end().log;
    assert_eq!(log.matches("ends with the agent").count(), 1, "once:\n{log}");
}
