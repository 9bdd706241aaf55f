//! A gateway as a place for facts, for a PORTTI that has a process of its own: what it acknowledges is in its journal.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use tapio_delivery::{
    Destination as _, Verdict,
    polku::{Polku, Settings, Timings},
};
use tapio_occurrence::Occurrence;

use crate::facts::Facts;

/// A connection to a gateway, which is made when there is something to send.
pub(super) struct Gateway(Polku);

impl Gateway {
    /// `None` if none is set.
    ///
    /// # Errors
    /// A file for TLS cannot be used.
    pub(super) fn new(settings: &Settings, cluster: Option<Arc<str>>) -> anyhow::Result<Option<Self>> {
        let polku = Polku::new(settings, cluster, Timings::default());
        Ok(polku.map_err(|trouble| anyhow::anyhow!("portti.polku: {trouble}"))?.map(Self))
    }

    /// Sends the first of these. Returns how many of them have an outcome.
    async fn send(&mut self, facts: &[Arc<Occurrence>]) -> anyhow::Result<usize> {
        let Self(polku) = self;
        polku.connect().await?;
        let count = facts.len().min(polku.batching().count);
        let receipt = polku.deliver(facts.get(..count).unwrap_or(facts)).await?;
        let settled = receipt.verdicts.iter().take_while(|verdict| **verdict != Verdict::Unanswered);
        let mut sent = 0;
        for (fact, verdict) in facts.iter().zip(settled) {
            if *verdict == Verdict::Refused {
                tracing::error!(id = %fact.id, kind = &*fact.kind, "portti: the gateway refuses a fact for good");
            }
            sent += 1;
        }
        if sent == 0 {
            bail!("the gateway answers, and acknowledges nothing");
        }
        Ok(sent)
    }
}

impl Facts for Gateway {
    async fn accept(&mut self, facts: Vec<Occurrence>) -> anyhow::Result<()> {
        let facts: Vec<_> = facts.into_iter().map(Arc::new).collect();
        let mut left = facts.as_slice();
        let mut is_first = true;
        while !left.is_empty() {
            match self.send(left).await {
                Ok(sent) => left = left.get(sent..).unwrap_or_default(),
                // A stream that was lost while it was idle.
                Err(error) if is_first => tracing::debug!(%error, "portti: trying again"),
                Err(error) => return Err(error).context("the gateway of portti.polku"),
            }
            is_first = false;
        }
        Ok(())
    }
}
