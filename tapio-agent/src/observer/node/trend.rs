//! Whether something grows towards a limit, and when it will be there.
//!
//! The slope is the median of the slopes between all pairs of looks (Theil and Sen), which up to 29 % of stray looks do
//! not move. It is believed under these conditions:
//! - only growth counts that goes beyond where it has been before: a heap that is collected comes back to the same
//!   height, and its rise is no leak;
//! - at most half as much is left as it has grown, so that a short rise predicts a short time only;
//! - it is steady: most pairs rise, and it does not slow down, as what fills up to some size does.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize, Serializer};

/// Looks that are kept of a series.
const MAX_LOOKS: usize = 128;
/// Fewer looks, or a shorter time, say nothing.
const LEAST_LOOKS: usize = 6;
const LEAST_NS: u64 = 30 * SECOND;
/// Looks of the first series are at least this far apart, so that it goes back five minutes.
const FINE_NS: u64 = 2_500_000_000;
/// Looks of the second series are this far apart, so that it goes back an hour and more.
const COARSE_NS: u64 = 30 * SECOND;
/// How far back growth is looked for, seconds. Up to [`MAX_FINE_S`] in the first series.
const WINDOWS_S: [u64; 15] = [30, 45, 60, 90, 120, 180, 240, 300, 450, 600, 900, 1350, 1800, 2700, 3600];
const MAX_FINE_S: u64 = 300;
/// A fall by this part of the limit, or this part of what it rose by, ends a rise.
const FALL_OF_LIMIT: u64 = 20;
const FALL_OF_RISE: u64 = 3;
/// A limit that moves by no more than this part of it is the same one: how much swap there is changes with what others use.
const MOVE_OF_LIMIT: u64 = 16;
/// Less than this part of the limit is noise.
const NOISE_OF_LIMIT: u64 = 256;
const SECOND: u64 = 1_000_000_000;

/// What one series of looks shows.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Trend {
    limit: u64,
    #[serde(skip)]
    last: Option<Look>,
    /// The latest looks of this rise, which are soon there again.
    #[serde(skip)]
    fine: VecDeque<Look>,
    /// Looks of this rise that go further back.
    coarse: VecDeque<Look>,
    /// The lowest and the highest of this rise.
    low: u64,
    high: u64,
    /// The highest of all rises before it.
    peak: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "(u64, u64)", from = "(u64, u64)")]
struct Look {
    at_ns: u64,
    value: u64,
}

impl From<Look> for (u64, u64) {
    fn from(look: Look) -> Self {
        (look.at_ns, look.value)
    }
}

impl From<(u64, u64)> for Look {
    fn from((at_ns, value): (u64, u64)) -> Self {
        Self { at_ns, value }
    }
}

/// Keeps a trend for the next agent: without looks, which are many, where nothing has risen.
pub(super) fn keep<S: Serializer>(trend: &Trend, to: S) -> Result<S::Ok, S::Error> {
    let Trend { limit, low, high, peak, .. } = *trend;
    let has_risen = high.saturating_sub(low) > limit / NOISE_OF_LIMIT;
    let coarse = if has_risen { trend.coarse.clone() } else { VecDeque::new() };
    Trend { limit, low, high, peak, coarse, ..Trend::default() }.serialize(to)
}

/// It will reach the limit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Forecast {
    /// In so many seconds.
    pub(super) left_s: u64,
    /// Growing by so much a minute.
    pub(super) per_minute: u64,
    /// As it has over so many seconds.
    pub(super) window_s: u64,
    /// How steady the growth is, from 0 to 1.
    pub(super) confidence: f64,
}

impl Trend {
    /// Takes a look in; true if that ended a rise. Another limit begins anew.
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
        let look = Look { at_ns, value };
        self.last = Some(look);
        push(&mut self.fine, look, FINE_NS);
        push(&mut self.coarse, look, COARSE_NS);
        fell
    }

    /// The steadiest growth that is fit to be reported.
    pub(super) fn forecast(&self, limit: u64) -> Option<Forecast> {
        let last = self.last?;
        let left = limit.saturating_sub(last.value);
        // Nearly all there is ends here, at no cost.
        if left > self.high.saturating_sub(self.low) / 2 {
            return None;
        }
        let of_window = |seconds: &u64| {
            let series = if *seconds <= MAX_FINE_S { &self.fine } else { &self.coarse };
            let from_ns = last.at_ns.saturating_sub(seconds * SECOND);
            // One that is not filled yet is all there is of this rise.
            let mut looks: Vec<Look> = series.iter().filter(|look| look.at_ns >= from_ns).copied().collect();
            if looks.last().is_none_or(|look| look.at_ns < last.at_ns) {
                looks.push(last);
            }
            self.fit(&looks, left)
        };
        WINDOWS_S.iter().filter_map(of_window).max_by(|a, b| a.confidence.total_cmp(&b.confidence))
    }

    fn fit(&self, looks: &[Look], left: u64) -> Option<Forecast> {
        let (first, last) = (looks.first()?, looks.last()?);
        let window_ns = last.at_ns.saturating_sub(first.at_ns);
        let grown = last.value.saturating_sub(first.value.max(self.peak.unwrap_or(0)));
        if left > grown / 2 || looks.len() < LEAST_LOOKS || window_ns < LEAST_NS {
            return None;
        }
        let (slope, steady) = slope(looks)?;
        let (latest, _) = slope_of_half(looks)?;
        if slope <= 0.0 || latest <= 0.0 {
            return None;
        }
        // The slower of the two: what slows down may never be there.
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

fn push(series: &mut VecDeque<Look>, look: Look, apart_ns: u64) {
    if series.back().is_some_and(|last| look.at_ns.saturating_sub(last.at_ns) < apart_ns) {
        return;
    }
    if series.len() == MAX_LOOKS {
        series.pop_front();
    }
    series.push_back(look);
}

fn slope_of_half(looks: &[Look]) -> Option<(f64, f64)> {
    slope(looks.get(looks.len() / 2..)?)
}

/// The median slope of all pairs, and by how much more pairs rise than fall, of all.
fn slope(looks: &[Look]) -> Option<(f64, f64)> {
    let pairs = looks
        .iter()
        .enumerate()
        .flat_map(|(at, a)| looks.get(at + 1..).unwrap_or_default().iter().map(move |b| (a, b)));
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
