//! Takes metrics: histograms of the durations of calls.

use std::{
    hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    metrics::v1::{HistogramDataPoint, Metric, ResourceMetrics, metric::Data},
};
use tapio_occurrence::signal::Side;

use super::{
    Key, Origin, Signals, Taken,
    entity::{self, Sender, Unfit},
    histogram::us,
    points::{self, Added},
    series::Call,
    spans::{self, Operation},
    traces::{SpanId, TraceId},
};

impl Signals {
    /// Takes metrics.
    pub(in crate::polku) fn metrics(&mut self, all: &[ResourceMetrics], now_ns: u64, taken: &mut Taken) {
        for part in all {
            let metrics = || part.scope_metrics.iter().flat_map(|scope| &scope.metrics);
            let count = metrics().map(points_of).sum();
            let Some(sender) = self.sender(part.resource.as_ref(), count, now_ns, taken) else { continue };
            for metric in metrics() {
                let count = points_of(metric);
                let Some((side, operation, unit)) = points::metric(&metric.name) else {
                    taken.leave("metric", count);
                    continue;
                };
                let Some(Data::Histogram(histogram)) = &metric.data else {
                    taken.leave("form", count);
                    continue;
                };
                for point in &histogram.data_points {
                    let place = (side, operation, unit);
                    let added = self.point(
                        &sender,
                        metric,
                        point,
                        histogram.aggregation_temporality,
                        place,
                        now_ns,
                        taken,
                    );
                    if let Err(reason) = added {
                        taken.refuse(reason, 1);
                    }
                }
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a point is nothing without what it is in")]
    fn point(
        &mut self,
        sender: &Sender,
        metric: &Metric,
        point: &HistogramDataPoint,
        temporality: i32,
        (side, operation, unit): (Side, Operation, f64),
        now_ns: u64,
        taken: &mut Taken,
    ) -> Result<(), &'static str> {
        if !spans::is_now(point.time_unix_nano, now_ns) {
            return Err("time");
        }
        let stream = self.stream(sender, &metric.name, &point.attributes);
        let calls = match self.streams.add(stream, point, temporality, now_ns) {
            Added::Calls(calls) => calls,
            Added::First => {
                taken.leave("first", 1);
                return Ok(());
            }
            Added::Buckets => return Err("buckets"),
            Added::Full => return Err("streams"),
        };
        let said = spans::read(&point.attributes);
        // Only failures have it.
        let failed = said.failed || entity::text(&point.attributes, "error.type").is_some();
        let called = said.called.filter(|_| side == Side::Client);
        let peer =
            called.map(|name| self.entities.called(name, sender.namespace.as_deref(), now_ns)).transpose();
        let peer = peer.map_err(Unfit::reason)?;
        let peer = peer
            .map(|peer| self.behind.get(&(sender.id, peer)).and_then(|behind| behind.who).unwrap_or(peer));
        if let Some(peer) = peer {
            self.edge(sender.id, peer, operation, point.time_unix_nano);
        }
        let key = Key { entity: sender.id, peer, side, operation, origin: Origin::Metrics };
        let mut exemplars = point.exemplars.iter().filter_map(|exemplar| {
            let trace = TraceId::try_from(&*exemplar.trace_id).ok().filter(|id| *id != TraceId::default())?;
            Some((trace, SpanId::try_from(&*exemplar.span_id).unwrap_or_default()))
        });
        for (duration, count) in calls {
            let duration = Duration::try_from_secs_f64(duration * unit / 1e6).unwrap_or_default();
            let (pod, trace) = (sender.pod.clone(), exemplars.next());
            let call =
                Call { end_ns: point.time_unix_nano, duration_us: us(duration), failed, count, pod, trace };
            self.add(key, &call, now_ns)?;
        }
        Ok(())
    }

    /// What a stream of points is known by.
    fn stream(&self, sender: &Sender, name: &str, attributes: &[KeyValue]) -> u128 {
        let hash = |state: &RandomState| {
            // Attributes come in any order.
            let one = |pair: &KeyValue| {
                let mut hasher = state.build_hasher();
                pair.key.hash(&mut hasher);
                let value = pair.value.as_ref().map(prost::Message::encode_to_vec);
                value.hash(&mut hasher);
                hasher.finish()
            };
            let all = attributes.iter().map(one).fold(0_u64, u64::wrapping_add);
            state.hash_one((sender.id, sender.process, name, all))
        };
        self.hasher.iter().map(hash).fold(0, |bits, hash| bits << 64 | u128::from(hash))
    }
}

fn points_of(metric: &Metric) -> u64 {
    let count = match &metric.data {
        Some(Data::Gauge(gauge)) => gauge.data_points.len(),
        Some(Data::Sum(sum)) => sum.data_points.len(),
        Some(Data::Histogram(histogram)) => histogram.data_points.len(),
        Some(Data::ExponentialHistogram(histogram)) => histogram.data_points.len(),
        Some(Data::Summary(summary)) => summary.data_points.len(),
        None => 0,
    };
    count as u64
}
