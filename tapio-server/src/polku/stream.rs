//! One stream: batches in, Acks out, in order. Several batches of a stream may wait for the journal together, so that
//! one transaction takes all of them.

use std::{pin::pin, sync::Arc, time::Duration};

use tapio_delivery::polku::proto::v1::{Ack, IngestBatch, MiddlewareStats, ingest_batch::Payload};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tonic::{Status, Streaming};

use super::{Shared, batch::Sorted, gateway};

/// Batches of one stream that wait for the journal, or for the client to read their Acks. Only their ids are in memory
/// once they are written, so that a client that does not read its Acks holds up no other.
const AHEAD: usize = 8;
/// A client that does not read an Ack for this long loses its stream.
const UNREAD: Duration = Duration::from_secs(60);

/// What the client gets next.
enum Due {
    Ack(Sorted),
    End(Status),
}

/// Serves a stream until the client ends it, it fails, or the server stops.
pub(super) async fn run(
    shared: Arc<Shared>,
    batches: Streaming<IngestBatch>,
    acks: mpsc::Sender<Result<Ack, Status>>,
) {
    let (due, pending) = mpsc::channel(AHEAD);
    let reading = pin!(read(&shared, batches, due));
    let mut answering = pin!(answer(&shared, pending, acks));
    tokio::select! {
        () = reading => answering.await,
        // Nobody wants answers any more, or there are none.
        () = &mut answering => {}
    }
}

async fn read(shared: &Shared, mut batches: Streaming<IngestBatch>, due: mpsc::Sender<Due>) {
    let mut stopped = shared.stopped.clone();
    loop {
        let batch = tokio::select! {
            biased;
            () = is_true(&mut stopped) => return,
            batch = batches.message() => batch,
        };
        let next = match batch {
            Ok(None) => return,
            Ok(Some(batch)) => take(shared, batch).await,
            Err(status) => Err(status),
        };
        let (next, is_last) = match next {
            Ok(sorted) => (Due::Ack(sorted), false),
            Err(status) => (Due::End(status), true),
        };
        if due.send(next).await.is_err() || is_last {
            return;
        }
    }
}

async fn take(shared: &Shared, batch: IngestBatch) -> Result<Sorted, Status> {
    match batch.payload {
        Some(Payload::Events(payload)) => shared.take(payload.events).await,
        Some(Payload::Raw(_)) => {
            shared.metrics.turned_away("raw");
            Err(gateway::raw())
        }
        // There is one Ack for each batch, also for an empty one.
        None => shared.take(Vec::new()).await,
    }
}

async fn answer(shared: &Shared, mut pending: mpsc::Receiver<Due>, acks: mpsc::Sender<Result<Ack, Status>>) {
    let mut stats = MiddlewareStats::default();
    while let Some(due) = pending.recv().await {
        let answer = match due {
            Due::Ack(sorted) => sorted.ack(shared, &mut stats).await,
            Due::End(status) => Err(status),
        };
        let is_last = answer.is_err();
        match timeout(UNREAD, acks.send(answer)).await {
            Ok(Ok(())) if !is_last => {}
            Ok(_) => return,
            Err(_) => {
                shared.metrics.turned_away("acks_unread");
                tracing::warn!("a client did not read its Acks for {UNREAD:?}: its stream was ended");
                return;
            }
        }
    }
}

/// Completes when the flag is true, or its sender is gone.
async fn is_true(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|flag| *flag).await;
}
