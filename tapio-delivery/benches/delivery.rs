//! The cost of delivery: CPU per occurrence from a sink's queue to its acknowledgement, by POLKU and by OTLP
//! over gRPC. The baseline creates and encodes the same messages and sends them, already encoded, over a gRPC
//! stream.

#[path = "support/receiver.rs"]
#[allow(dead_code, reason = "each benchmark uses a part")]
mod receiver;
#[path = "support/sinks.rs"]
#[allow(dead_code, reason = "each benchmark uses a part")]
mod support;

use std::{hint::black_box, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use hyper::body::Bytes;
use prost::{Message as _, bytes::BufMut as _};
use receiver::Receiver;
use tapio_delivery::{
    Destination, Ledger, QUEUE_CAPACITY,
    otlp::{self, Otlp},
    polku::{
        BATCH_EVENTS, WINDOW,
        proto::v1::{Ack, EventPayload, IngestBatch, ingest_batch::Payload},
    },
};
use tapio_occurrence::{Occurrence, SOURCE, event::event};
use tapio_service::setting::Node as _;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status,
    client::Grpc,
    codec::{Codec, EncodeBuf, Encoder},
    transport::Endpoint,
};
use tonic_prost::ProstCodec;

const ROUNDS: usize = 5;
const COUNT: usize = 200 * BATCH_EVENTS * WINDOW;
/// The spool begins to write at half of the queue.
const WAITING: usize = QUEUE_CAPACITY / 2 - 1;
/// The agent's default spool size. The benchmark should use none of it.
const SPOOL_BYTES: u64 = 64 << 20;

/// The cost of one round.
#[derive(Clone, Copy)]
struct Cost {
    cpu: Duration,
    wall: Duration,
}

fn main() -> anyhow::Result<()> {
    if receiver::was_receiver()? {
        return Ok(());
    }
    // The agent's number of threads.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let pool = support::queueful();
    let mut receiver = Receiver::start(Duration::ZERO)?;
    let [mut polku, mut otlp, mut made, mut sent] = [(); 4].map(|()| Vec::new());
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        polku.push(runtime.block_on(deliver(support::polku(receiver.address)?, &pool))?);
        ensure_all(&mut receiver)?;
        otlp.push(runtime.block_on(deliver(by_otlp(receiver.address)?, &pool))?);
        ensure_all(&mut receiver)?;
        let (cost, batches) = encode(&pool);
        made.push(cost);
        bytes = batches.iter().map(Bytes::len).sum::<usize>() / pool.len();
        sent.push(runtime.block_on(stream(receiver.address, &batches))?);
        ensure_all(&mut receiver)?;
    }
    let bare = best(&made, |cost| cost.cpu) + best(&sent, |cost| cost.cpu);
    println!("delivery_bytes {bytes} bytes/occurrence");
    for (name, costs) in [("polku", &polku), ("otlp_grpc", &otlp)] {
        println!("delivery_{name}_per_core {:.0} occurrences/s", rate(best(costs, |cost| cost.cpu)));
        println!("delivery_{name} {:.0} occurrences/s", rate(best(costs, |cost| cost.wall)));
    }
    println!("delivery_encode_per_core {:.0} occurrences/s", rate(best(&made, |cost| cost.cpu)));
    println!("delivery_bare_stream_per_core {:.0} occurrences/s", rate(best(&sent, |cost| cost.cpu)));
    println!("delivery_bare_stream {:.0} occurrences/s", rate(best(&sent, |cost| cost.wall)));
    println!("delivery_polku_ratio {:.2} x", best(&polku, |cost| cost.cpu).div_duration_f64(bare));
    Ok(())
}

fn rate(time: Duration) -> f64 {
    COUNT as f64 / time.as_secs_f64()
}

fn best(costs: &[Cost], of: impl Fn(&Cost) -> Duration) -> Duration {
    costs.iter().map(of).min().unwrap_or_default()
}

/// Fails if any measured occurrence was sent twice, or not at all.
fn ensure_all(receiver: &mut Receiver) -> anyhow::Result<()> {
    let came = receiver.taken()?.count;
    anyhow::ensure!(came == COUNT as u64, "{came} of {COUNT} came");
    Ok(())
}

fn by_otlp(address: SocketAddr) -> anyhow::Result<Otlp> {
    let mut settings = otlp::Settings::default();
    settings.assign("endpoint", &format!("http://{address}"))?;
    settings.assign("protocol", "grpc")?;
    Otlp::new(&settings, true).map_err(|trouble| anyhow::anyhow!("{trouble}"))?.context("no endpoint")
}

/// Delivers through a sink: its queue, its task and its destination, with a spool.
async fn deliver(destination: impl Destination, pool: &[Arc<Occurrence>]) -> anyhow::Result<Cost> {
    let state = tempfile::tempdir()?;
    let mut sinks = support::sinks().spooling(state.path(), SPOOL_BYTES);
    sinks.add(destination);
    let (cpu, start) = (support::cpu(), Instant::now());
    support::give(&sinks, pool, COUNT, WAITING, Ledger::waiting).await?;
    support::until(&sinks, |ledger| ledger.waiting() == 0).await?;
    let cost = Cost { cpu: support::cpu() - cpu, wall: start.elapsed() };
    let left = sinks.drain(Duration::from_secs(5)).await;
    anyhow::ensure!(left == 0, "{left} are left");
    Ok(cost)
}

/// Creates and encodes all messages on this thread, and retains enough batches to contain each occurrence
/// once.
fn encode(pool: &[Arc<Occurrence>]) -> (Cost, Vec<Bytes>) {
    let (cpu, start) = (support::cpu(), Instant::now());
    let mut batches = Vec::new();
    for nth in 0..COUNT / BATCH_EVENTS {
        let from = nth * BATCH_EVENTS % pool.len();
        let events = pool[from..from + BATCH_EVENTS].iter().map(|one| event(one)).collect();
        let payload = Some(Payload::Events(EventPayload { events }));
        let batch = IngestBatch { source: SOURCE.to_owned(), cluster: "prod".to_owned(), payload };
        let encoded = black_box(batch.encode_to_vec());
        if batches.len() * BATCH_EVENTS < pool.len() {
            batches.push(encoded.into());
        }
    }
    (Cost { cpu: support::cpu() - cpu, wall: start.elapsed() }, batches)
}

/// Sends encoded messages, with the sink's number of batches in flight.
async fn stream(address: SocketAddr, batches: &[Bytes]) -> anyhow::Result<Cost> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
    let mut client = Grpc::new(channel);
    client.ready().await?;
    let (cpu, start) = (support::cpu(), Instant::now());
    let (send, outgoing) = mpsc::channel(WINDOW);
    let path = "/polku.v1.Gateway/StreamEvents".parse()?;
    let mut all = batches.iter().cycle().take(COUNT / BATCH_EVENTS).cloned();
    for batch in all.by_ref().take(WINDOW) {
        send.send(batch).await?;
    }
    let request = tonic::Request::new(ReceiverStream::new(outgoing));
    let mut acks = client.streaming(request, path, Encoded).await?.into_inner();
    for batch in all {
        acks.message().await?.context("the stream ended")?;
        send.send(batch).await?;
    }
    drop(send);
    while acks.message().await?.is_some() {}
    Ok(Cost { cpu: support::cpu() - cpu, wall: start.elapsed() })
}

/// A codec for messages that are already encoded.
#[derive(Clone, Copy)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = Ack;
    type Encoder = Self;
    type Decoder = <ProstCodec<Ack, Ack> as Codec>::Decoder;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<Ack, Ack>::default().decoder()
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}
