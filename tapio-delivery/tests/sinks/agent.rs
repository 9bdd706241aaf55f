//! A sink as in the agent, and the occurrences sent to it.

use std::{collections::BTreeSet, fmt::Debug, sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use tapio_delivery::{Destination, Ledger, Metrics, Sinks, Status};
use tapio_occurrence::Occurrence;
use tapio_service::metrics::render;

pub(crate) struct Agent {
    pub(crate) sinks: Sinks,
    registry: Registry,
    pub(crate) ids: BTreeSet<String>,
    /// The same ids, in order.
    #[allow(dead_code, reason = "each kind of sink uses a part")]
    pub(crate) given: Vec<String>,
}

impl Agent {
    pub(crate) fn with(destination: impl Destination) -> Self {
        let (registry, metrics) = Metrics::alone();
        let mut sinks = Sinks::new(metrics, 8192);
        sinks.add(destination);
        Self { sinks, registry, ids: BTreeSet::new(), given: Vec::new() }
    }

    pub(crate) fn give(&mut self, occurrence: Occurrence) -> String {
        let id = occurrence.id.to_string();
        self.ids.insert(id.clone());
        self.given.push(id.clone());
        self.sinks.send(Arc::new(occurrence));
        id
    }

    /// The text of `/metrics`.
    #[allow(dead_code, reason = "each kind of sink uses a part")]
    pub(crate) fn metrics(&self) -> String {
        render(&self.registry).unwrap()
    }

    pub(crate) fn status(&self) -> Status {
        let status = self.sinks.status().remove(0);
        assert!(status.ledger.balanced(), "{status:?}");
        status
    }

    /// Waits until every occurrence has an outcome.
    pub(crate) async fn settled(&self) -> Ledger {
        until(|| self.status(), |status| status.ledger.queued == 0).await.ledger
    }
}

/// Waits for a condition. On failure it prints the last value.
pub(crate) async fn until<T: Debug>(mut look: impl FnMut() -> T, enough: impl Fn(&T) -> bool) -> T {
    let end = tokio::time::Instant::now() + Duration::from_secs(90);
    loop {
        let now = look();
        if enough(&now) {
            return now;
        }
        assert!(tokio::time::Instant::now() < end, "still {now:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
