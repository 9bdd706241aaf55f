//! Histograms of the durations of calls: what was added to each since the last time.

use std::collections::HashMap;

use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, HistogramDataPoint};
use tapio_occurrence::signal::Side;

use super::spans::Operation;

/// Most streams of points at once.
const MAX_STREAMS: usize = 65_536;
/// A stream without points is let go after this time.
const KEPT_NS: u64 = 1_800_000_000_000;
/// Most buckets of a point.
const MAX_BUCKETS: usize = 256;

/// The metrics that are used: whose view, the class of operations, and how many microseconds its unit has.
const METRICS: &[(&str, Side, Operation, f64)] = &[
    ("http.server.request.duration", Side::Server, Operation::Http, 1e6),
    ("http.client.request.duration", Side::Client, Operation::Http, 1e6),
    ("http.server.duration", Side::Server, Operation::Http, 1e3),
    ("http.client.duration", Side::Client, Operation::Http, 1e3),
    ("rpc.server.call.duration", Side::Server, Operation::Rpc, 1e6),
    ("rpc.client.call.duration", Side::Client, Operation::Rpc, 1e6),
    ("rpc.server.duration", Side::Server, Operation::Rpc, 1e3),
    ("rpc.client.duration", Side::Client, Operation::Rpc, 1e3),
];

/// What a metric is about; `None` if it is not used.
pub(super) fn metric(name: &str) -> Option<(Side, Operation, f64)> {
    METRICS
        .iter()
        .find(|(known, ..)| *known == name)
        .map(|(_, side, operation, unit)| (*side, *operation, *unit))
}

/// What was added to a stream.
#[derive(Debug, PartialEq)]
pub(super) enum Added {
    /// Durations with numbers of calls.
    Calls(Vec<(f64, u64)>),
    /// It is the first point of a cumulative stream: how much is new is not known.
    First,
    /// Its buckets are not valid, or too many.
    Buckets,
    /// There are too many streams.
    Full,
}

#[derive(Debug)]
struct Stream {
    start_ns: u64,
    counts: Vec<u64>,
    last_ns: u64,
}

/// Streams of cumulative points.
#[derive(Debug, Default)]
pub(super) struct Streams(HashMap<u128, Stream>);

impl Streams {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What a point adds to its stream.
    pub(super) fn add(
        &mut self,
        stream: u128,
        point: &HistogramDataPoint,
        temporality: i32,
        now_ns: u64,
    ) -> Added {
        let (counts, bounds) = (&point.bucket_counts, &point.explicit_bounds);
        let is_valid = counts.len() == bounds.len() + 1
            && bounds.is_sorted()
            && bounds.iter().all(|bound| bound.is_finite());
        if !is_valid || counts.len() > MAX_BUCKETS {
            return Added::Buckets;
        }
        let new: Vec<u64> = if temporality == AggregationTemporality::Delta as i32 {
            counts.clone()
        } else {
            let start_ns = point.start_time_unix_nano;
            let next = Stream { start_ns, counts: counts.clone(), last_ns: now_ns };
            let is_full = self.0.len() >= MAX_STREAMS;
            let Some(known) = self.0.get_mut(&stream) else {
                if is_full {
                    return Added::Full;
                }
                self.0.insert(stream, next);
                return Added::First;
            };
            let before = std::mem::replace(known, next);
            let is_same = before.start_ns == start_ns && before.counts.len() == counts.len();
            let grown: Option<Vec<u64>> =
                counts.iter().zip(&before.counts).map(|(now, was)| now.checked_sub(*was)).collect();
            match grown.filter(|_| is_same) {
                Some(grown) => grown,
                // A process that began since the last point has counted from nothing.
                None if start_ns > before.start_ns => counts.clone(),
                None => return Added::First,
            }
        };
        let middle = |bucket: usize| match (
            bucket.checked_sub(1).and_then(|below| bounds.get(below)),
            bounds.get(bucket),
        ) {
            (Some(from), Some(to)) => f64::midpoint(*from, *to),
            (None, Some(to)) => to / 2.0,
            (Some(from), None) => *from,
            (None, None) => point.sum.unwrap_or_default() / point.count.max(1) as f64,
        };
        let calls = new.into_iter().enumerate().filter(|(_, count)| *count > 0);
        Added::Calls(calls.map(|(bucket, count)| (middle(bucket), count)).collect())
    }

    pub(super) fn expire(&mut self, now_ns: u64) {
        self.0.retain(|_, stream| stream.last_ns.saturating_add(KEPT_NS) > now_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(start_ns: u64, counts: &[u64]) -> HistogramDataPoint {
        let bounds = vec![0.1, 1.0];
        HistogramDataPoint {
            start_time_unix_nano: start_ns,
            bucket_counts: counts.to_vec(),
            explicit_bounds: bounds,
            ..HistogramDataPoint::default()
        }
    }

    #[test]
    fn what_is_new() {
        let cumulative = AggregationTemporality::Cumulative as i32;
        let mut streams = Streams::default();
        let mut add = |start_ns, counts: &[u64]| streams.add(1, &point(start_ns, counts), cumulative, 1);
        assert_eq!(add(5, &[9, 9, 9]), Added::First);
        assert_eq!(add(5, &[10, 9, 12]), Added::Calls(vec![(0.05, 1), (1.0, 3)]));
        assert_eq!(add(5, &[10, 9, 12]), Added::Calls(Vec::new()));
        // It was restarted.
        assert_eq!(add(7, &[2, 0, 0]), Added::Calls(vec![(0.05, 2)]));
        // It goes back without a restart.
        assert_eq!(add(7, &[1, 0, 0]), Added::First);
        assert_eq!(add(7, &[1, 1]), Added::Buckets);
        let delta = AggregationTemporality::Delta as i32;
        assert_eq!(streams.add(1, &point(5, &[0, 4, 0]), delta, 1), Added::Calls(vec![(0.55, 4)]));
        streams.expire(2 + KEPT_NS);
        assert_eq!(streams.len(), 0);
    }

    #[test]
    fn names_that_are_used() {
        assert!(metric("http.server.request.duration").is_some() && metric("jvm.memory.used").is_none());
    }
}
