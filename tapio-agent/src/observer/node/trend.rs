//! Predicts whether a value that grows will reach its limit, and when.
//!
//! The slope is the median of the slopes between all pairs of samples (Theil-Sen estimator), which up to 29 %
//! of outliers do not affect. It is used under these conditions:
//! - growth counts only beyond the highest earlier value: a garbage-collected heap returns to the same height, and its
//!   rise is no leak;
//! - the remaining room is at most half of the growth, so that a short rise predicts only a short time;
//! - the growth is steady: most pairs rise, and it does not slow down as a cache does that fills up to its size.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize, Serializer};

/// The most samples kept per series.
const MAX_SAMPLES: usize = 128;
/// With fewer samples, or over a shorter time, there is no forecast.
const LEAST_SAMPLES: usize = 6;
const LEAST_NS: u64 = 30 * SECOND;
/// The least distance of samples in the fine series, which thus covers five minutes.
const FINE_NS: u64 = 2_500_000_000;
/// The distance of samples in the coarse series, which thus covers an hour and more.
const COARSE_NS: u64 = 30 * SECOND;
/// The windows in which growth is searched, seconds. Those up to [`MAX_FINE_S`] use the fine series.
const WINDOWS_S: [u64; 15] = [30, 45, 60, 90, 120, 180, 240, 300, 450, 600, 900, 1350, 1800, 2700, 3600];
const MAX_FINE_S: u64 = 300;
/// A fall by 1/20 of the limit, or by 1/3 of the rise, ends a rise.
const FALL_OF_LIMIT: u64 = 20;
const FALL_OF_RISE: u64 = 3;
/// A limit that changes by at most this part of it counts as the same: the available swap changes with what
/// others use.
const MOVE_OF_LIMIT: u64 = 16;
/// A smaller part of the limit is noise.
const NOISE_OF_LIMIT: u64 = 256;
const SECOND: u64 = 1_000_000_000;

/// The state of one series of samples.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Trend {
    limit: u64,
    #[serde(skip)]
    last: Option<Sample>,
    /// The latest samples of this rise. Not stored, because they are soon collected again.
    #[serde(skip)]
    fine: VecDeque<Sample>,
    /// Samples of this rise that go further back.
    coarse: VecDeque<Sample>,
    /// The lowest and the highest value of this rise.
    low: u64,
    high: u64,
    /// The highest value of all earlier rises.
    peak: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "(u64, u64)", from = "(u64, u64)")]
struct Sample {
    at_ns: u64,
    value: u64,
}

impl From<Sample> for (u64, u64) {
    fn from(sample: Sample) -> Self {
        (sample.at_ns, sample.value)
    }
}

impl From<(u64, u64)> for Sample {
    fn from((at_ns, value): (u64, u64)) -> Self {
        Self { at_ns, value }
    }
}

/// Stores a trend for the next agent. Without a rise its samples are left out, because there are many.
pub(super) fn keep<S: Serializer>(trend: &Trend, to: S) -> Result<S::Ok, S::Error> {
    let Trend { limit, low, high, peak, .. } = *trend;
    let has_risen = high.saturating_sub(low) > limit / NOISE_OF_LIMIT;
    let coarse = if has_risen { trend.coarse.clone() } else { VecDeque::new() };
    Trend { limit, low, high, peak, coarse, ..Trend::default() }.serialize(to)
}

/// A forecast that the value will reach the limit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Forecast {
    /// Seconds until then.
    pub(super) left_s: u64,
    /// Growth per minute.
    pub(super) per_minute: u64,
    /// Seconds over which it has grown like this.
    pub(super) window_s: u64,
    /// How steady the growth is, from 0 to 1.
    pub(super) confidence: f64,
}

impl Trend {
    /// Adds a sample. True if it ended a rise. With another limit the trend starts over.
    pub(super) fn add(&mut self, at_ns: u64, value: u64, limit: u64) -> bool {
        if self.limit.abs_diff(limit) > limit / MOVE_OF_LIMIT {
            *self = Self { low: value, high: value, ..Self::default() };
        }
        self.limit = limit;
        let rise = self.high.saturating_sub(self.low);
        let fall = self.high.saturating_sub(value);
        let fell =
            fall > limit / NOISE_OF_LIMIT && (fall > limit / FALL_OF_LIMIT || fall > rise / FALL_OF_RISE);
        if fell {
            self.peak = self.peak.max(Some(self.high));
            self.fine.clear();
            self.coarse.clear();
            (self.low, self.high) = (value, value);
        }
        (self.low, self.high) = (self.low.min(value), self.high.max(value));
        let sample = Sample { at_ns, value };
        self.last = Some(sample);
        push(&mut self.fine, sample, FINE_NS);
        push(&mut self.coarse, sample, COARSE_NS);
        fell
    }

    /// The forecast with the steadiest growth, if any may be reported.
    pub(super) fn forecast(&self, limit: u64) -> Option<Forecast> {
        let last = self.last?;
        let left = limit.saturating_sub(last.value);
        // Nearly all series end here, at no cost.
        if left > self.high.saturating_sub(self.low) / 2 {
            return None;
        }
        let of_window = |seconds: &u64| {
            let series = if *seconds <= MAX_FINE_S { &self.fine } else { &self.coarse };
            let from_ns = last.at_ns.saturating_sub(seconds * SECOND);
            // If a series is not full yet, it contains all of this rise.
            let mut samples: Vec<Sample> =
                series.iter().filter(|sample| sample.at_ns >= from_ns).copied().collect();
            if samples.last().is_none_or(|sample| sample.at_ns < last.at_ns) {
                samples.push(last);
            }
            self.fit(&samples, left)
        };
        WINDOWS_S.iter().filter_map(of_window).max_by(|a, b| a.confidence.total_cmp(&b.confidence))
    }

    fn fit(&self, samples: &[Sample], left: u64) -> Option<Forecast> {
        let (first, last) = (samples.first()?, samples.last()?);
        let window_ns = last.at_ns.saturating_sub(first.at_ns);
        let grown = last.value.saturating_sub(first.value.max(self.peak.unwrap_or(0)));
        if left > grown / 2 || samples.len() < LEAST_SAMPLES || window_ns < LEAST_NS {
            return None;
        }
        let (slope, steady) = slope(samples)?;
        let (latest, _) = slope_of_half(samples)?;
        if slope <= 0.0 || latest <= 0.0 {
            return None;
        }
        // Take the slower of the two: growth that slows down may never reach the limit.
        let per_ns = slope.min(latest);
        let confidence = steady * (latest / slope).clamp(0.0, 1.0);
        Some(Forecast {
            left_s: (left as f64 / per_ns / SECOND as f64).round() as u64,
            per_minute: (per_ns * 60.0 * SECOND as f64).round() as u64,
            window_s: window_ns / SECOND,
            confidence,
        })
    }
}

fn push(series: &mut VecDeque<Sample>, sample: Sample, apart_ns: u64) {
    if series.back().is_some_and(|last| sample.at_ns.saturating_sub(last.at_ns) < apart_ns) {
        return;
    }
    if series.len() == MAX_SAMPLES {
        series.pop_front();
    }
    series.push_back(sample);
}

fn slope_of_half(samples: &[Sample]) -> Option<(f64, f64)> {
    slope(samples.get(samples.len() / 2..)?)
}

/// The median slope of all pairs; and the excess of rising over falling pairs, as a share of all.
fn slope(samples: &[Sample]) -> Option<(f64, f64)> {
    let pairs = samples
        .iter()
        .enumerate()
        .flat_map(|(at, a)| samples.get(at + 1..).unwrap_or_default().iter().map(move |b| (a, b)));
    let mut slopes: Vec<f64> = pairs
        .filter(|(a, b)| b.at_ns > a.at_ns)
        .map(|(a, b)| (b.value as f64 - a.value as f64) / (b.at_ns - a.at_ns) as f64)
        .collect();
    let signs: f64 = slopes.iter().map(|slope| if *slope == 0.0 { 0.0 } else { slope.signum() }).sum();
    let steady = (signs / slopes.len().max(1) as f64).max(0.0);
    let middle = slopes.len() / 2;
    slopes.sort_by(f64::total_cmp);
    slopes.get(middle).map(|slope| (*slope, steady))
}

#[cfg(test)]
mod tests;
