//! One stream to a gateway: it sends batches and receives Acks.

use std::{collections::VecDeque, mem, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use ulid::Ulid;

use super::{
    super::{
        About,
        connection::{Failed, Grpc, Link, Stamps, Target, Trouble},
    },
    Flight, Timings, Verdict, WINDOW,
    proto::v1::{Ack, IngestBatch, gateway_client::GatewayClient},
};

/// A stream that lasts this long counts as accepted, even without an Ack.
const STEADY: Duration = Duration::from_secs(30);

/// One stream. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) target: Arc<Target>,
    link: Link,
    batches: mpsc::Sender<IngestBatch>,
    acks: mpsc::Receiver<Result<Ack, Status>>,
    reader: JoinSet<()>,
    /// Whether an error of one event was logged as a warning; later ones are logged at a lower level.
    refused_before: bool,
    opened: Instant,
    acknowledged: bool,
    /// Stamps of the files that TLS was set up with.
    stamps: Stamps,
    /// When, and how often, these are compared with the current files.
    look_at: Instant,
    look: Duration,
}

/// How a stream ended.
#[derive(Debug)]
pub(super) enum Lost {
    /// The gateway ended the stream without an error, while the agent still needed it.
    Ended,
    /// It ended with this status, or because the connection broke.
    Status(Status),
    /// No Ack came in time.
    Silent(Duration),
}

impl Lost {
    /// Why it ended, if the reason is what was sent.
    pub(super) fn refusal(&self, target: &Target) -> Option<Trouble> {
        let Self::Status(status) = self else { return None };
        let (why, is_gateway) = match Failed::from(status.clone()) {
            Failed::Said(status) => (Trouble::of_grpc(&status, target), true),
            Failed::Other(head) => (Trouble::of_status(head.status.as_u16(), "", target), false),
            Failed::Broken(_) => return None,
        };
        // A proxy knows nothing about the content of a batch.
        let is_refusal = why.about == About::Size || (why.about == About::Content && is_gateway);
        is_refusal.then_some(why)
    }
}

impl Stream {
    /// Connects and starts the stream. A task of its own waits for the answer.
    pub(super) async fn open(target: &Arc<Target>, timings: Timings) -> Result<Self, Trouble> {
        let stamps = target.stamps();
        let (grpc, link) = target.grpc().await?;
        let (batches, outgoing) = mpsc::channel(WINDOW);
        let (incoming, acks) = mpsc::channel(WINDOW);
        let (answer, answered) = oneshot::channel();
        let mut reader = JoinSet::new();
        reader.spawn(read(grpc, outgoing, answer, incoming));
        let opened = Instant::now();
        let stream = Self {
            target: Arc::clone(target),
            link,
            batches,
            acks,
            reader,
            refused_before: false,
            opened,
            acknowledged: false,
            stamps,
            look_at: opened + timings.look,
            look: timings.look,
        };
        match timeout(timings.refusal, answered).await {
            Ok(Ok(Err(status))) => Err(stream.explain(Lost::Status(status)).await),
            Ok(_) | Err(_) => Ok(stream),
        }
    }

    /// Sends a batch, and gives up after that time. If the stream has ended, reading Acks returns the reason.
    pub(super) async fn send(&self, batch: IngestBatch, within: Duration) {
        let _ = timeout(within, self.batches.send(batch)).await;
    }

    /// The next Ack.
    pub(super) async fn ack(&mut self) -> Result<Ack, Lost> {
        match self.acks.recv().await {
            Some(Ok(ack)) => Ok(ack),
            Some(Err(status)) => Err(Lost::Status(status)),
            None => Err(Lost::Ended),
        }
    }

    /// Returns when the stream ends, or `None` when it is time to check the TLS files.
    pub(super) async fn lost(&mut self) -> Option<Lost> {
        let due = self.look_at;
        let lost = async {
            loop {
                // An Ack without a batch in flight is ignored.
                if let Err(lost) = self.ack().await {
                    return lost;
                }
            }
        };
        timeout_at(due, lost).await.ok()
    }

    /// Why the stream ended.
    pub(super) async fn explain(self, lost: Lost) -> Trouble {
        match lost {
            Lost::Ended => Trouble::bare("ended the stream"),
            Lost::Silent(within) => Trouble::bare(format!("gave no Ack within {within:?}")),
            Lost::Status(status) => self.target.explain(self.link, status).await,
        }
    }

    /// Whether the gateway did more than accept the stream.
    pub(super) fn is_proven(&self) -> bool {
        self.acknowledged || self.opened.elapsed() >= STEADY
    }

    /// Whether it is time to check the TLS files and they have changed.
    pub(super) fn is_outdated(&mut self) -> bool {
        let now = Instant::now();
        if now < self.look_at {
            return false;
        }
        self.look_at = now + self.look;
        self.stamps != self.target.stamps()
    }

    /// Closes the stream so that the gateway sees a proper end; waits no more than a moment for it.
    pub(super) async fn close(self) {
        let Self { batches, acks, mut reader, link, .. } = self;
        drop((batches, acks));
        let _ = timeout_at(Instant::now() + Duration::from_millis(250), reader.join_next()).await;
        drop(link);
    }

    /// Applies an Ack, and returns whether it answers one of these batches: the one with its ids, or the
    /// oldest if it has none. An Ack with other ids is a repeat, and must not count as the answer to a later
    /// batch.
    pub(super) fn settle(&mut self, ack: &Ack, flights: &mut VecDeque<Flight>) -> bool {
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
        self.acknowledged |= matched;
        matched
    }
}

/// Reads Acks until there are no more or nobody wants them. First reports whether the gateway accepted the
/// stream.
async fn read(
    grpc: Grpc,
    outgoing: mpsc::Receiver<IngestBatch>,
    answer: oneshot::Sender<Result<(), Status>>,
    incoming: mpsc::Sender<Result<Ack, Status>>,
) {
    let origin = grpc.origin.clone();
    let mut client = GatewayClient::with_origin(grpc, origin);
    let mut stream = match client.stream_events(ReceiverStream::new(outgoing)).await {
        Ok(response) => response.into_inner(),
        Err(status) => {
            // If nothing waits for that any more, report it in place of an Ack.
            if let Err(late) = answer.send(Err(status)) {
                let _ = incoming.send(late.map(|()| Ack::default())).await;
            }
            return;
        }
    };
    let _ = answer.send(Ok(()));
    while let Some(next) = stream.message().await.transpose() {
        // Without a receiver there is no one to report to.
        let is_last = next.is_err();
        if incoming.send(next).await.is_err() || is_last {
            return;
        }
    }
}
