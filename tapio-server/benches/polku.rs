//! Facts a second through the gateway and the journal, compared with redb alone with the same bytes, commits of the same
//! size and the same file system. The server is a process of its own, so that its CPU time is not the clients'. The
//! directory is in `TMPDIR`: if that is in memory, the result says little about a disk.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use prost::Message as _;
use redb::{Builder, TableDefinition};
use tapio_delivery::polku::{
    BATCH_EVENTS, WINDOW,
    proto::v1::{EventPayload, IngestBatch, gateway_client::GatewayClient, ingest_batch::Payload},
};
use tapio_occurrence::{
    Occurrence,
    event::{event, v1::Event},
    samples,
};
use tapio_service::clock;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use ulid::Ulid;

const ROUNDS: usize = 3;
const STREAMS: usize = 8;
/// Batches of each stream.
const BATCHES: usize = 16;
const COUNT: usize = STREAMS * BATCHES * BATCH_EVENTS;
/// The journal's page cache.
const CACHE_BYTES: usize = 32 << 20;
const FACTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("facts");

/// Time and CPU time for all facts.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let events = events();
    let bytes: usize = events.iter().map(Event::encoded_len).sum();
    let (mut server, mut redb, mut commits) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        let directory = tempfile::tempdir()?;
        let (cost, transactions) = runtime.block_on(through_the_server(directory.path(), &events))?;
        server.push(cost);
        commits = transactions;
        redb.push(alone(&directory.path().join("alone.redb"), &events, COUNT.div_ceil(transactions))?);
    }
    let least = |costs: &[Cost], of: fn(&Cost) -> Duration| costs.iter().map(of).min().unwrap_or_default();
    let per_second = |time: Duration| COUNT as f64 / time.as_secs_f64();
    let [wall, alone_wall] = [&server, &redb].map(|costs| least(costs, |cost| cost.wall));
    let [cpu, alone_cpu] = [&server, &redb].map(|costs| least(costs, |cost| cost.cpu));
    println!("polku_fact_bytes {} bytes", bytes / COUNT);
    println!("polku_commit_facts {} facts", COUNT / commits);
    println!("polku_facts {:.0} facts/s", per_second(wall));
    println!("polku_facts_per_core {:.0} facts/s", per_second(cpu));
    println!("redb_facts_per_core {:.0} facts/s", per_second(alone_cpu));
    println!("polku_ratio {:.2} x", wall.div_duration_f64(alone_wall));
    println!("polku_cpu_ratio {:.2} x", cpu.div_duration_f64(alone_cpu));
    Ok(())
}

/// Spikes of a pod with a named peer, each with an id of its own.
fn events() -> Vec<Event> {
    (0..COUNT).map(|_| event(&Occurrence { id: Ulid::generate(), ..samples::occurrence() })).collect()
}

/// A server, killed on drop.
struct Server {
    child: Child,
    admin: SocketAddr,
}

impl Server {
    fn start(directory: &Path) -> anyhow::Result<(Self, SocketAddr)> {
        let free = || std::net::TcpListener::bind("127.0.0.1:0")?.local_addr();
        let (address, admin) = (free()?, free()?);
        let child = Command::new(env!("CARGO_BIN_EXE_tapio-server"))
            .arg(format!("--state-dir={}", directory.join("state").display()))
            .arg(format!("--polku-listen={address}"))
            .arg(format!("--listen={admin}"))
            .arg("--roles=polku")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut server = Self { child, admin };
        let log = BufReader::new(server.child.stderr.take().context("no pipe")?);
        let mut lines = log.lines();
        let is_ready = lines.by_ref().map_while(Result::ok).any(|line| line.ends_with(" ready"));
        anyhow::ensure!(is_ready, "the server did not start");
        // So that it never waits for a reader of its log.
        std::thread::spawn(move || lines.for_each(drop));
        Ok((server, address))
    }

    /// A number in its metrics.
    fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let mut stream = TcpStream::connect(self.admin)?;
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let number = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(number.with_context(|| format!("no {name}"))?.parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// From the first batch to the last Ack, and the number of transactions.
async fn through_the_server(directory: &Path, events: &[Event]) -> anyhow::Result<(Cost, usize)> {
    let (server, address) = Server::start(directory)?;
    let mut streams = JoinSet::new();
    let cpu = server.metric("tapio_process_cpu_seconds_total")?;
    let start = Instant::now();
    for part in events.chunks(COUNT / STREAMS) {
        let batches: Vec<_> = part.chunks(BATCH_EVENTS).map(batch).collect();
        streams.spawn(stream(address, batches));
    }
    while let Some(done) = streams.join_next().await {
        done??;
    }
    let wall = start.elapsed();
    let cpu = server.metric("tapio_process_cpu_seconds_total")? - cpu;
    let accepted = server.metric("tapio_facts_accepted_total{origin=\"polku\"}")?;
    anyhow::ensure!(accepted == COUNT as f64, "{accepted} of {COUNT} were accepted");
    let commits = server.metric("tapio_journal_commits_total")?;
    Ok((Cost { wall, cpu: Duration::from_secs_f64(cpu) }, commits as usize))
}

fn batch(events: &[Event]) -> IngestBatch {
    let payload = Some(Payload::Events(EventPayload { events: events.to_vec() }));
    IngestBatch { source: "tapio".to_owned(), payload, ..IngestBatch::default() }
}

/// Like an agent's sink: a few batches are on the way at once.
async fn stream(address: SocketAddr, batches: Vec<IngestBatch>) -> anyhow::Result<()> {
    let mut client = GatewayClient::connect(format!("http://{address}")).await?;
    let (sender, outgoing) = mpsc::channel(1);
    let mut acks = client.stream_events(ReceiverStream::new(outgoing)).await?.into_inner();
    let (mut waiting, mut batches) = (0, batches.into_iter());
    loop {
        while waiting < WINDOW
            && let Some(batch) = batches.next()
        {
            sender.send(batch).await?;
            waiting += 1;
        }
        if waiting == 0 {
            return Ok(());
        }
        let ack = acks.message().await?.context("the stream ended")?;
        anyhow::ensure!(ack.errors.is_empty(), "{:?}", ack.errors);
        waiting -= 1;
    }
}

/// The same bytes with redb alone.
fn alone(file: &Path, events: &[Event], commit: usize) -> anyhow::Result<Cost> {
    let facts: Vec<_> = events.iter().map(Event::encode_to_vec).collect();
    let (cpu, start) = (clock::process_cpu(), Instant::now());
    let database = Builder::new().set_cache_size(CACHE_BYTES).create(file)?;
    let mut keys = 0..;
    for part in facts.chunks(commit) {
        let mut change = database.begin_write()?;
        change.set_quick_repair(true);
        let mut table = change.open_table(FACTS)?;
        for (key, fact) in keys.by_ref().zip(part) {
            table.insert(key, fact.as_slice())?;
        }
        drop(table);
        change.commit()?;
    }
    Ok(Cost { wall: start.elapsed(), cpu: clock::process_cpu().saturating_sub(cpu) })
}
