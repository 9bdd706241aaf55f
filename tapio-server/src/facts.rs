//! How a role of this process hands over facts.

use std::future::{Future, pending};

use tapio_occurrence::{Occurrence, event::event};

use crate::journal::{Journal, Outcome};

/// A place for facts.
pub trait Facts: Send + Sync + 'static {
    /// Hands over facts, and waits until they are durable. Facts that it has already are not kept twice. One that can
    /// never be stored is logged and counted as refused, and does not stop the others.
    ///
    /// # Errors
    /// Not all of them are durable: the same facts have to be handed over again, later.
    fn accept(&mut self, facts: Vec<Occurrence>) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Completes when what exists has to be reported again. It may be cancelled.
    fn begins(&mut self) -> impl Future<Output = ()> + Send {
        pending()
    }
}

/// Facts that are given to the journal at once.
const CHUNK: usize = 1_024;

impl Facts for Journal {
    async fn accept(&mut self, facts: Vec<Occurrence>) -> anyhow::Result<()> {
        for chunk in facts.chunks(CHUNK) {
            let events: Vec<_> = chunk.iter().map(event).collect();
            let outcomes = self.append(&events).await?;
            for (event, outcome) in events.iter().zip(outcomes) {
                if let Outcome::Refused(why) = outcome {
                    tracing::error!(id = event.id, kind = event.event_type, %why, "the journal cannot take a fact");
                }
            }
        }
        Ok(())
    }
}
