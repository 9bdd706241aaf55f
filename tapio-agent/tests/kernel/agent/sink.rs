//! Sinks that end while the agent runs.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use crate::support::{Process, Tapio, needs_a_kernel};

const GONE: &str = "the reader of standard output has gone";

/// Connects to each of these ports, on which nothing listens.
fn refused(client: &mut Process, ports: std::ops::Range<u16>) {
    for port in ports {
        assert_eq!(client.connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap_err(), "ECONNREFUSED");
        // Each connect goes into a separate batch.
        thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn it_ends_well_when_the_only_reader_has_gone() {
    needs_a_kernel!();
    let tapio = Tapio::start_read(1, &[], "");
    refused(&mut Process::start("to-head"), 4601..4603);

    let ended = tapio.ended();
    assert_eq!(ended.occurrences.len(), 1);
    let stops: Vec<_> = ended.log.lines().filter(|line| line.contains("\"stopping\"")).collect();
    assert!(matches!(stops[..], [line] if line.contains(&format!("no sink is left: {GONE}"))), "{stops:?}");
}

#[test]
fn it_goes_on_while_another_sink_is_left() {
    needs_a_kernel!();
    // An unreachable gateway may come back.
    let state = tempfile::tempdir().unwrap();
    let arguments = ["--polku=127.0.0.1:4610", &format!("--state-dir={}", state.path().display())];
    let tapio = Tapio::start_read(1, &arguments, "");
    let mut client = Process::start("to-gateway");
    refused(&mut client, 4601..4603);
    tapio.expect_log("sink ended", GONE);
    refused(&mut client, 4603..4606);

    let ended = tapio.end();
    let stdout = ended.sink("stdout");
    assert_eq!(stdout["state"], format!("closed({GONE})"));
    assert!(stdout["dropped"]["closed"].as_u64() >= Some(3), "{stdout}");
    let polku = ended.sink("polku");
    assert!(polku["received"].as_u64() >= Some(5), "{polku}");
    assert_eq!(polku["spooled"], polku["received"], "{polku}");

    // The next agent delivers the occurrences that this one could not.
    let next = Tapio::start_read(1, &arguments, "");
    next.expect_log("the spool has what an earlier run left", "recovered");
    let next = next.end();
    assert_eq!(next.sink("polku")["recovered"], polku["received"], "{}", next.sinks);
}

/// A second stop signal ends the agent at once, even with a stuck reader.
#[test]
fn a_reader_that_is_stuck_is_said_and_a_second_sigterm_ends_the_drain() {
    needs_a_kernel!();
    let (mut tapio, unread) = Tapio::start_stalled(&[], "drain: 60s");
    refused(&mut Process::start("to-nobody"), 4621..4623);
    tapio.expect_log("sink stalled", "does not read");
    tapio.terminate();
    tapio.expect_log("stopping", "SIGTERM");
    thread::sleep(Duration::from_secs(3));
    assert!(tapio.runs(), "it does not wait for the drain");
    let asked = Instant::now();
    tapio.terminate();
    let ended = tapio.ended();
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
    let stdout = ended.sink("stdout");
    // Occurrences of other processes on this machine may be included.
    assert!(stdout["received"].as_u64() >= Some(2), "{stdout}");
    assert_eq!(stdout["dropped"]["shutdown"], stdout["received"], "{stdout}");
    drop(unread);
}
