//! Metrics of the sinks. Label sets are closed: no label carries an address or a name from outside.

use std::sync::Arc;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tapio_service::metrics::{gauge, metrics, set};

use crate::{State, Status};

metrics! {
    /// The counters and gauges of all sinks. There is one instance, shared by reference.
    pub struct Metrics {
        dropped: Family<Drop, Counter> = "What was lost, by hop and reason",
        sink_state: Family<StateOfSink, Gauge> = "1 for the state that a sink is in",
        sink_received: Family<OfSink, Counter> = "Occurrences given to a sink",
        sink_recovered: Family<OfSink, Counter> = "Occurrences that an earlier run left in a sink's spool",
        sink_sent: Family<OfSink, Counter> = "Occurrences that a sink took",
        sink_retried: Family<OfSink, Counter> = "Batches sent again",
        sink_rejected: Family<OfSink, Counter> = "Occurrences that a sink refused for good",
        sink_in_flight: Family<OfSink, Gauge> = "Occurrences on the way without an answer",
        sink_queued: Family<OfSink, Gauge> = "Occurrences in memory alone, on the way or waiting",
        spool_records: Family<OfSink, Gauge> = "Occurrences in a sink's spool",
        spool_bytes: Family<OfSink, Gauge> = "Room that they take on disk, about",
        spool_failures: Family<OfSink, Counter> = "Times that a sink's spool could not be read or written",
        spool_quarantined: Family<OfSink, Counter> = "Damaged spools that were quarantined",
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Drop {
    hop: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfSink {
    sink: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateOfSink {
    sink: &'static str,
    state: &'static str,
}

/// Why sinks drop occurrences.
const SINK_REASONS: [&str; 8] = [
    "queue_full",
    "unacknowledged",
    "closed",
    "shutdown",
    "spool_full",
    "spool_damaged",
    "spool_malformed",
    "spool_lost",
];

impl Metrics {
    /// Creates the series of possible failures with 0. If a series appeared only with its first loss,
    /// Prometheus would see no increase.
    pub fn begin(&self, sinks: &[&'static str]) {
        for sink in sinks {
            for reason in SINK_REASONS {
                self.dropped(sink, reason, 0);
            }
            for counter in
                [&self.spool_failures, &self.spool_quarantined, &self.sink_recovered, &self.sink_retried]
            {
                counter.get_or_create(&OfSink { sink }).inc_by(0);
            }
            self.sent(sink, 0);
            self.rejected(sink, 0);
        }
    }

    /// Counts `count` lost occurrences or anomalies. `hop` is `ring`, `record`, `enrich` or a sink's name.
    pub fn dropped(&self, hop: &'static str, reason: &'static str, count: u64) {
        self.dropped.get_or_create(&Drop { hop, reason }).inc_by(count);
    }

    /// Sets the total of losses that are counted elsewhere.
    pub fn dropped_in_all(&self, hop: &'static str, reason: &'static str, count: u64) {
        set(&self.dropped.get_or_create(&Drop { hop, reason }), count);
    }

    /// Number of losses so far.
    #[must_use]
    pub fn dropped_so_far(&self, hop: &'static str, reason: &'static str) -> u64 {
        self.dropped.get_or_create(&Drop { hop, reason }).get()
    }

    /// Sets everything to the state and the accounts of a sink that is driven from outside of this crate.
    pub fn set(&self, status: &Status) {
        self.sink(status);
        let sink = OfSink { sink: status.sink };
        set(&self.sink_sent.get_or_create(&sink), status.ledger.sent);
        set(&self.sink_rejected.get_or_create(&sink), status.ledger.rejected);
        for (reason, count) in &status.ledger.dropped {
            self.dropped_in_all(status.sink, reason, *count);
        }
    }

    /// Sets the gauges to the state and the accounts of a sink.
    pub(crate) fn sink(&self, Status { sink, state, ledger, spool, .. }: &Status) {
        for label in State::LABELS {
            let labels = StateOfSink { sink, state: label };
            self.sink_state.get_or_create(&labels).set(i64::from(label == state.label()));
        }
        let sink = OfSink { sink };
        set(&self.sink_received.get_or_create(&sink), ledger.received);
        self.sink_in_flight.get_or_create(&sink).set(gauge(ledger.in_flight));
        self.sink_queued.get_or_create(&sink).set(gauge(ledger.queued));
        if let Some(spool) = spool {
            self.spool_records.get_or_create(&sink).set(gauge(spool.records));
            self.spool_bytes.get_or_create(&sink).set(gauge(spool.bytes));
        }
    }

    /// Counts `count` occurrences that an earlier run left in a sink's spool.
    pub(crate) fn recovered(&self, sink: &'static str, count: u64) {
        self.sink_recovered.get_or_create(&OfSink { sink }).inc_by(count);
    }

    /// Counts a failure to read or write a sink's spool.
    pub(crate) fn spool_failed(&self, sink: &'static str) {
        self.spool_failures.get_or_create(&OfSink { sink }).inc();
    }

    /// Counts a damaged spool that was quarantined.
    pub(crate) fn spool_quarantined(&self, sink: &'static str) {
        self.spool_quarantined.get_or_create(&OfSink { sink }).inc();
    }

    /// Counts `count` occurrences that a sink's destination accepted.
    pub(crate) fn sent(&self, sink: &'static str, count: u64) {
        self.sink_sent.get_or_create(&OfSink { sink }).inc_by(count);
    }

    /// Counts a batch that is sent again.
    pub(crate) fn retried(&self, sink: &'static str) {
        self.sink_retried.get_or_create(&OfSink { sink }).inc();
    }

    /// Counts `count` occurrences that a sink's destination refused for good.
    pub(crate) fn rejected(&self, sink: &'static str, count: u64) {
        self.sink_rejected.get_or_create(&OfSink { sink }).inc_by(count);
    }
}

impl Metrics {
    /// The metrics of a program without others, and the registry to render them from.
    #[must_use]
    pub fn alone() -> (Registry, Arc<Self>) {
        let mut registry = Registry::with_prefix("tapio");
        let metrics = Self::registered(&mut registry);
        (registry, Arc::new(metrics))
    }
}

/// For programs that expose no metrics.
impl Default for Metrics {
    fn default() -> Self {
        Self::registered(&mut Registry::default())
    }
}
