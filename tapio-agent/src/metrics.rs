//! Every self-metric, one documented line each. Label sets are closed: no label carries an address or a name
//! that comes from outside.

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// The agent's counters and gauges; made once, shared by reference.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    anomalies: Family<AnomalyLabels, Counter>,
    dropped: Family<DropLabels, Counter>,
    sent: Family<SinkLabels, Counter>,
    retried: Family<SinkLabels, Counter>,
    rejected: Family<SinkLabels, Counter>,
    unattributed: Counter,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AnomalyLabels {
    observer: &'static str,
    r#type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DropLabels {
    hop: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SinkLabels {
    sink: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("tapio"),
            anomalies: Family::default(),
            dropped: Family::default(),
            sent: Family::default(),
            retried: Family::default(),
            rejected: Family::default(),
            unattributed: Counter::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("anomalies", "Anomalies judged.", metrics.anomalies.clone());
        registry.register("dropped", "What was lost, by hop and reason.", metrics.dropped.clone());
        registry.register("sink_sent", "Occurrences that a sink took.", metrics.sent.clone());
        registry.register("sink_retried", "Batches sent again.", metrics.retried.clone());
        registry.register(
            "sink_rejected",
            "Occurrences that a sink refused for good.",
            metrics.rejected.clone(),
        );
        registry.register("unattributed", "Occurrences without an owner.", metrics.unattributed.clone());
        metrics
    }
}

impl Metrics {
    /// `tapio_anomalies_total{observer,type}`
    pub fn anomalies(&self, observer: &'static str, kind: &'static str, count: u64) {
        self.anomalies.get_or_create(&AnomalyLabels { observer, r#type: kind }).inc_by(count);
    }

    /// `tapio_dropped_total{hop,reason}`: hop is `ring`, `record`, `enrich` or a sink's name.
    pub fn dropped(&self, hop: &'static str, reason: &'static str, count: u64) {
        self.dropped.get_or_create(&DropLabels { hop, reason }).inc_by(count);
    }

    /// `tapio_sink_sent_total{sink}`
    pub fn sent(&self, sink: &'static str, count: u64) {
        self.sent.get_or_create(&SinkLabels { sink }).inc_by(count);
    }

    /// `tapio_sink_retried_total{sink}`
    pub fn retried(&self, sink: &'static str) {
        self.retried.get_or_create(&SinkLabels { sink }).inc();
    }

    /// `tapio_sink_rejected_total{sink}`
    pub fn rejected(&self, sink: &'static str, count: u64) {
        self.rejected.get_or_create(&SinkLabels { sink }).inc_by(count);
    }

    /// `tapio_unattributed_total`
    pub fn unattributed(&self) {
        self.unattributed.inc();
    }

    /// All of them in the text format of OpenMetrics.
    ///
    /// # Errors
    /// Never in practice: writing to a `String` does not fail.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
