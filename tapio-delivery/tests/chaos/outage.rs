//! The agent exits while the gateway is unreachable.

use std::net::{SocketAddr, TcpListener};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::{tempdir, tempdir_in};
use ulid::Ulid;

use crate::{
    agent::{Agent, Order},
    arrivals::{arrivals, missing, out_of_order, repeats},
    gateway,
    role::until,
};

/// The most occurrences that a POLKU sink has in flight.
pub(crate) const ON_THE_WAY: usize = 1024;

/// A directory on a disk, where writes are counted.
const DISK: &str = "/var/tmp";

pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub(crate) fn order(directory: &std::path::Path, gateway: SocketAddr, run: u64, rate: u64) -> Order {
    Order { state_dir: directory.join("state"), gateway, cap_bytes: 64 << 20, rate, run }
}

/// Whether a spool has been read and is empty.
pub(crate) fn has_delivered_all(status: &Value) -> bool {
    let spool = &status["spool"];
    spool["state"] != "opening" && spool["records"] == 0 && status["state"] == "ok"
}

/// Starts an agent without a source, waits until it has delivered its spool, and stops it.
pub(crate) fn deliver_rest(directory: &std::path::Path, gateway: SocketAddr, run: u64) {
    let rest = Agent::start(&order(directory, gateway, run, 0), &directory.join("agent.log"));
    until(|| rest.said().status, has_delivered_all);
    let (_, said) = rest.stop();
    assert_eq!(said.status["spooled"], 0, "{said:?}");
}

#[test]
fn what_is_given_while_the_gateway_is_away_outlives_kills_and_arrives_in_order() {
    let directory = tempdir().unwrap();
    let (path, address) = (directory.path(), free_address());
    let mut accepted: Vec<Ulid> = Vec::new();
    for run in 1..=4 {
        let agent = Agent::start(&order(path, address, run, 2000), &path.join("agent.log"));
        until(|| agent.said().accepted, |accepted| *accepted >= 1000);
        accepted.extend(agent.kill());
    }
    assert!(arrivals(path).is_empty());
    let gateway = gateway::start(address, path);
    deliver_rest(path, address, 9);
    let arrived = arrivals(path);
    assert_eq!(missing(&accepted, &arrived), 0, "of {}", accepted.len());
    assert_eq!(out_of_order(&arrived), None);
    assert_eq!(repeats(&arrived), 0, "nothing was on the way when the agent was killed");
    drop(gateway);
}

#[test]
fn a_stop_without_a_gateway_leaves_all_in_the_spool() {
    let directory = tempdir().unwrap();
    let (path, address) = (directory.path(), free_address());
    let agent = Agent::start(&order(path, address, 1, 1000), &path.join("agent.log"));
    until(|| agent.said().status["received"].clone(), |given| given.as_u64() > Some(500));
    let (accepted, said) = agent.stop();
    let given = said.status["received"].as_u64().unwrap();
    assert_eq!(said.status["spooled"], given, "{said:?}");
    assert_eq!(said.status["dropped"], json!({}));
    assert_eq!(accepted.len() as u64, given);

    let gateway = gateway::start(address, path);
    deliver_rest(path, address, 2);
    let arrived = arrivals(path);
    assert_eq!(arrived, accepted, "each once, in order");
    drop(gateway);
}

#[test]
fn a_gateway_that_is_stopped_holds_up_neither_the_spool_nor_the_end() {
    let directory = tempdir().unwrap();
    let (path, address) = (directory.path(), free_address());
    let gateway = gateway::start(address, path);
    let agent = Agent::start(&order(path, address, 1, 1000), &path.join("agent.log"));
    until(|| agent.said().status["sent"].clone(), |sent| sent.as_u64() > Some(200));
    gateway.signal(Signal::STOP);
    until(|| agent.said().status["spooled"].clone(), |spooled| spooled.as_u64() > Some(500));
    let (accepted, said) = agent.stop();
    assert_eq!(said.status["dropped"], json!({}), "{said:?}");
    gateway.signal(Signal::CONT);
    deliver_rest(path, address, 2);
    let arrived = arrivals(path);
    assert_eq!(missing(&accepted, &arrived), 0, "of {}", accepted.len());
    assert_eq!(out_of_order(&arrived), None);
    assert!(repeats(&arrived) <= 2 * ON_THE_WAY, "{} repeats", repeats(&arrived));
}

#[test]
fn fifty_kills_lose_nothing_and_repeat_at_most_what_was_on_the_way() {
    const KILLS: u64 = 50;
    let directory = tempdir().unwrap();
    let (path, address) = (directory.path(), free_address());
    let log = path.join("agent.log");
    // A backlog, so that some agents are killed while they read the spool.
    let agent = Agent::start(&order(path, address, 1, 20_000), &log);
    until(|| agent.said().accepted, |accepted| *accepted >= 20_000);
    let mut accepted = agent.kill();
    let gateway = gateway::start(address, path);
    let mut rng = fastrand::Rng::with_seed(50);
    for run in 2..=KILLS {
        let agent = Agent::start(&order(path, address, run, 2000), &log);
        let enough = rng.u64(1..600);
        until(|| agent.said().accepted, |accepted| *accepted >= enough);
        accepted.extend(agent.kill());
    }
    deliver_rest(path, address, KILLS + 1);
    let arrived = arrivals(path);
    println!("accepted {}, arrived {}, repeats {}", accepted.len(), arrived.len(), repeats(&arrived));
    assert_eq!(missing(&accepted, &arrived), 0, "of {}", accepted.len());
    assert_eq!(out_of_order(&arrived), None);
    assert!(repeats(&arrived) <= KILLS as usize * ON_THE_WAY, "{} repeats", repeats(&arrived));
    drop(gateway);
}

#[test]
fn what_is_written_is_bounded() {
    // TMPFS_MAGIC, include/uapi/linux/magic.h
    if !rustix::fs::statfs(DISK).is_ok_and(|there| there.f_type != 0x0102_1994) {
        return println!("SKIP what_is_written_is_bounded: {DISK} is in memory, or not there");
    }
    // Written in one burst and once a second: bytes on disk must not exceed this multiple of the records'
    // bytes.
    for (rate, spooled, most) in [(20_000, 40_000, 3), (50, 500, 12)] {
        let directory = tempdir_in(DISK).unwrap();
        let path = directory.path();
        let agent = Agent::start(&order(path, free_address(), 1, rate), &path.join("agent.log"));
        until(|| agent.said().status["spool"]["state"].clone(), |state| state == "ok");
        let before = agent.written_bytes();
        let enough = |status: &Value| status["spool"]["records"].as_u64() >= Some(spooled);
        let status = until(|| agent.said().status, enough);
        let (records, bytes) = (status["spool"]["records"].as_u64(), status["spool"]["bytes"].as_u64());
        let (records, bytes, written) = (records.unwrap(), bytes.unwrap(), agent.written_bytes() - before);
        agent.kill();
        println!(
            "{rate} a second: {records} records, {bytes} bytes, {written} written: {:.2} times",
            written as f64 / bytes as f64
        );
        assert!(written > bytes, "the state directory is not on a disk");
        assert!(written <= most * bytes, "{written} of {bytes}");
    }
}
