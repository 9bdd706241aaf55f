//! A POLKU gateway: `polku.v1.Gateway/StreamEvents`, pass-through events, at least once.
//!
//! A delivery is split into batches well below the gateway's limit; up to [`WINDOW`] of them are in flight.
//! An event is settled when an Ack names its id. Events without an Ack in time are sent again over a new
//! connection; receivers drop repeats by id.

mod endpoint;
mod gateways;
mod health;
/// The protocol, generated from `proto/polku`.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, reason = "generated")]
pub mod proto {
    pub mod v1 {
        tonic::include_proto!("polku.v1");
    }
}

mod settings;
mod stream;

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::Arc,
    time::Duration,
};

use prost::Message as _;
use tapio_occurrence::{Occurrence, SOURCE, event::event};
use tokio::time::{Instant, sleep, timeout_at};
use ulid::Ulid;

use super::{
    Batching, Destination, Failure, Receipt, Trouble, Verdict,
    sizing::{Sent, Sizing},
};
use gateways::Gateways;
use proto::v1::{Ack, EventPayload, IngestBatch, ingest_batch::Payload};
use stream::{Lost, Stream};

pub use endpoint::{Endpoint, Endpoints};
pub use health::{Health, health};
pub use settings::Settings;

const NAME: &str = "polku";

/// The most batches in flight without an Ack.
pub const WINDOW: usize = 4;
/// The most events in a batch.
pub const BATCH_EVENTS: usize = 256;
/// The most bytes of events in a batch, and of one event: the gateway refuses messages over 4 MB.
pub const BATCH_BYTES: usize = 1 << 20;

/// Timeouts and intervals of the connection to a gateway.
#[derive(Clone, Copy, Debug)]
pub struct Timings {
    /// The timeout of a connection, including name resolution.
    pub connect: Duration,
    /// How long a new stream may take to be refused. A gateway may withhold its headers until it has
    /// something to acknowledge.
    pub refusal: Duration,
    /// The timeout of the next Ack while batches are in flight.
    pub ack: Duration,
    /// The interval of keep-alive pings, and the timeout of each.
    pub keep_alive: Duration,
    /// How long an event waits for a fuller batch.
    pub age: Duration,
    /// The interval at which the TLS files are checked for changes.
    pub look: Duration,
}

/// The gateway as a destination, or several of which one is used.
#[derive(Debug)]
pub struct Polku {
    gateways: Gateways,
    cluster: Option<Arc<str>>,
    timings: Timings,
    stream: Option<Stream>,
    /// Why there is no stream.
    lost: Option<Failure>,
    sizing: Sizing,
    /// The stream ended because of its content, not because of the gateway, so another one is opened at once.
    again: bool,
    /// Why the last event was rejected.
    said: Option<String>,
}

/// A batch in flight, and the verdicts on its occurrences so far.
#[derive(Debug, Default)]
struct Flight {
    verdicts: Vec<Verdict>,
    positions: HashMap<Ulid, usize>,
    bytes: usize,
    /// Its Ack came, or none is needed.
    answered: bool,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            refusal: Duration::from_secs(2),
            ack: Duration::from_secs(10),
            keep_alive: Duration::from_secs(30),
            age: Duration::from_millis(100),
            look: Duration::from_secs(30),
        }
    }
}

impl Polku {
    /// Creates the destination without connecting; `None` if no endpoint is set.
    ///
    /// # Errors
    /// A file for TLS cannot be used.
    pub fn new(
        settings: &Settings,
        cluster: Option<Arc<str>>,
        timings: Timings,
    ) -> Result<Option<Self>, Trouble> {
        let Some(gateways) = Gateways::new(settings, timings) else { return Ok(None) };
        gateways.check()?;
        let sizing = Sizing::new(BATCH_EVENTS, BATCH_BYTES);
        Ok(Some(Self {
            gateways,
            cluster,
            timings,
            stream: None,
            lost: None,
            sizing,
            again: false,
            said: None,
        }))
    }

    /// The next batch to send, and the occurrences in it: always at least one.
    fn pack(&mut self, occurrences: &[Arc<Occurrence>]) -> (IngestBatch, Flight) {
        let most = occurrences.len().min(self.sizing.count());
        let most_bytes = self.sizing.bytes();
        let (verdicts, positions) = (Vec::with_capacity(most), HashMap::with_capacity(most));
        let mut flight = Flight { verdicts, positions, ..Flight::default() };
        let mut events = Vec::with_capacity(most);
        let mut bytes = 0;
        for occurrence in occurrences {
            let event = event(occurrence);
            let size = event.encoded_len();
            if size > BATCH_BYTES {
                tracing::warn!(id = %occurrence.id, kind = &*occurrence.kind, size, "occurrence too large to send");
                flight.verdicts.push(Verdict::Refused);
                continue;
            }
            let is_full = bytes + size > most_bytes && !events.is_empty();
            if is_full || events.len() == most {
                break;
            }
            bytes += size;
            flight.positions.insert(occurrence.id, flight.verdicts.len());
            flight.verdicts.push(Verdict::Unanswered);
            events.push(event);
        }
        (flight.bytes, flight.answered) = (bytes, events.is_empty());
        let cluster = self.cluster.as_deref().unwrap_or_default().to_owned();
        let payload = Some(Payload::Events(EventPayload { events }));
        (IngestBatch { source: SOURCE.to_owned(), cluster, payload }, flight)
    }

    /// Sends batches and settles them in order. After a failure, `receipt` contains the verdicts so far.
    async fn exchange(
        &mut self,
        stream: &mut Stream,
        occurrences: &[Arc<Occurrence>],
        receipt: &mut Receipt,
    ) -> Result<(), Lost> {
        let mut rest = occurrences;
        let mut flights = VecDeque::new();
        let mut deadline = Instant::now() + self.timings.ack;
        let mut astray = false;
        loop {
            let window = if self.sizing.is_searching() { 1 } else { WINDOW };
            while flights.len() < window && !rest.is_empty() && !receipt.slow {
                let (batch, flight) = self.pack(rest);
                rest = &rest[flight.verdicts.len()..];
                if !flight.answered {
                    stream.send(batch, self.timings.ack).await;
                }
                flights.push_back(flight);
            }
            while let Some(flight) = flights.pop_front_if(|flight: &mut Flight| flight.answered) {
                self.sizing.taken(flight.positions.len());
                receipt.verdicts.extend(flight.verdicts);
            }
            if flights.is_empty() {
                if rest.is_empty() || receipt.slow {
                    return Ok(());
                }
                continue;
            }
            match timeout_at(deadline, stream.ack()).await {
                Ok(Ok(ack)) => {
                    receipt.slow |= nearly_full(&ack);
                    if stream.settle(&ack, &mut flights) {
                        deadline = Instant::now() + self.timings.ack;
                    } else {
                        astray = true;
                    }
                }
                Ok(Err(lost)) => {
                    if let Some(why) = lost.refusal(&stream.target) {
                        self.refused(&why, flights, receipt);
                    }
                    return Err(lost);
                }
                Err(_) => {
                    // An Ack with unexpected ids counts as none, but not for ever.
                    if astray {
                        receipt.verdicts.extend(flights.pop_front().into_iter().flat_map(|f| f.verdicts));
                    }
                    return Err(Lost::Silent(self.timings.ack));
                }
            }
        }
    }

    /// Handles the end of a stream because of its content: the next one carries less, or the single event is
    /// rejected.
    fn refused(&mut self, why: &Trouble, mut flights: VecDeque<Flight>, receipt: &mut Receipt) {
        flights.retain(|flight| !flight.answered);
        let Some(first) = flights.front() else { return };
        let count = flights.iter().map(|flight| flight.positions.len()).sum();
        self.again = true;
        let is_one =
            self.sizing.refused(why.about, Sent { messages: flights.len(), count, bytes: first.bytes });
        let what = why.to_string();
        if !is_one {
            tracing::debug!(sink = NAME, count, what, "refused; less is sent at once");
            return;
        }
        for id in first.positions.keys() {
            if self.said.as_ref() == Some(&what) {
                tracing::debug!(sink = NAME, %id, what, "event refused for good");
            } else {
                tracing::warn!(
                    sink = NAME, %id, what,
                    "event refused for good; more of the same are logged at debug level"
                );
                self.said = Some(what.clone());
            }
        }
        receipt.verdicts.extend(std::iter::repeat_n(Verdict::Refused, first.verdicts.len()));
    }

    /// Opens another stream after one ended because of its content.
    async fn go_on(&mut self) -> Result<(), Failure> {
        if self.stream.is_none() && self.again {
            if let Some(pause) = self.sizing.pause() {
                sleep(pause).await;
            }
            self.stream = Some(self.gateways.open().await?);
            self.again = false;
        }
        Ok(())
    }

    /// Opens another stream if the TLS files have changed. Nothing is in flight at that time, so nothing is
    /// lost.
    async fn renew(&mut self) {
        if let Some(stream) = &mut self.stream
            && stream.is_outdated()
            && let Some(renewed) = self.gateways.renewed(stream).await
        {
            mem::replace(stream, renewed).close().await;
        }
    }

    /// Why there is no stream.
    fn absence(&mut self) -> Failure {
        self.lost.take().unwrap_or_else(|| Failure::Retry("not connected".to_owned()))
    }
}

impl Destination for Polku {
    const NAME: &'static str = NAME;

    fn batching(&self) -> Batching {
        Batching { count: WINDOW * BATCH_EVENTS, age: self.timings.age }
    }

    fn endpoint(&self) -> Option<&str> {
        self.stream.as_ref().map(|stream| stream.target.endpoint.as_str())
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        if self.stream.is_none() {
            self.stream = Some(self.gateways.open().await?);
            self.again = false;
        }
        Ok(())
    }

    async fn deliver(&mut self, batch: &[Arc<Occurrence>]) -> Result<Receipt, Failure> {
        self.renew().await;
        loop {
            self.go_on().await?;
            let Some(mut stream) = self.stream.take() else { return Err(self.absence()) };
            let mut receipt = Receipt::default();
            match self.exchange(&mut stream, batch, &mut receipt).await {
                Ok(()) => {
                    self.stream = Some(stream);
                    return Ok(receipt);
                }
                Err(_) if self.again => drop(stream),
                Err(lost) => self.lost = Some(self.gateways.lost(stream, lost).await),
            }
            // The verdicts so far count; the next delivery continues, or returns the failure.
            if !receipt.verdicts.is_empty() {
                return Ok(receipt);
            }
        }
    }

    async fn idle(&mut self) -> Failure {
        loop {
            if let Err(failure) = self.go_on().await {
                return failure;
            }
            let Some(stream) = &mut self.stream else { return self.absence() };
            let Some(lost) = stream.lost().await else {
                self.renew().await;
                continue;
            };
            if let Some(stream) = self.stream.take() {
                self.lost = Some(self.gateways.lost(stream, lost).await);
            }
        }
    }

    async fn close(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.close().await;
        }
    }
}

/// Nearly full means nine tenths or more.
fn nearly_full(ack: &Ack) -> bool {
    ack.buffer_capacity > 0 && ack.buffer_size >= ack.buffer_capacity - ack.buffer_capacity / 10
}
