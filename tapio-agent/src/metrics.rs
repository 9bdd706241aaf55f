//! Every self-metric, one documented line each. Label sets are closed: no label carries an address or a name
//! that comes from outside.

use std::fmt::Write as _;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
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
