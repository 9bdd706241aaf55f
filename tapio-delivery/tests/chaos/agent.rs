//! The delivery part of an agent as a process: the real queue, spool and POLKU sink, and a source of numbered
//! occurrences at a fixed rate. It prints which of them were accepted.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ChildStdout, Command},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tapio_delivery::{
    Metrics, Sinks,
    polku::{Polku, Settings, Timings},
};
use tapio_occurrence::{Data, Occurrence, Outcome, Process, SOURCE, Severity};
use tapio_service::setting::Node as _;
use tokio::signal::unix::{SignalKind, signal};
use ulid::Ulid;

use crate::role::{self, Role};

/// The configuration of an agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) state_dir: PathBuf,
    pub(crate) gateway: SocketAddr,
    pub(crate) cap_bytes: u64,
    /// Occurrences per second.
    pub(crate) rate: u64,
    /// Numbers the agents of one test.
    pub(crate) run: u64,
}

/// A running agent.
pub(crate) struct Agent {
    role: Role,
    run: u64,
    said: Arc<Mutex<Said>>,
    reader: Option<JoinHandle<()>>,
}

/// The state that an agent has printed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Said {
    /// How many of those sent and not dropped at once were accepted.
    pub(crate) accepted: u64,
    /// Numbers of the occurrences dropped at once.
    pub(crate) dropped: Vec<u64>,
    /// Its sink in `/status`.
    pub(crate) status: Value,
    /// Resident memory in kB.
    pub(crate) rss_kb: u64,
    pub(crate) ended: bool,
}

/// The number in an occurrence's id, which orders the ids of all runs.
pub(crate) fn id(run: u64, nth: u64) -> Ulid {
    Ulid::from_parts(1_795_141_098_123, u128::from(run) << 64 | u128::from(nth))
}

/// The run in an occurrence's id.
pub(crate) fn run_of(id: Ulid) -> u64 {
    (id.random() >> 64) as u64
}

impl Agent {
    pub(crate) fn start(order: &Order, log: &Path) -> Self {
        Self::start_as(role::here(), order, log)
    }

    pub(crate) fn start_as(command: Command, order: &Order, log: &Path) -> Self {
        let mut role = role::start(command, "agent::this_process_is_an_agent", order, log);
        let said = Arc::new(Mutex::new(Said::default()));
        let out = role.child.stdout.take().unwrap();
        let listener = Arc::clone(&said);
        let reader = std::thread::spawn(move || listen(out, &listener));
        Self { role, run: order.run, said, reader: Some(reader) }
    }

    /// The state it printed last.
    pub(crate) fn said(&self) -> Said {
        self.said.lock().unwrap().clone()
    }

    /// Bytes that it caused to be written to disk.
    pub(crate) fn written_bytes(&self) -> u64 {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.role.child.id())).unwrap();
        let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        line.unwrap().parse().unwrap()
    }

    /// Kills it with SIGKILL and returns the ids accepted until then.
    pub(crate) fn kill(self) -> Vec<Ulid> {
        let Self { role, run, said, reader } = self;
        role.kill();
        reader.unwrap().join().unwrap();
        accepted(run, &said.lock().unwrap())
    }

    /// Sends SIGTERM, waits for its exit, and returns the accepted ids and its final state.
    pub(crate) fn stop(mut self) -> (Vec<Ulid>, Said) {
        self.role.signal(Signal::TERM);
        assert!(self.role.child.wait().unwrap().success());
        self.reader.take().unwrap().join().unwrap();
        let said = self.said();
        assert!(said.ended, "{said:?}");
        (accepted(self.run, &said), said)
    }
}

fn accepted(run: u64, said: &Said) -> Vec<Ulid> {
    let kept = (0..).filter(|nth| said.dropped.binary_search(nth).is_err());
    kept.take(said.accepted as usize).map(|nth| id(run, nth)).collect()
}

fn listen(out: ChildStdout, said: &Mutex<Said>) {
    for line in BufReader::new(out).lines() {
        // The test harness's own lines are not JSON, and may precede one of ours.
        let Ok(line) = line else { return };
        let Some(at) = line.find('{') else { continue };
        if let Ok(now) = serde_json::from_str(&line[at..]) {
            *said.lock().unwrap() = now;
        }
    }
}

#[test]
fn this_process_is_an_agent() {
    let Some(order) = role::order::<Order>() else { return };
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(order));
}

async fn run(order: Order) {
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let timings = Timings {
        connect: Duration::from_secs(1),
        ack: Duration::from_secs(2),
        keep_alive: Duration::from_secs(2),
        age: Duration::from_millis(20),
        ..Timings::default()
    };
    let mut settings = Settings::default();
    settings.assign("endpoint", &order.gateway.to_string()).unwrap();
    let mut sinks =
        Sinks::new(Arc::new(Metrics::default()), 8192).spooling(&order.state_dir, order.cap_bytes);
    sinks.add(Polku::new(&settings, None, timings).unwrap().unwrap());
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    let mut said = Said::default();
    let mut nth = 0;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = tick.tick() => {}
        }
        for _ in 0..order.rate / 50 {
            let before = dropped(&sinks);
            sinks.send(Arc::new(occurrence(order.run, nth)));
            if dropped(&sinks) > before {
                said.dropped.push(nth);
            }
            nth += 1;
        }
        say(&sinks, &mut said, nth);
    }
    let counts = sinks.clone();
    let left = sinks.drain(Duration::from_secs(10)).await;
    // The newest remain undelivered.
    let kept = (0..nth).rev().filter(|nth| said.dropped.binary_search(nth).is_err());
    let newest: Vec<_> = kept.take(left as usize).collect();
    said.dropped.extend(newest);
    said.dropped.sort_unstable();
    said.ended = true;
    say(&counts, &mut said, nth);
}

/// Occurrences dropped at once because the queue was full.
fn dropped(sinks: &Sinks) -> u64 {
    sinks.status()[0].ledger.dropped.get("queue_full").copied().unwrap_or_default()
}

/// Prints whole lines, without buffering.
fn say(sinks: &Sinks, said: &mut Said, given: u64) {
    let status = sinks.status().remove(0);
    assert!(status.ledger.balanced(), "{status:?}");
    // The newest are only in memory.
    said.accepted = given - said.dropped.len() as u64 - status.ledger.queued;
    said.status = serde_json::to_value(status).unwrap();
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let rss = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    said.rss_kb = rss.trim().trim_end_matches(" kB").parse().unwrap();
    let line = serde_json::to_string(said).unwrap() + "\n";
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

pub(crate) fn occurrence(run: u64, nth: u64) -> Occurrence {
    Occurrence {
        id: id(run, nth),
        time_unix_ns: 1_795_141_098_123_456_789,
        source: SOURCE.into(),
        kind: "network.connection_refused".into(),
        severity: Severity::Error,
        outcome: Outcome::Failure,
        message: format!(
            "checkout-7d9f: connection {nth} to redis.default:6379 was refused, and what else there is to say"
        ),
        cluster: Some("prod".into()),
        node: "node-a".into(),
        workload: None,
        process: Some(Process { pid: 4242, comm: "checkout".to_owned() }),
        actor: None,
        peer: None,
        data: Data::from([("direction", "outbound".into()), ("elapsed_us", nth.into())]),
        baseline: None,
        count: 1,
    }
}
