//! The throughput of a sink's spool, compared with redb alone with the same records, commits and file system.
//! The directory is in `TMPDIR`: if that is in memory, the result says little about a disk.

#[path = "support/sinks.rs"]
#[allow(dead_code, reason = "each benchmark uses a part")]
mod support;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use redb::{Builder, Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use tapio_delivery::{Batching, Destination, Failure, QUEUE_CAPACITY, Receipt};
use tapio_occurrence::Occurrence;

const ROUNDS: usize = 3;
const COUNT: usize = 32 * COMMIT;
/// Records per commit and per delivery, like in the spool and the POLKU sink.
const COMMIT: usize = 1024;
/// Room for all of them.
const CAP_BYTES: u64 = 256 << 20;
/// The spool's cache size.
const CACHE_BYTES: usize = 2 << 20;
/// See docs/decisions/0013-spool.md.
const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("occurrences");

/// Time to write everything, and to read and remove everything.
#[derive(Clone, Copy)]
struct Times {
    write: Duration,
    drain: Duration,
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let pool = support::queueful();
    let [mut spool, mut redb] = [(); 2].map(|()| Vec::new());
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        let state = tempfile::tempdir()?;
        let write = runtime.block_on(write(state.path(), &pool))?;
        let records = records(&state.path().join("spool/bench.redb"))?;
        anyhow::ensure!(records.len() == COUNT, "{} of {COUNT} are on disk", records.len());
        bytes = records.iter().map(Vec::len).sum();
        let drain = runtime.block_on(drain(state.path()))?;
        spool.push(Times { write, drain });
        redb.push(alone(&state.path().join("alone.redb"), &records)?);
    }
    println!("spool_record_bytes {} bytes", bytes / COUNT);
    for (name, of) in
        [("write", (|times| times.write) as fn(&Times) -> Duration), ("drain", |times| times.drain)]
    {
        let [own, alone] = [&spool, &redb].map(|all| all.iter().map(of).min().unwrap_or_default());
        println!("spool_{name} {:.0} occurrences/s", COUNT as f64 / own.as_secs_f64());
        println!("spool_{name}_bytes {:.2} MB/s", bytes as f64 / 1e6 / own.as_secs_f64());
        println!("redb_{name}_bytes {:.2} MB/s", bytes as f64 / 1e6 / alone.as_secs_f64());
        println!("spool_{name}_ratio {:.2} x", own.div_duration_f64(alone));
    }
    Ok(())
}

/// From opening the file until everything is on disk and the file is closed, as measured for redb alone.
async fn write(state: &Path, pool: &[Arc<Occurrence>]) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let mut sinks = support::sinks().spooling(state, CAP_BYTES);
    sinks.add(Away);
    support::give(&sinks, pool, COUNT, QUEUE_CAPACITY, |ledger| ledger.queued).await?;
    let lost = sinks.drain(Duration::from_secs(60)).await;
    anyhow::ensure!(lost == 0, "{lost} were not written");
    Ok(start.elapsed())
}

/// From opening the file until it is empty and closed.
async fn drain(state: &Path) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let mut sinks = support::sinks().spooling(state, CAP_BYTES);
    sinks.add(Back);
    support::until(&sinks, |ledger| ledger.sent == COUNT as u64).await?;
    let lost = sinks.drain(Duration::from_secs(60)).await;
    anyhow::ensure!(lost == 0, "{lost} were lost");
    Ok(start.elapsed())
}

/// A destination that cannot be reached.
struct Away;

impl Destination for Away {
    const NAME: &'static str = "bench";

    fn batching(&self) -> Batching {
        Batching { count: COMMIT, age: Duration::ZERO }
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        Err(Failure::Retry("away".to_owned()))
    }

    async fn deliver(&mut self, _: &[Arc<Occurrence>]) -> Result<Receipt, Failure> {
        Err(Failure::Retry("away".to_owned()))
    }
}

/// The same destination once it accepts everything.
struct Back;

impl Destination for Back {
    const NAME: &'static str = Away::NAME;

    fn batching(&self) -> Batching {
        Away.batching()
    }

    async fn deliver(&mut self, batch: &[Arc<Occurrence>]) -> Result<Receipt, Failure> {
        Ok(Receipt::taken(batch.len()))
    }
}

/// The records that the spool has written, in order.
fn records(file: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let database = Database::open(file)?;
    let table = database.begin_read()?.open_table(RECORDS)?;
    table.iter()?.map(|entry| Ok(entry?.1.value().to_vec())).collect()
}

/// The same with redb alone.
fn alone(file: &Path, records: &[Vec<u8>]) -> anyhow::Result<Times> {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    let start = Instant::now();
    let database = builder.create(file)?;
    let mut keys = 0..;
    for commit in records.chunks(COMMIT) {
        let change = database.begin_write()?;
        let mut table = change.open_table(RECORDS)?;
        for (key, record) in keys.by_ref().zip(commit) {
            table.insert(key, record.as_slice())?;
        }
        drop(table);
        change.commit()?;
    }
    drop(database);
    let write = start.elapsed();

    let start = Instant::now();
    let mut database = builder.create(file)?;
    loop {
        let table = database.begin_read()?.open_table(RECORDS)?;
        let mut keys = Vec::new();
        for entry in table.iter()?.take(COMMIT) {
            let (key, record) = entry?;
            std::hint::black_box(record.value().to_vec());
            keys.push(key.value());
        }
        drop(table);
        if keys.is_empty() {
            break;
        }
        let change = database.begin_write()?;
        let mut table = change.open_table(RECORDS)?;
        for key in keys {
            table.remove(key)?;
        }
        drop(table);
        change.commit()?;
    }
    database.compact()?;
    drop(database);
    Ok(Times { write, drain: start.elapsed() })
}
