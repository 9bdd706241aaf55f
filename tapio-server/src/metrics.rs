//! The server's own metrics, and its ledger. Label sets are closed: no label carries an address or a name from outside.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64, atomic::Ordering},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use serde::Serialize;
use tapio_service::metrics::{
    gauge, metrics,
    process::{self, Usage},
    render,
};

use crate::polku::{Sizes, otlp};

/// The counters and gauges. There is one instance, shared by reference.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    own: Own,
}

metrics! {
    /// All metrics of the server.
    struct Own {
        facts_received: Family<OfOrigin, Counter> = "Facts received, by where from: polku, or a role of this process",
        facts_accepted: Family<OfOrigin, Counter> = "Facts written to the journal",
        facts_repeated: Family<OfOrigin, Counter> = "Facts that the journal had already; they are acknowledged",
        facts_refused: Family<Refused, Counter> = "Facts refused for good, by reason",
        facts_unwritten: Family<OfOrigin, Counter> = "Facts that were not written, as the journal failed or closed; senders keep them",
        facts_opaque: Family<OfOrigin, Counter> = "Facts received that are not occurrences of a known form; they are accepted, too",
        journal_facts: Gauge = "Facts in the journal",
        journal_bytes: Gauge = "Approximate space on disk that they take",
        journal_expired: Family<OfLimit, Counter> = "Facts removed from the journal, by the limit that they exceeded",
        journal_commits: Counter = "Transactions of the journal; one has many facts",
        journal_failures: Counter = "Transactions of the journal that failed",
        journal_malformed: Counter = "Facts in the journal that could not be read",
        polku_streams: Gauge = "Open streams of agents",
        polku_connections: Gauge = "Open connections to the gateway",
        polku_waiting_bytes: Gauge = "Size of received events that wait to be written",
        polku_turned_away: Family<OfReason, Counter> = "Connections and calls turned away, by reason",
        polku_agents: Gauge = "Senders in the table of agents",
        otlp_received: Family<OfPart, Counter> = "Spans, metric points and log records received by OTLP",
        otlp_refused: Family<OfReason, Counter> = "Spans, points and records refused for good, by reason; senders get a partial success",
        otlp_unused: Family<OfReason, Counter> = "Spans, points and records that signals do not need, by reason",
        otlp_unreadable: Counter = "Requests by OTLP that are not valid, or too large",
        otlp_evicted: Counter = "Traces, calls and edges that were let go since there were too many",
        otlp_signals_dropped: Counter = "Signals that were let go as the journal could not be written for too long",
        otlp_entities: Gauge = "Services, workloads and addresses that calls are counted of",
        otlp_series: Gauge = "Sorts of calls with a baseline",
        otlp_traces: Gauge = "Traces of the last seconds that are waited for",
        otlp_streams: Gauge = "Streams of metric points of which the last value is known",
        otlp_edges: Gauge = "Pairs of who calls whom",
        process_cpu_seconds: Counter<f64, AtomicU64> = "CPU time of the server",
        process_resident_memory_bytes: Gauge = "Resident memory of the server",
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfOrigin {
    origin: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Refused {
    origin: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfLimit {
    limit: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfReason {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfPart {
    part: &'static str,
}

/// Why facts are refused.
const REFUSALS: [&str; 6] = ["id", "time", "type", "source", "metadata", "size"];
/// Why connections and calls are turned away.
const TURNED_AWAY: [&str; 9] =
    ["accept", "acks_unread", "batch", "calls", "connections", "handshake", "raw", "streams", "token"];

/// The accounts of one origin: received = accepted + repeated + refused + unwritten + waiting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// Facts received.
    pub received: u64,
    /// Written to the journal.
    pub accepted: u64,
    /// In the journal already.
    pub repeated: u64,
    /// Refused for good, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Not written, as the journal failed or closed. They were not acknowledged, and come again.
    pub unwritten: u64,
    /// Waiting to be written. 0 once the server has stopped.
    pub waiting: u64,
    /// How many of those received are not occurrences of a known form.
    pub opaque: u64,
}

/// Facts whose outcome is not known yet. Dropped without one, they count as unwritten.
#[derive(Debug)]
pub(crate) struct Waiting {
    metrics: Arc<Metrics>,
    origin: &'static str,
    count: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("tapio");
        let own = Own::registered(&mut registry);
        for limit in ["age", "bytes"] {
            own.journal_expired.get_or_create(&OfLimit { limit }).inc_by(0);
        }
        Self { registry: Mutex::new(registry), own }
    }
}

impl Metrics {
    /// Creates the series of an origin with 0: if a series appeared only with its first event, Prometheus would see no
    /// increase.
    pub fn begin(&self, origin: &'static str) {
        for family in self.by_origin() {
            family.get_or_create(&OfOrigin { origin }).inc_by(0);
        }
        for reason in REFUSALS {
            self.own.facts_refused.get_or_create(&Refused { origin, reason }).inc_by(0);
        }
    }

    /// Registers the metrics of a role, which only a process with this role exposes.
    pub(crate) fn of_role<T>(&self, registered: impl FnOnce(&mut Registry) -> T) -> T {
        registered(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Creates the series of the gateway with 0.
    pub fn begin_gateway(&self) {
        TURNED_AWAY.into_iter().for_each(|reason| self.count_turned_away(reason, 0));
    }

    /// Creates the series of the receiver for OTLP with 0.
    pub(crate) fn begin_otlp(&self) {
        for part in otlp::PARTS {
            self.own.otlp_received.get_or_create(&OfPart { part }).inc_by(0);
        }
        let (refused, unused) = (&self.own.otlp_refused, &self.own.otlp_unused);
        let all = otlp::REFUSED.map(|reason| (refused, reason)).into_iter();
        for (family, reason) in all.chain(otlp::UNUSED.map(|reason| (unused, reason))) {
            family.get_or_create(&OfReason { reason }).inc_by(0);
        }
    }

    /// Counts what became of a request.
    pub(crate) fn otlp(
        &self,
        part: &'static str,
        received: u64,
        refused: &otlp::Reasons,
        unused: &otlp::Reasons,
    ) {
        self.own.otlp_received.get_or_create(&OfPart { part }).inc_by(received);
        for (family, reasons) in [(&self.own.otlp_refused, refused), (&self.own.otlp_unused, unused)] {
            for (reason, count) in reasons {
                family.get_or_create(&OfReason { reason }).inc_by(*count);
            }
        }
    }

    /// Counts a request that is not valid.
    pub(crate) fn otlp_unreadable(&self) {
        self.own.otlp_unreadable.inc();
    }

    /// Counts signals that were let go.
    pub(crate) fn otlp_signals_dropped(&self, count: u64) {
        self.own.otlp_signals_dropped.inc_by(count);
    }

    /// Sets how much the receiver keeps.
    pub(crate) fn otlp_sizes(&self, sizes: &Sizes) {
        self.own.otlp_entities.set(gauge(sizes.entities as u64));
        self.own.otlp_series.set(gauge(sizes.series as u64));
        self.own.otlp_traces.set(gauge(sizes.traces as u64));
        self.own.otlp_streams.set(gauge(sizes.streams as u64));
        self.own.otlp_edges.set(gauge(sizes.edges as u64));
        self.own.otlp_evicted.inc_by(sizes.evicted);
    }

    fn by_origin(&self) -> [&Family<OfOrigin, Counter>; 5] {
        let own = &self.own;
        [
            &own.facts_received,
            &own.facts_accepted,
            &own.facts_repeated,
            &own.facts_unwritten,
            &own.facts_opaque,
        ]
    }

    /// The accounts of an origin.
    #[must_use]
    pub fn ledger(&self, origin: &'static str) -> Ledger {
        let of = |family: &Family<OfOrigin, Counter>| family.get_or_create(&OfOrigin { origin }).get();
        // Outcomes are read before the total: facts counted in between add to `waiting`, which is never negative.
        let (accepted, repeated) = (of(&self.own.facts_accepted), of(&self.own.facts_repeated));
        let unwritten = of(&self.own.facts_unwritten);
        let refused = REFUSALS
            .map(|reason| (reason, self.own.facts_refused.get_or_create(&Refused { origin, reason }).get()));
        let refused: BTreeMap<_, _> = refused.into_iter().filter(|(_, count)| *count > 0).collect();
        let received = of(&self.own.facts_received);
        let done = accepted + repeated + unwritten + refused.values().sum::<u64>();
        let opaque = of(&self.own.facts_opaque);
        let waiting = received.saturating_sub(done);
        Ledger { received, accepted, repeated, refused, unwritten, waiting, opaque }
    }

    /// Counts facts that were received and refused.
    pub fn refused(&self, origin: &'static str, reason: &'static str, count: u64) {
        self.own.facts_received.get_or_create(&OfOrigin { origin }).inc_by(count);
        self.own.facts_refused.get_or_create(&Refused { origin, reason }).inc_by(count);
    }

    /// Counts facts that are not occurrences of a known form.
    pub fn opaque(&self, origin: &'static str, count: u64) {
        self.own.facts_opaque.get_or_create(&OfOrigin { origin }).inc_by(count);
    }

    /// Sets the content of the journal.
    pub(crate) fn journal(&self, facts: u64, bytes: u64) {
        self.own.journal_facts.set(gauge(facts));
        self.own.journal_bytes.set(gauge(bytes));
    }

    /// Counts facts that the journal removed because of a limit, `age` or `bytes`.
    pub(crate) fn expired(&self, limit: &'static str, count: u64) {
        self.own.journal_expired.get_or_create(&OfLimit { limit }).inc_by(count);
    }

    /// Counts a transaction of the journal.
    pub(crate) fn committed(&self) {
        self.own.journal_commits.inc();
    }

    /// Counts a transaction of the journal that failed.
    pub(crate) fn failed_to_write(&self) {
        self.own.journal_failures.inc();
    }

    /// Counts a fact in the journal that cannot be read.
    pub(crate) fn malformed(&self) {
        self.own.journal_malformed.inc();
    }

    /// Counts a connection or a call that was turned away.
    pub(crate) fn turned_away(&self, reason: &'static str) {
        self.count_turned_away(reason, 1);
    }

    fn count_turned_away(&self, reason: &'static str, count: u64) {
        self.own.polku_turned_away.get_or_create(&OfReason { reason }).inc_by(count);
    }

    /// Sets the gauges of the gateway.
    pub(crate) fn gateway(&self, streams: usize, connections: usize, waiting_bytes: u64, agents: usize) {
        self.own.polku_streams.set(gauge(streams as u64));
        self.own.polku_connections.set(gauge(connections as u64));
        self.own.polku_waiting_bytes.set(gauge(waiting_bytes));
        self.own.polku_agents.set(gauge(agents as u64));
    }

    /// Sets the resources that the server uses.
    pub(crate) fn process(&self) {
        let Usage { cpu, resident_bytes } = process::usage();
        self.own.process_cpu_seconds.inner().store(cpu.as_secs_f64().to_bits(), Ordering::Relaxed);
        if let Some(bytes) = resident_bytes {
            self.own.process_resident_memory_bytes.set(gauge(bytes));
        }
    }

    /// Renders all metrics in the text format of OpenMetrics.
    ///
    /// # Errors
    /// Never in practice, because writing to a `String` does not fail.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        render(&self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Ledger {
    /// Whether everything received has an outcome or is still here.
    #[must_use]
    pub fn balanced(&self) -> bool {
        let refused = self.refused.values().sum::<u64>();
        self.received == self.accepted + self.repeated + refused + self.unwritten + self.waiting
    }
}

impl Waiting {
    /// Counts facts as received.
    pub(crate) fn new(metrics: &Arc<Metrics>, origin: &'static str, count: u64) -> Self {
        metrics.own.facts_received.get_or_create(&OfOrigin { origin }).inc_by(count);
        Self { metrics: Arc::clone(metrics), origin, count }
    }

    /// Counts their outcomes.
    pub(crate) fn settle(mut self, accepted: u64, repeated: u64) {
        let origin = OfOrigin { origin: self.origin };
        self.metrics.own.facts_accepted.get_or_create(&origin).inc_by(accepted);
        self.metrics.own.facts_repeated.get_or_create(&origin).inc_by(repeated);
        self.count = self.count.saturating_sub(accepted + repeated);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let origin = OfOrigin { origin: self.origin };
        self.metrics.own.facts_unwritten.get_or_create(&origin).inc_by(self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_sums_and_what_nobody_settles_is_unwritten() {
        let metrics = Arc::new(Metrics::default());
        metrics.begin("polku");
        metrics.refused("polku", "id", 2);
        let first = Waiting::new(&metrics, "polku", 10);
        let second = Waiting::new(&metrics, "polku", 5);
        assert_eq!(metrics.ledger("polku").waiting, 15);
        first.settle(7, 3);
        drop(second);
        let expected = Ledger {
            received: 17,
            accepted: 7,
            repeated: 3,
            refused: [("id", 2)].into(),
            unwritten: 5,
            waiting: 0,
            opaque: 0,
        };
        assert_eq!(metrics.ledger("polku"), expected);
        assert!(expected.balanced());
    }

    #[test]
    fn each_series_is_there_from_the_start() {
        let metrics = Metrics::default();
        metrics.begin("polku");
        metrics.begin_gateway();
        metrics.begin_otlp();
        let before = metrics.render().unwrap().lines().count();
        TURNED_AWAY.into_iter().for_each(|reason| metrics.turned_away(reason));
        REFUSALS.into_iter().for_each(|reason| metrics.refused("polku", reason, 1));
        metrics.opaque("polku", 1);
        let all = |reasons: &[&'static str]| reasons.iter().map(|reason| (*reason, 1)).collect();
        for part in otlp::PARTS {
            metrics.otlp(part, 1, &all(&otlp::REFUSED), &all(&otlp::UNUSED));
        }
        ["age", "bytes"].into_iter().for_each(|limit| metrics.expired(limit, 1));
        assert_eq!(metrics.render().unwrap().lines().count(), before);
    }
}
