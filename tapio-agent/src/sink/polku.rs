//! A POLKU gateway: `polku.v1.Gateway/StreamEvents`, pass-through events, at least once.
//!
//! A delivery is cut into batches that stay well under the gateway's limit; up to [`WINDOW`] of them are on the
//! way at once. An event is done with when an Ack names its id. What no Ack came for in time is sent again over
//! a new connection; receivers drop repeats by id.

mod endpoint;
mod event;
mod health;
/// The protocol, generated from `proto/polku`.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, reason = "generated")]
pub mod proto {
    pub mod event {
        pub mod v1 {
            tonic::include_proto!("polku.event.v1");
        }
    }
    pub mod v1 {
        tonic::include_proto!("polku.v1");
    }
}

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::Arc,
    time::Duration,
};

use prost::Message as _;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport};
use ulid::Ulid;

use super::{Batching, Destination, Failure, Receipt, Verdict, causes};
use crate::occurrence::{Occurrence, SOURCE};
use proto::v1::{Ack, EventPayload, IngestBatch, gateway_client::GatewayClient, ingest_batch::Payload};

pub use endpoint::{Endpoint, parse_endpoint};
pub use health::{Health, health};

/// Most batches on the way without an Ack.
pub const WINDOW: usize = 4;
/// Most events of a batch.
pub const BATCH_EVENTS: usize = 256;
/// Most bytes of the events of a batch, and of one event: the gateway refuses messages over 4 MB.
pub const BATCH_BYTES: usize = 1 << 20;

/// How long to wait for the gateway.
#[derive(Clone, Copy, Debug)]
pub struct Timings {
    /// For a connection, name resolution included.
    pub connect: Duration,
    /// For the next Ack while batches are on the way.
    pub ack: Duration,
    /// Between pings, and for the answer to one.
    pub keep_alive: Duration,
    /// How long an event waits for others.
    pub age: Duration,
}

/// The gateway as a destination.
#[derive(Debug)]
pub struct Polku {
    endpoint: Endpoint,
    cluster: Option<Arc<str>>,
    timings: Timings,
    connection: Option<Connection>,
    /// Why there is no connection.
    lost: Option<String>,
}

/// One stream. Dropping it ends it.
#[derive(Debug)]
struct Connection {
    batches: mpsc::Sender<IngestBatch>,
    acks: mpsc::Receiver<Result<Ack, Status>>,
    reader: JoinSet<()>,
    /// An error of one event is logged loudly once, not for each.
    refused_before: bool,
}

/// A batch on the way, and what is known about the occurrences in it.
#[derive(Debug, Default)]
struct Flight {
    verdicts: Vec<Verdict>,
    positions: HashMap<Ulid, usize>,
    /// Its Ack came, or it has nothing to ask for.
    answered: bool,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            ack: Duration::from_secs(10),
            keep_alive: Duration::from_secs(30),
            age: Duration::from_millis(100),
        }
    }
}

impl Polku {
    /// Not connected yet.
    #[must_use]
    pub const fn new(endpoint: Endpoint, cluster: Option<Arc<str>>, timings: Timings) -> Self {
        Self { endpoint, cluster, timings, connection: None, lost: None }
    }

    /// The next batch for the wire, and what it has of `occurrences`: always at least one.
    fn pack(&self, occurrences: &[Arc<Occurrence>]) -> (IngestBatch, Flight) {
        let mut flight = Flight::default();
        let mut events = Vec::new();
        let mut bytes = 0;
        for occurrence in occurrences {
            let event = event::event(occurrence);
            let size = event.encoded_len();
            if size > BATCH_BYTES {
                tracing::warn!(id = %occurrence.id, kind = occurrence.kind, size, "occurrence too large to send");
                flight.verdicts.push(Verdict::Refused);
                continue;
            }
            bytes += size;
            if bytes > BATCH_BYTES || events.len() == BATCH_EVENTS {
                break;
            }
            flight.positions.insert(occurrence.id, flight.verdicts.len());
            flight.verdicts.push(Verdict::Unanswered);
            events.push(event);
        }
        flight.answered = events.is_empty();
        let cluster = self.cluster.as_deref().unwrap_or_default().to_owned();
        let payload = Some(Payload::Events(EventPayload { events }));
        (IngestBatch { source: SOURCE.to_owned(), cluster, payload }, flight)
    }

    /// Sends batches and settles them in order; leaves in `receipt` what is known when something is wrong.
    async fn exchange(
        &mut self,
        occurrences: &[Arc<Occurrence>],
        receipt: &mut Receipt,
    ) -> Result<(), String> {
        let Some(mut connection) = self.connection.take() else {
            return Err(self.lost.take().unwrap_or_else(|| "not connected".to_owned()));
        };
        let mut rest = occurrences;
        let mut flights = VecDeque::new();
        let mut deadline = Instant::now() + self.timings.ack;
        let mut astray = false;
        loop {
            while flights.len() < WINDOW && !rest.is_empty() && !receipt.slow {
                let (batch, flight) = self.pack(rest);
                rest = &rest[flight.verdicts.len()..];
                if !flight.answered {
                    // A stream that is at its end says why where Acks are read.
                    let _ = timeout(self.timings.ack, connection.batches.send(batch)).await;
                }
                flights.push_back(flight);
            }
            while let Some(flight) = flights.pop_front_if(|flight: &mut Flight| flight.answered) {
                receipt.verdicts.extend(flight.verdicts);
            }
            if flights.is_empty() {
                if rest.is_empty() || receipt.slow {
                    self.connection = Some(connection);
                    return Ok(());
                }
                continue;
            }
            match timeout_at(deadline, connection.acks.recv()).await {
                Ok(Some(Ok(ack))) => {
                    receipt.slow |= nearly_full(&ack);
                    if connection.settle(&ack, &mut flights) {
                        deadline = Instant::now() + self.timings.ack;
                    } else {
                        astray = true;
                    }
                }
                Ok(Some(Err(status))) => {
                    if is_poison(&status) {
                        let first =
                            flights.pop_front().map(|flight| flight.verdicts.len()).unwrap_or_default();
                        receipt.verdicts.extend(std::iter::repeat_n(Verdict::Refused, first));
                    }
                    return Err(causes(&status));
                }
                Ok(None) => return Err("the gateway ended the stream".to_owned()),
                Err(_) => {
                    // An Ack that names others than it should is none, but not for ever.
                    if astray {
                        receipt.verdicts.extend(flights.pop_front().into_iter().flat_map(|f| f.verdicts));
                    }
                    return Err(format!("no Ack within {:?}", self.timings.ack));
                }
            }
        }
    }
}

impl Destination for Polku {
    const NAME: &'static str = "polku";

    fn batching(&self) -> Batching {
        Batching { count: WINDOW * BATCH_EVENTS, age: self.timings.age }
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        if self.connection.is_some() {
            return Ok(());
        }
        // A new channel each time, since one of old would keep the addresses that it has resolved.
        let connecting = transport::Endpoint::from_shared(format!("http://{}", self.endpoint))
            .and_then(|endpoint| endpoint.user_agent(concat!("tapio/", env!("CARGO_PKG_VERSION"))))
            .map_err(|error| Failure::Reject(causes(&error)))?
            .connect_timeout(self.timings.connect)
            .tcp_keepalive(Some(self.timings.keep_alive))
            .http2_keep_alive_interval(self.timings.keep_alive)
            .keep_alive_timeout(self.timings.keep_alive)
            .keep_alive_while_idle(true);
        let why = match timeout(self.timings.connect, connecting.connect()).await {
            Ok(Ok(channel)) => {
                self.connection = Some(Connection::open(channel));
                return Ok(());
            }
            Ok(Err(error)) => causes(&error),
            Err(_) => format!("no connection within {:?}", self.timings.connect),
        };
        Err(Failure::Retry(format!("{}: {why}", self.endpoint)))
    }

    async fn deliver(&mut self, batch: &[Arc<Occurrence>]) -> Result<Receipt, Failure> {
        let mut receipt = Receipt::default();
        match self.exchange(batch, &mut receipt).await {
            Ok(()) => Ok(receipt),
            Err(why) if receipt.verdicts.is_empty() => {
                Err(Failure::Retry(format!("{}: {why}", self.endpoint)))
            }
            // What is known counts; the next delivery says why.
            Err(why) => {
                self.lost = Some(why);
                Ok(receipt)
            }
        }
    }

    async fn idle(&mut self) -> Failure {
        let why = match &mut self.connection {
            Some(connection) => connection.lost().await,
            None => self.lost.take().unwrap_or_else(|| "not connected".to_owned()),
        };
        self.connection = None;
        Failure::Retry(format!("{}: {why}", self.endpoint))
    }

    async fn close(&mut self) {
        if let Some(Connection { batches, acks, mut reader, .. }) = self.connection.take() {
            drop((batches, acks));
            // The gateway sees the stream's end rather than a cut; not worth more than a moment.
            let _ = timeout_at(Instant::now() + Duration::from_millis(250), reader.join_next()).await;
        }
    }
}

impl Connection {
    /// Starts the stream. Its response is awaited in a task of its own: a gateway may hold back its headers
    /// until it has something to acknowledge.
    fn open(channel: transport::Channel) -> Self {
        let (batches, outgoing) = mpsc::channel(WINDOW);
        let (incoming, acks) = mpsc::channel(WINDOW);
        let mut reader = JoinSet::new();
        reader.spawn(async move {
            let mut client = GatewayClient::new(channel);
            let failure = match client.stream_events(ReceiverStream::new(outgoing)).await {
                Ok(response) => {
                    let mut stream = response.into_inner();
                    loop {
                        match stream.message().await {
                            Ok(Some(ack)) => {
                                if incoming.send(Ok(ack)).await.is_err() {
                                    return;
                                }
                            }
                            Ok(None) => return,
                            Err(status) => break status,
                        }
                    }
                }
                Err(status) => status,
            };
            // Nobody who listens is nobody to tell.
            let _ = incoming.send(Err(failure)).await;
        });
        Self { batches, acks, reader, refused_before: false }
    }

    /// Notes what an Ack says, and whether it answers one of these batches: the one that its ids are of, or the
    /// oldest if it has none. One with other ids is a repeat, which must not pass for the answer to what follows.
    fn settle(&mut self, ack: &Ack, flights: &mut VecDeque<Flight>) -> bool {
        let taken = ack.event_ids.iter().map(|id| (id, Verdict::Taken));
        let refused = ack.errors.iter().map(|error| (&error.event_id, Verdict::Refused));
        let mut matched = false;
        for (id, verdict) in taken.chain(refused) {
            let Ok(id) = Ulid::from_string(id) else { continue };
            let found = flights.iter_mut().find_map(|flight| {
                let position = *flight.positions.get(&id)?;
                Some((flight, position))
            });
            if let Some((flight, position)) = found {
                flight.verdicts[position] = verdict;
                flight.answered = true;
                matched = true;
            }
        }
        if ack.event_ids.is_empty()
            && ack.errors.is_empty()
            && let Some(oldest) = flights.front_mut()
        {
            oldest.answered = true;
            matched = true;
        }
        for error in &ack.errors {
            let (id, code, message) = (&error.event_id, &error.code, &error.message);
            if mem::replace(&mut self.refused_before, true) {
                tracing::debug!(id, code, message, "gateway refused an event");
            } else {
                tracing::warn!(id, code, message, "gateway refused an event; more are logged at debug level");
            }
        }
        matched
    }

    /// Ends when the stream does. An Ack that nothing waits for is of no use.
    async fn lost(&mut self) -> String {
        loop {
            match self.acks.recv().await {
                Some(Ok(_)) => {}
                Some(Err(status)) => return causes(&status),
                None => return "the gateway ended the stream".to_owned(),
            }
        }
    }
}

/// From nine tenths on.
fn nearly_full(ack: &Ack) -> bool {
    ack.buffer_capacity > 0 && ack.buffer_size >= ack.buffer_capacity - ack.buffer_capacity / 10
}

/// The batch itself is the reason, and would be again.
fn is_poison(status: &Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::OutOfRange)
}
