//! A large spool after a long outage: the agent answers its probes while it reads and checks the file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "../../tapio-delivery/tests/chaos/role.rs"]
#[allow(dead_code, reason = "it waits as the tests of delivery do")]
mod role;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tapio_delivery::{Batching, Destination, Failure, Metrics, Receipt, Sinks};
use tapio_occurrence::{Occurrence, samples};
use tempfile::tempdir;
use ulid::Ulid;

use role::until;

/// Records of half a MiB, because they are quick to create. The file grows by doubling and reaches 1 GiB.
const COUNT: u64 = 1100;
const RECORD_BYTES: usize = 500 << 10;
const CAP_BYTES: u64 = 2 << 30;
/// Sink name. Both the outage and the runs after it use its spool file.
const NAME: &str = "tap";

struct Away;

impl Destination for Away {
    const NAME: &'static str = NAME;

    fn batching(&self) -> Batching {
        Batching { count: 64, age: Duration::ZERO }
    }

    async fn deliver(&mut self, _: &[Arc<Occurrence>]) -> Result<Receipt, Failure> {
        Err(Failure::Retry("away".to_owned()))
    }
}

/// Creates the spool of an agent that was stopped after a long outage.
async fn outage(state_dir: &Path) {
    let mut sinks = Sinks::new(Arc::new(Metrics::default()), 8192).spooling(state_dir, CAP_BYTES);
    sinks.add(Away);
    let filling: Arc<str> = "x".repeat(RECORD_BYTES).into();
    for nth in 0..COUNT {
        let message = filling.to_string();
        sinks.send(Arc::new(Occurrence { id: id(nth), message, ..samples::occurrence() }));
        // Keep less than a GiB in memory.
        while nth % 64 == 63 && sinks.status()[0].ledger.queued > 64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let counts = sinks.clone();
    assert_eq!(sinks.drain(Duration::from_secs(60)).await, 0);
    assert_eq!(counts.status()[0].ledger.spooled, COUNT);
}

fn id(nth: u64) -> Ulid {
    Ulid::from_parts(1_795_141_098_123, nth.into())
}

/// An address without a listener.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut tcp = TcpStream::connect(address).ok()?;
    tcp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    write!(tcp, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    tcp.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}

struct Running {
    child: Child,
    address: SocketAddr,
}

impl Running {
    /// Starts an agent with an unreachable gateway, and returns how long /livez took to answer.
    fn start(state_dir: &Path) -> (Self, Duration) {
        let address = free_address();
        let start = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_tapio"))
            .env_clear()
            .args(["--observer=node", "--output=none", "--kubernetes=off", "--polku=127.0.0.1:1"])
            .arg(format!("--listen={address}"))
            .arg(format!("--state-dir={}", state_dir.display()))
            .env("TAPIO_SPOOL", "2GiB")
            // What is in the spool is counted.
            .env("TAPIO_HEARTBEAT", "off")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let running = Self { child, address };
        until(|| get(address, "/livez"), Option::is_some);
        (running, start.elapsed())
    }

    fn sink(&self) -> Value {
        let status: Value = serde_json::from_str(&get(self.address, "/status").unwrap()).unwrap();
        status["ledger"]["sinks"][0].clone()
    }

    /// Stops it and returns how long that took.
    fn stop(mut self) -> Duration {
        let start = Instant::now();
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
        start.elapsed()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_spool_holds_up_no_probe_and_nothing_in_it_is_lost() {
    let directory = tempdir().unwrap();
    let (state_dir, spool) = (directory.path(), directory.path().join("spool"));
    // The baseline: startup without a spool to open.
    let (empty, quick) = Running::start(&state_dir.join("empty"));
    empty.stop();
    outage(state_dir).await;
    let (left, of_polku) = (spool.join(format!("{NAME}.redb")), spool.join("polku.redb"));
    let bytes = fs::metadata(&left).unwrap().len();
    assert!(bytes >= 1 << 30, "{bytes}");
    fs::rename(&left, &of_polku).unwrap();

    // An agent stopped while it opens the spool exits at once, and leaves the file unchanged.
    let (hurried, _) = Running::start(state_dir);
    assert_eq!(hurried.sink()["spool"]["state"], "opening");
    let took = hurried.stop();
    assert!(took < Duration::from_secs(8), "{took:?}");

    let (running, took) = Running::start(state_dir);
    let opening = Instant::now();
    assert_eq!(running.sink()["spool"]["state"], "opening", "it was open after {took:?}: no test");
    assert!(took < quick * 3 + Duration::from_secs(2), "{took:?}, and {quick:?} with nothing to open");
    let mut slowest = Duration::ZERO;
    let opened = until(
        || {
            let asked = Instant::now();
            get(running.address, "/livez").unwrap();
            slowest = slowest.max(asked.elapsed());
            running.sink()
        },
        |sink| sink["spool"]["state"] == "ok",
    );
    eprintln!(
        "{bytes} bytes opened in {:?}; /livez after {took:?}, then within {slowest:?}",
        opening.elapsed()
    );
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert_eq!((&opened["recovered"], &opened["spooled"]), (&COUNT.into(), &COUNT.into()), "{opened}");
    running.stop();

    fs::rename(&of_polku, &left).unwrap();
    let taken = Arc::default();
    let mut sinks = Sinks::new(Arc::new(Metrics::default()), 8192).spooling(state_dir, CAP_BYTES);
    sinks.add(Back(Arc::clone(&taken)));
    until(|| taken.lock().unwrap().len(), |count| *count as u64 == COUNT);
    let expected: Vec<_> = (0..COUNT).map(id).collect();
    assert!(*taken.lock().unwrap() == expected, "all of them, in order");
    sinks.drain(Duration::from_secs(30)).await;
}

/// Accepts everything.
struct Back(Arc<std::sync::Mutex<Vec<Ulid>>>);

impl Destination for Back {
    const NAME: &'static str = NAME;

    fn batching(&self) -> Batching {
        Batching { count: 64, age: Duration::ZERO }
    }

    async fn deliver(&mut self, batch: &[Arc<Occurrence>]) -> Result<Receipt, Failure> {
        self.0.lock().unwrap().extend(batch.iter().map(|occurrence| occurrence.id));
        Ok(Receipt::taken(batch.len()))
    }
}
