//! The spool next to a destination that can be switched off, in this process.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prometheus_client::registry::Registry;
use tapio_delivery::{Batching, Destination, Failure, Metrics, Receipt, Sinks, Status};
use tapio_occurrence::Occurrence;
use tapio_service::metrics::render;
use tempfile::tempdir;
use ulid::Ulid;

use crate::agent::{id, occurrence};

const CAP_BYTES: u64 = 8 << 20;

/// Accepts everything while it is open.
#[derive(Clone, Default)]
struct Tap {
    open: Arc<AtomicBool>,
    taken: Arc<Mutex<Vec<Ulid>>>,
}

impl Destination for Tap {
    const NAME: &'static str = "tap";

    fn batching(&self) -> Batching {
        Batching { count: 256, age: Duration::ZERO }
    }

    async fn deliver(&mut self, batch: &[Arc<Occurrence>]) -> Result<Receipt, Failure> {
        if !self.open.load(Ordering::Relaxed) {
            return Err(Failure::Retry("closed".to_owned()));
        }
        self.taken.lock().unwrap().extend(batch.iter().map(|occurrence| occurrence.id));
        Ok(Receipt::taken(batch.len()))
    }
}

struct Agent {
    sinks: Sinks,
    tap: Tap,
    registry: Registry,
}

impl Agent {
    fn start(state_dir: &Path, open: bool) -> Self {
        let (tap, (registry, metrics)) = (Tap::default(), Metrics::alone());
        tap.open.store(open, Ordering::Relaxed);
        let mut sinks = Sinks::new(metrics, 8192).spooling(state_dir, CAP_BYTES);
        sinks.add(tap.clone());
        let agent = Self { sinks, tap, registry };
        while agent.state() == "opening" {
            std::thread::sleep(Duration::from_millis(1));
        }
        agent
    }

    fn status(&self) -> Status {
        let status = self.sinks.status().remove(0);
        assert!(status.ledger.balanced(), "{status:?}");
        status
    }

    fn state(&self) -> String {
        self.status().spool.unwrap().state
    }

    fn give(&self, numbers: std::ops::Range<u64>) {
        numbers.for_each(|nth| self.sinks.send(Arc::new(occurrence(1, nth))));
    }

    async fn until(&self, enough: impl Fn(&Status) -> bool) -> Status {
        let end = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let status = self.status();
            if enough(&status) {
                return status;
            }
            assert!(tokio::time::Instant::now() < end, "still {status:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) -> (Status, Vec<Ulid>) {
        let counts = self.sinks.clone();
        self.sinks.drain(Duration::from_secs(10)).await;
        let status = counts.status().remove(0);
        assert!(status.ledger.balanced(), "{status:?}");
        let taken = self.tap.taken.lock().unwrap().clone();
        (status, taken)
    }
}

fn ids(numbers: std::ops::Range<u64>) -> Vec<Ulid> {
    numbers.map(|nth| id(1, nth)).collect()
}

fn file(state_dir: &Path) -> std::path::PathBuf {
    state_dir.join("spool/tap.redb")
}

fn quarantined(state_dir: &Path) -> usize {
    let names = fs::read_dir(state_dir.join("spool")).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with("tap.redb.damaged-")).count()
}

/// Leaves this many occurrences in the spool of an agent that was stopped while its destination was
/// unreachable.
async fn left(state_dir: &Path, count: u64) {
    let agent = Agent::start(state_dir, false);
    agent.give(0..count);
    let (status, _) = agent.stop().await;
    assert_eq!(status.ledger.spooled, count, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_at_once_is_not_written() {
    let directory = tempdir().unwrap();
    let agent = Agent::start(directory.path(), true);
    let before = fs::read(file(directory.path())).unwrap();
    for n in 0..100 {
        agent.give(n * 10..(n + 1) * 10);
        agent.until(|status| status.ledger.waiting() == 0).await;
    }
    assert_eq!(agent.status().ledger.sent, 1000);
    assert!(fs::read(file(directory.path())).unwrap() == before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_written_and_delivered_in_order_before_what_is_new() {
    let directory = tempdir().unwrap();
    let agent = Agent::start(directory.path(), false);
    agent.give(0..3000);
    let status = agent.until(|status| status.ledger.spooled == 3000).await;
    assert_eq!(status.spool.unwrap().records, 3000);
    agent.tap.open.store(true, Ordering::Relaxed);
    agent.give(3000..3100);
    let status = agent
        .until(|status| status.ledger.waiting() == 0 && status.spool.as_ref().unwrap().records == 0)
        .await;
    assert_eq!((status.ledger.received, status.ledger.sent), (3100, 3100));
    assert_eq!(*agent.tap.taken.lock().unwrap(), ids(0..3100));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_run_delivers_what_was_left_first() {
    let directory = tempdir().unwrap();
    left(directory.path(), 500).await;
    let agent = Agent::start(directory.path(), true);
    agent.give(500..600);
    let status = agent.until(|status| status.ledger.waiting() == 0).await;
    assert_eq!((status.ledger.recovered, status.ledger.received, status.ledger.sent), (500, 100, 600));
    let (_, taken) = agent.stop().await;
    assert_eq!(taken, ids(0..600));
    let again = Agent::start(directory.path(), true);
    assert_eq!(again.status().ledger.recovered, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_cap_the_oldest_go_and_are_counted() {
    let directory = tempdir().unwrap();
    let agent = Agent::start(directory.path(), false);
    let count = 96_000;
    let mut most = 0;
    for n in 0..count / 6000 {
        agent.give(n * 6000..(n + 1) * 6000);
        agent.until(|status| status.ledger.queued == 0).await;
        most = most.max(fs::metadata(file(directory.path())).unwrap().blocks() * 512);
    }
    let ledger = agent.status().ledger;
    assert!(ledger.dropped["spool_full"] > 10_000, "{ledger:?}");
    assert!(most <= CAP_BYTES, "{most} bytes on disk");
    agent.tap.open.store(true, Ordering::Relaxed);
    agent.until(|status| status.ledger.waiting() == 0).await;
    let (status, taken) = agent.stop().await;
    assert_eq!(status.ledger.sent + status.ledger.dropped["spool_full"], count);
    assert!(taken.is_sorted());
    // All but the first few, which were in flight, are the newest.
    let newest = count - taken.len() as u64 + 256;
    assert!(taken.ends_with(&ids(newest..count)), "{:?}", status.ledger);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_spool_is_quarantined_and_a_new_one_begun() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("begins with something else", |bytes| bytes[..64].fill(b'x')),
        ("cut short", |bytes| bytes.truncate(bytes.len() / 3)),
        ("altered in the middle", |bytes| {
            for page in bytes.chunks_mut(4096).skip(1) {
                page[100] ^= 0x40;
            }
        }),
        ("another file", |bytes| *bytes = b"not a spool at all".to_vec()),
    ];
    for (what, damage) in damages {
        let directory = tempdir().unwrap();
        left(directory.path(), 500).await;
        let mut bytes = fs::read(file(directory.path())).unwrap();
        damage(&mut bytes);
        fs::write(file(directory.path()), bytes).unwrap();

        let agent = Agent::start(directory.path(), false);
        assert_eq!(quarantined(directory.path()), 1, "{what}");
        let text = render(&agent.registry).unwrap();
        assert!(text.contains(r#"tapio_spool_quarantined_total{sink="tap"} 1"#), "{what}: {text}");
        agent.give(0..100);
        agent.until(|status| status.ledger.spooled == 100).await;
        agent.tap.open.store(true, Ordering::Relaxed);
        agent.until(|status| status.ledger.waiting() == 0).await;
        let (_, taken) = agent.stop().await;
        assert_eq!(taken, ids(0..100), "{what}: nothing is reported that was not written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_place_for_it_all_waits_in_memory_and_that_is_said() {
    let directory = tempdir().unwrap();
    let not_a_directory = directory.path().join("state");
    fs::write(&not_a_directory, "").unwrap();
    let nowhere = [not_a_directory.as_path(), Path::new("/proc/tapio")];
    for state_dir in nowhere {
        let agent = Agent::start(state_dir, false);
        assert!(agent.state().starts_with("memory only("), "{}", agent.state());
        agent.give(0..9000);
        let ledger = agent.status().ledger;
        assert_eq!((ledger.queued, ledger.dropped["queue_full"]), (8192, 808));
        agent.tap.open.store(true, Ordering::Relaxed);
        agent.until(|status| status.ledger.waiting() == 0).await;
        let (_, taken) = agent.stop().await;
        assert_eq!(taken, ids(0..8192));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_agents_on_one_directory_the_second_has_memory_alone_until_the_first_ends() {
    let directory = tempdir().unwrap();
    let first = Agent::start(directory.path(), false);
    let second = Agent::start(directory.path(), false);
    assert_eq!(second.state(), "memory only(another agent has it open)");
    first.give(0..100);
    first.until(|status| status.ledger.spooled == 100).await;
    first.stop().await;
    second.give(100..200);
    let status = second.until(|status| status.ledger.spooled == 200).await;
    assert_eq!((status.ledger.recovered, status.spool.unwrap().state.as_str()), (100, "ok"));
    second.tap.open.store(true, Ordering::Relaxed);
    second.until(|status| status.ledger.waiting() == 0).await;
    let (_, mut taken) = second.stop().await;
    taken.sort();
    assert_eq!(taken, ids(0..200));
}
