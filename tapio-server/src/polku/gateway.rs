//! The calls of `polku.v1.Gateway`.

use std::{pin::Pin, sync::Arc};

use tapio_delivery::polku::proto::v1::{
    Ack, ComponentHealth, HealthRequest, HealthResponse, IngestBatch, IngestEvent, MiddlewareStats,
    gateway_server::{Gateway as Calls, GatewayServer},
    ingest_event::Payload,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming, codec::CompressionEncoding};

use super::{ORIGIN, Shared, stream};

/// Messages over this are refused.
pub(super) const MESSAGE_BYTES: usize = 4 << 20;
/// Calls at once, without streams: each may be a message in memory.
pub(super) const CALLS: usize = 64;
/// Acks of a stream that wait for the client to read them.
const ACKS: usize = 4;

/// The calls, for tonic.
#[derive(Clone)]
pub(super) struct Gateway(Arc<Shared>);

/// The service.
pub(super) type Server = GatewayServer<Gateway>;

/// A running call of a connection. The connection is idle when all are dropped.
#[derive(Clone, Debug)]
pub(super) struct Busy(#[expect(dead_code, reason = "it is held")] Arc<Counted>);

#[derive(Debug)]
struct Counted {
    calls: Arc<watch::Sender<usize>>,
    /// Its place, if it is not a stream.
    _place: Option<OwnedSemaphorePermit>,
}

impl Busy {
    /// Counts a call.
    ///
    /// # Errors
    /// There are too many at once. Streams have places of their own, and take them later.
    pub(super) fn new(
        shared: &Shared,
        places: &Arc<Semaphore>,
        calls: &Arc<watch::Sender<usize>>,
        path: &str,
    ) -> Result<Self, Status> {
        let place = match path.ends_with("/StreamEvents") {
            true => None,
            false => Some(Arc::clone(places).try_acquire_owned().map_err(|_| {
                shared.metrics.turned_away("calls");
                Status::unavailable("too many calls at once: try again later, or use a stream")
            })?),
        };
        calls.send_modify(|calls| *calls += 1);
        Ok(Self(Arc::new(Counted { calls: Arc::clone(calls), _place: place })))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.calls.send_modify(|calls| *calls -= 1);
    }
}

impl Gateway {
    pub(super) fn server(shared: &Arc<Shared>) -> Server {
        GatewayServer::new(Self(Arc::clone(shared)))
            .max_decoding_message_size(MESSAGE_BYTES)
            .accept_compressed(CompressionEncoding::Gzip)
    }
}

/// The status of raw mode.
pub(super) fn raw() -> Status {
    Status::unimplemented("raw payloads are not accepted: send events (`payload.events`)")
}

#[tonic::async_trait]
impl Calls for Gateway {
    type StreamEventsStream = Pin<Box<dyn Stream<Item = Result<Ack, Status>> + Send>>;

    async fn stream_events(
        &self,
        mut request: Request<Streaming<IngestBatch>>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let shared = &self.0;
        let Ok(place) = Arc::clone(&shared.streams).try_acquire_owned() else {
            shared.metrics.turned_away("streams");
            let most = shared.settings.streams;
            return Err(Status::unavailable(format!(
                "all {most} streams are in use: try again later, or raise polku.streams of the server"
            )));
        };
        let busy = request.extensions_mut().remove::<Busy>();
        let (acks, outgoing) = mpsc::channel(ACKS);
        let run = stream::run(Arc::clone(shared), request.into_inner(), acks);
        tokio::spawn(async move {
            run.await;
            drop((place, busy));
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn send_event(&self, mut request: Request<IngestEvent>) -> Result<Response<Ack>, Status> {
        let shared = &self.0;
        let _busy = request.extensions_mut().remove::<Busy>();
        let event = match request.into_inner().payload {
            Some(Payload::Event(event)) => event,
            Some(Payload::Raw(_)) => {
                shared.metrics.turned_away("raw");
                return Err(raw());
            }
            None => return Err(Status::invalid_argument("no event: set `payload.event`")),
        };
        let sorted = shared.take(vec![event]).await?;
        sorted.ack(shared, &mut MiddlewareStats::default()).await.map(Response::new)
    }

    async fn health(&self, _: Request<HealthRequest>) -> Result<Response<HealthResponse>, Status> {
        let shared = &self.0;
        let part = |state: Result<(), String>| ComponentHealth {
            healthy: state.is_ok(),
            message: state.err().unwrap_or_default(),
        };
        let stopping = *shared.stopped.borrow();
        let server = if stopping { Err("the server is stopping".to_owned()) } else { Ok(()) };
        let components = [("journal", part(shared.journal.works())), ("server", part(server))];
        Ok(Response::new(HealthResponse {
            healthy: components.iter().all(|(_, part)| part.healthy),
            components: components.map(|(name, part)| (name.to_owned(), part)).into(),
            uptime_seconds: i64::try_from(shared.started.elapsed().as_secs()).unwrap_or(i64::MAX),
            events_processed: shared.metrics.ledger(ORIGIN).received,
        }))
    }
}
