//! A receiver in a separate process, so that its CPU time is not the agent's: a POLKU gateway and a gRPC
//! receiver for OTLP. Both accept everything and record its age on arrival.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
    logs_service_server::{LogsService, LogsServiceServer},
};
use tapio_delivery::polku::proto::v1::{
    Ack, HealthRequest, HealthResponse, IngestBatch, IngestEvent,
    gateway_server::{Gateway, GatewayServer},
    ingest_batch::Payload,
};
use tokio_stream::{Stream, StreamExt as _, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Argument that makes this program a receiver.
const ROLE: &str = "receiver";

/// The process of a receiver, killed on drop.
pub(crate) struct Receiver {
    child: Child,
    answers: BufReader<ChildStdout>,
    /// The address it listens on, for both protocols.
    pub(crate) address: SocketAddr,
}

/// The number of occurrences received and their age.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) count: u64,
    /// Median age in milliseconds.
    pub(crate) p50_ms: f64,
    /// 99th percentile of the age in milliseconds.
    pub(crate) p99_ms: f64,
}

/// Runs in the process that [`Receiver::start`] started. Contains the ages on arrival, in nanoseconds.
#[derive(Clone, Default)]
struct Shared {
    ages_ns: Arc<Mutex<Vec<u64>>>,
    /// Delay before each batch is acknowledged.
    late: Duration,
}

impl Receiver {
    /// Starts a receiver that acknowledges with this delay.
    pub(crate) fn start(late: Duration) -> anyhow::Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args([ROLE, &late.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut answers = BufReader::new(child.stdout.take().context("no pipe")?);
        let mut line = String::new();
        answers.read_line(&mut line)?;
        let address = line.trim().parse().context("the receiver did not start")?;
        Ok(Self { child, answers, address })
    }

    /// Everything received since the previous call.
    pub(crate) fn taken(&mut self) -> anyhow::Result<Taken> {
        writeln!(self.child.stdin.as_mut().context("no pipe")?)?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let numbers: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [count, p50_ns, p99_ns] = numbers[..] else { anyhow::bail!("the receiver said {line:?}") };
        Ok(Taken { count, p50_ms: p50_ns as f64 / 1e6, p99_ms: p99_ns as f64 / 1e6 })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Runs a receiver if [`Receiver::start`] started this process, and then returns true.
pub(crate) fn was_receiver() -> anyhow::Result<bool> {
    let mut arguments = env::args().skip_while(|argument| argument != ROLE).skip(1);
    let Some(late_ms) = arguments.next() else { return Ok(false) };
    let shared = Shared { late: Duration::from_millis(late_ms.parse()?), ..Shared::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{}", listener.local_addr()?);
        let ages = Arc::clone(&shared.ages_ns);
        let (asker, asked) = tokio::sync::oneshot::channel();
        thread::spawn(move || asker.send(answer(&ages)));
        let incoming = TcpListenerStream::new(listener).map(|stream| {
            let stream = stream?;
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(stream)
        });
        let server = tonic::transport::Server::builder()
            .add_service(GatewayServer::new(shared.clone()))
            .add_service(LogsServiceServer::new(shared))
            .serve_with_incoming(incoming);
        tokio::select! {
            served = server => served?,
            answered = asked => answered??,
        }
        Ok(true)
    })
}

/// Answers each line of standard input with one line, until it ends.
fn answer(ages_ns: &Mutex<Vec<u64>>) -> anyhow::Result<()> {
    for line in std::io::stdin().lines() {
        line?;
        let mut ages = std::mem::take(&mut *ages_ns.lock().unwrap_or_else(PoisonError::into_inner));
        ages.sort_unstable();
        let at = |percent: usize| ages.get(ages.len() * percent / 100).copied().unwrap_or_default();
        println!("{} {} {}", ages.len(), at(50), at(99));
    }
    Ok(())
}

impl Shared {
    fn took(&self, times_unix_ns: impl Iterator<Item = u64>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let mut ages = self.ages_ns.lock().unwrap_or_else(PoisonError::into_inner);
        ages.extend(times_unix_ns.map(|then| now.saturating_sub(then)));
    }

    async fn acknowledge(self, batch: Result<IngestBatch, Status>) -> Result<Ack, Status> {
        let Some(Payload::Events(payload)) = batch?.payload else {
            return Err(Status::unimplemented("pass-through only"));
        };
        self.took(payload.events.iter().map(|event| event.timestamp_unix_ns.unsigned_abs()));
        if !self.late.is_zero() {
            tokio::time::sleep(self.late).await;
        }
        let event_ids = payload.events.into_iter().map(|event| event.id).collect();
        Ok(Ack { event_ids, ..Ack::default() })
    }
}

#[tonic::async_trait]
impl Gateway for Shared {
    type StreamEventsStream = Pin<Box<dyn Stream<Item = Result<Ack, Status>> + Send>>;

    async fn stream_events(
        &self,
        request: Request<Streaming<IngestBatch>>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let shared = self.clone();
        let acks = request.into_inner().then(move |batch| shared.clone().acknowledge(batch));
        Ok(Response::new(Box::pin(acks)))
    }

    async fn send_event(&self, _: Request<IngestEvent>) -> Result<Response<Ack>, Status> {
        Err(Status::unimplemented("the agent streams"))
    }

    async fn health(&self, _: Request<HealthRequest>) -> Result<Response<HealthResponse>, Status> {
        Ok(Response::new(HealthResponse { healthy: true, ..HealthResponse::default() }))
    }
}

#[tonic::async_trait]
impl LogsService for Shared {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let logs = request.into_inner().resource_logs;
        let scopes = logs.iter().flat_map(|logs| &logs.scope_logs);
        self.took(scopes.flat_map(|scope| &scope.log_records).map(|record| record.time_unix_nano));
        if !self.late.is_zero() {
            tokio::time::sleep(self.late).await;
        }
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}
