//! Durations of calls in buckets that grow by the square root of two.

use std::time::Duration;

/// From 1 us to an hour and more.
const BUCKETS: usize = 64;

/// Number of calls by duration.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    counts: [u32; BUCKETS],
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], total: 0 }
    }
}

impl Histogram {
    pub(super) fn add(&mut self, us: u64, count: u64) {
        let bucket = bucket(us);
        if let Some(known) = self.counts.get_mut(bucket) {
            *known = known.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        }
        self.total = self.total.saturating_add(count);
    }

    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (known, more) in self.counts.iter_mut().zip(other.counts) {
            *known = known.saturating_add(more);
        }
        self.total = self.total.saturating_add(other.total);
    }

    /// The 90th percentile in microseconds, interpolated within its bucket; `None` without calls.
    pub(super) fn p90_us(&self) -> Option<u64> {
        let sum: u64 = self.counts.iter().copied().map(u64::from).sum();
        let mut left = sum as f64 * 0.9;
        for (bucket, count) in self.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0) {
            if f64::from(count) >= left {
                let (from, to) = (edge_us(bucket), edge_us(bucket + 1));
                return Some((from + (to - from) * left / f64::from(count)) as u64);
            }
            left -= f64::from(count);
        }
        None
    }
}

/// The lower edge of a bucket, in microseconds.
fn edge_us(bucket: usize) -> f64 {
    if bucket == 0 { 0.0 } else { (bucket as f64 / 2.0).exp2() }
}

fn bucket(us: u64) -> usize {
    if us < 2 {
        return us.min(1) as usize;
    }
    let log = 2 * us.ilog2() as usize;
    // Whether it is beyond the square root of two of its power: us^2 >= 2^(2 * ilog2 + 1).
    let is_upper = u128::from(us) * u128::from(us) >= 1 << (log + 1);
    (log + usize::from(is_upper)).min(BUCKETS - 1)
}

/// A duration in microseconds.
pub(super) fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_percentile_is_within_its_bucket(mut all in prop::collection::vec(1_u64..4_000_000_000, 1..200)) {
            let mut histogram = Histogram::default();
            all.iter().for_each(|us| histogram.add(*us, 1));
            all.sort_unstable();
            let at = (all.len() * 9).div_ceil(10) - 1;
            let (exact, found) = (all[at] as f64, histogram.p90_us().unwrap() as f64);
            prop_assert!(found <= exact * 1.42 + 1.0 && exact <= found * 1.42 + 1.0, "{found} {exact}");
        }
    }

    #[test]
    fn edges() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.p90_us(), None);
        for us in [0, 1, u64::MAX] {
            histogram.add(us, u64::MAX);
        }
        assert!(histogram.p90_us().unwrap() > 1 << 31);
        assert_eq!(us(Duration::from_millis(2)), 2_000);
    }
}
