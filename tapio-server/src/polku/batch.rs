//! The events of one batch on their way to the journal and into an Ack.

use std::sync::Arc;

use prost::Message as _;
use tapio_delivery::polku::proto::v1::{Ack, AckError, MiddlewareStats};
use tapio_occurrence::event::{occurrence, v1::Event};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use super::{
    ORIGIN, Shared,
    check::{check, unfit},
};
use crate::journal::{Outcome, Pending, Trouble};

/// A batch that was given to the journal.
pub(super) struct Sorted {
    /// The ids of the events that were given to the journal, in order.
    ids: Vec<String>,
    /// Those refused before.
    errors: Vec<AckError>,
    pending: Pending,
}

impl Shared {
    /// Checks events and gives those that pass to the journal. Waits while there is no memory for them.
    pub(super) async fn take(&self, events: Vec<Event>) -> Result<Sorted, Status> {
        let most = self.settings.batch_events.get() as usize;
        if events.len() > most {
            self.metrics.turned_away("batch");
            let count = events.len();
            return Err(Status::resource_exhausted(format!(
                "batch too large: {count} events, and at most {most} are accepted: send smaller batches"
            )));
        }
        let bytes: usize = events.iter().map(Event::encoded_len).sum();
        let memory = self.room_for(bytes).await?;
        let mut errors = Vec::new();
        let mut passed = Vec::with_capacity(events.len());
        let mut opaque = 0;
        for event in events {
            match check(&event) {
                Ok(()) => {
                    opaque += u64::from(occurrence(&event).is_err());
                    passed.push(event);
                }
                Err(refusal) => {
                    self.metrics.refused(ORIGIN, refusal.reason, 1);
                    errors.push(refusal.of(&event.id));
                }
            }
        }
        self.metrics.opaque(ORIGIN, opaque);
        self.agents.hear(&passed);
        let pending = self.journal.submit(&passed, Some(memory)).await.map_err(|why| unwritten(&why))?;
        let ids = passed.into_iter().map(|event| event.id).collect();
        Ok(Sorted { ids, errors, pending })
    }

    async fn room_for(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Status> {
        let most = self.memory_bytes;
        let bytes = u32::try_from(bytes.min(most)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.memory).acquire_many_owned(bytes).await;
        room.map_err(|_| Status::unavailable("the server is stopping"))
    }
}

impl Sorted {
    /// Waits for the journal, and makes the Ack.
    pub(super) async fn ack(self, shared: &Shared, stats: &mut MiddlewareStats) -> Result<Ack, Status> {
        let Self { ids, mut errors, pending } = self;
        stats.total_received += (ids.len() + errors.len()) as i64;
        let outcomes = pending.outcomes().await.map_err(|why| unwritten(&why))?;
        let mut event_ids = Vec::with_capacity(ids.len());
        for (id, outcome) in ids.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Accepted(_) => stats.total_forwarded += 1,
                Outcome::Repeated => stats.dedup_count += 1,
                Outcome::Refused(why) => {
                    errors.push(unfit(&id, why));
                    continue;
                }
            }
            event_ids.push(id);
        }
        stats.filtered_count += errors.len() as i64;
        let (waiting, most) = (shared.waiting_bytes(), shared.memory_bytes as u64);
        Ok(Ack {
            event_ids,
            errors,
            buffer_size: i64::try_from(waiting).unwrap_or(i64::MAX),
            buffer_capacity: i64::try_from(most).unwrap_or(i64::MAX),
            middleware_stats: Some(*stats),
        })
    }
}

/// The status of a batch that is not in the journal.
fn unwritten(why: &Trouble) -> Status {
    Status::unavailable(match why {
        Trouble::Closed => "the server is stopping: send this batch again".to_owned(),
        why => {
            format!("the journal cannot be written: {why}; nothing of this batch was accepted, send it again")
        }
    })
}
