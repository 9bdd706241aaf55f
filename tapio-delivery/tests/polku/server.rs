//! A gateway that misbehaves on demand, built on the same protocol.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    future::ready,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    service::{Service, service_fn},
};
use prost::Message as _;
use rustls::ServerConfig;
use tapio_delivery::polku::proto::v1::{
    Ack, AckError, HealthRequest, HealthResponse, IngestBatch, IngestEvent,
    gateway_server::{Gateway, GatewayServer},
    ingest_batch::Payload,
};
use tapio_occurrence::event::v1::Event;
use tokio::{runtime::Runtime, sync::mpsc};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Code, Status, Streaming, body::Body};
use tower::Service as _;
use ulid::Ulid;

use crate::serve::{Shown, Version, serve};

/// Its misbehaviour. The default has none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manners {
    /// Ends this many streams, each when its second batch has arrived and before acknowledging it.
    pub(crate) drops_streams: usize,
    /// Ends this many streams with a status instead of an Ack for the first batch.
    pub(crate) ends_with: Option<(usize, Code)>,
    /// Delay of each Ack.
    pub(crate) late: Duration,
    /// Never acknowledges on this many streams.
    pub(crate) mute_streams: usize,
    /// Omits every second event from its Ack when the event first arrives.
    pub(crate) forgets: bool,
    /// Never mentions this event.
    pub(crate) ignores: Option<String>,
    /// Refuses this event.
    pub(crate) refuses: Option<String>,
    /// Ends the stream for a batch that contains one of these.
    pub(crate) invalid: BTreeSet<String>,
    /// Ends the stream with this status for a message of more bytes.
    pub(crate) limit: Option<(usize, Code, &'static str)>,
    /// Refuses every stream with this status.
    pub(crate) closed: Option<Code>,
    /// Limits the message size of tonic's server from the start.
    pub(crate) decodes: Option<usize>,
    /// Reports this fill level of its buffer.
    pub(crate) buffer: Option<(i64, i64)>,
    /// Acknowledges other ids than those that arrived.
    pub(crate) renames: bool,
    /// Sends each Ack twice.
    pub(crate) stutters: bool,
}

/// Everything it has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Events by id, from their first arrival.
    pub(crate) events: BTreeMap<String, Event>,
    /// Arrivals of each event.
    pub(crate) times: BTreeMap<String, usize>,
    /// Ids that it acknowledged.
    pub(crate) acknowledged: BTreeSet<String>,
    /// Source and cluster of the last batch.
    pub(crate) from: (String, String),
    /// Most events in one batch.
    pub(crate) largest: usize,
    /// Most batches of one stream awaiting their Ack.
    pub(crate) waiting: usize,
    /// Streams opened.
    pub(crate) streams: usize,
    /// The certificate that the agent presented for each of these streams.
    pub(crate) shown: Vec<Shown>,
}

/// State that survives a restart.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared {
    manners: Arc<Mutex<Manners>>,
    seen: Arc<Mutex<Seen>>,
}

/// The answer of a server that is not a gateway.
pub(crate) type Answer = fn() -> Response<Body>;

/// A running server. It has a separate runtime, which stops at once with all of its connections.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Shared {
    pub(crate) fn with(manners: Manners) -> Self {
        Self { manners: Arc::new(Mutex::new(manners)), seen: Arc::default() }
    }

    pub(crate) fn manners(&self) -> MutexGuard<'_, Manners> {
        self.manners.lock().unwrap()
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// The answer to one batch; `None` for a stream that is to end.
    fn answer(&self, events: &[Event], nth: usize) -> Result<Option<Ack>, Status> {
        let mut manners = self.manners();
        let mut seen = self.seen();
        seen.largest = seen.largest.max(events.len());
        let mut ack = Ack::default();
        if let Some((buffer_size, buffer_capacity)) = manners.buffer {
            ack = Ack { buffer_size, buffer_capacity, ..ack };
        }
        if let Some((streams, code)) = &mut manners.ends_with
            && *streams > 0
        {
            *streams -= 1;
            return Err(Status::new(*code, "as asked"));
        }
        if events.iter().any(|event| manners.invalid.contains(&event.id)) {
            return Err(Status::invalid_argument("one of them makes no sense"));
        }
        if let Some((limit, code, said)) = manners.limit
            && events.iter().map(Event::encoded_len).sum::<usize>() > limit
        {
            return Err(Status::new(code, said));
        }
        for (position, event) in events.iter().enumerate() {
            let times = seen.times.entry(event.id.clone()).or_default();
            *times += 1;
            let first = *times == 1;
            seen.events.entry(event.id.clone()).or_insert_with(|| event.clone());
            if manners.refuses.as_ref() == Some(&event.id) {
                let (event_id, code, message) = (event.id.clone(), "invalid".to_owned(), "no".to_owned());
                ack.errors.push(AckError { event_id, code, message });
            } else if manners.ignores.as_ref() != Some(&event.id)
                && !(manners.forgets && first && position % 2 == 1)
            {
                ack.event_ids.push(event.id.clone());
            }
        }
        if manners.renames {
            ack.event_ids = vec![Ulid::generate().to_string()];
        }
        if nth == 2 && manners.drops_streams > 0 {
            manners.drops_streams -= 1;
            return Ok(None);
        }
        Ok(Some(ack))
    }

    /// Reads a stream to its end and acknowledges in order.
    async fn stream(self, mut batches: Streaming<IngestBatch>, acks: mpsc::Sender<Result<Ack, Status>>) {
        let mute = {
            let mut manners = self.manners();
            let mute = manners.mute_streams > 0;
            manners.mute_streams = manners.mute_streams.saturating_sub(1);
            mute
        };
        self.seen().streams += 1;
        let (due, mut waiting) = mpsc::channel::<(tokio::time::Instant, Ack)>(1024);
        let shared = self.clone();
        let outgoing = acks.clone();
        let writer = tokio::spawn(async move {
            while let Some((at, ack)) = waiting.recv().await {
                tokio::time::sleep_until(at).await;
                shared.seen().acknowledged.extend(ack.event_ids.iter().cloned());
                let copies = if shared.manners().stutters { 2 } else { 1 };
                for _ in 0..copies {
                    let _ = outgoing.send(Ok(ack.clone())).await;
                }
            }
        });
        let mut nth = 0;
        loop {
            let batch = match batches.message().await {
                Ok(Some(batch)) => batch,
                Ok(None) => break,
                Err(status) => {
                    let _ = acks.send(Err(status)).await;
                    break;
                }
            };
            nth += 1;
            self.seen().from = (batch.source, batch.cluster);
            let Some(Payload::Events(payload)) = batch.payload else {
                let _ = acks.send(Err(Status::unimplemented("pass-through only"))).await;
                break;
            };
            match self.answer(&payload.events, nth) {
                Ok(Some(ack)) if !mute => {
                    let at = tokio::time::Instant::now() + self.manners().late;
                    due.send((at, ack)).await.unwrap();
                    let waits = due.max_capacity() - due.capacity();
                    let mut seen = self.seen();
                    seen.waiting = seen.waiting.max(waits);
                }
                Ok(Some(_)) => {}
                Ok(None) => {
                    writer.abort();
                    return;
                }
                Err(status) => {
                    let _ = acks.send(Err(status)).await;
                    break;
                }
            }
        }
        drop(due);
        let _ = writer.await;
    }
}

#[tonic::async_trait]
impl Gateway for Shared {
    type StreamEventsStream = Pin<Box<dyn Stream<Item = Result<Ack, Status>> + Send>>;

    async fn stream_events(
        &self,
        request: tonic::Request<Streaming<IngestBatch>>,
    ) -> Result<tonic::Response<Self::StreamEventsStream>, Status> {
        if let Some(code) = self.manners().closed {
            return Err(Status::new(code, "as asked"));
        }
        self.seen().shown.extend(request.extensions().get().cloned());
        let (acks, outgoing) = mpsc::channel(1);
        tokio::spawn(self.clone().stream(request.into_inner(), acks));
        Ok(tonic::Response::new(ReceiverStream::new(outgoing).boxed_stream()))
    }

    async fn send_event(&self, _: tonic::Request<IngestEvent>) -> Result<tonic::Response<Ack>, Status> {
        Err(Status::unimplemented("the agent streams"))
    }

    async fn health(
        &self,
        _: tonic::Request<HealthRequest>,
    ) -> Result<tonic::Response<HealthResponse>, Status> {
        Ok(tonic::Response::new(HealthResponse { healthy: true, ..HealthResponse::default() }))
    }
}

/// `Box::pin` with the type that the trait requires.
trait BoxedStream: Stream<Item = Result<Ack, Status>> + Send + Sized + 'static {
    fn boxed_stream(self) -> Pin<Box<dyn Stream<Item = Result<Ack, Status>> + Send>> {
        Box::pin(self)
    }
}
impl<S: Stream<Item = Result<Ack, Status>> + Send + 'static> BoxedStream for S {}

impl Server {
    /// Starts it without TLS; port 0 picks any.
    pub(crate) fn start(address: SocketAddr, shared: &Shared) -> Self {
        Self::start_with(address, shared, None)
    }

    /// Starts it, with TLS if configured.
    pub(crate) fn start_with(address: SocketAddr, shared: &Shared, tls: Option<ServerConfig>) -> Self {
        let mut gateway = GatewayServer::new(shared.clone());
        if let Some(bytes) = shared.manners().decodes {
            gateway = gateway.max_decoding_message_size(bytes);
        }
        let service = service_fn(move |request| gateway.clone().call(request));
        Self::serving(address, Version::Http2, tls, service)
    }

    /// Starts a server that is not a gateway and gives this answer to everything.
    pub(crate) fn answering(version: Version, tls: Option<ServerConfig>, answer: Answer) -> Self {
        let service = service_fn(move |_| ready(Ok(answer())));
        Self::serving(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0), version, tls, service)
    }

    fn serving<S>(address: SocketAddr, version: Version, tls: Option<ServerConfig>, service: S) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send>,
        S: Clone + Send + Sync + 'static,
    {
        let listener = (0..200)
            .find_map(|_| {
                // After a restart the old listener may need a moment to close.
                TcpListener::bind(address).map_err(|_| std::thread::sleep(Duration::from_millis(10))).ok()
            })
            .expect("a free port");
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            serve(listener, version, tls, service).await;
        });
        Self { address, runtime: Some(runtime) }
    }

    /// Stops all work and leaves its connections open.
    pub(crate) fn fall_silent(&self) {
        if let Some(runtime) = &self.runtime {
            // The runtime has one thread.
            runtime.spawn(async {
                loop {
                    std::thread::park();
                }
            });
        }
    }

    /// Stops it. All connections are closed when this returns.
    pub(crate) fn kill(self) -> SocketAddr {
        let address = self.address;
        drop(self);
        while TcpStream::connect(address).is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
        address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
