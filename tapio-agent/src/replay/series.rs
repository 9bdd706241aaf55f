//! One series of a replay: its baseline, and the scale from decimals to the baseline's integers.

use serde::Serialize;
use tapio_common::baseline::{Baseline, Limits, Verdict};

use super::Options;

/// The first value of a series is scaled to a number of this many bits: that leaves 16 bits of room above it,
/// and steps of 1/2^32 of it. Scaling by a power of two changes no verdict.
const FIRST_BITS: i32 = 32;
/// A mean outside this range of bits leaves too little room or too few steps. The series is then learned
/// again with a scale that fits.
const USEFUL: std::ops::Range<u64> = 1 << 12..1 << 46;

/// The baseline of one key.
#[derive(Default)]
pub(super) struct Series {
    baseline: Baseline,
    /// Set by the first value that is not zero; zeros need no scale.
    scale: Option<Scale>,
    since: u64,
}

/// The baseline before a row, in the unit of the file.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Known {
    mean: f64,
    deviation: f64,
    samples: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
}

struct Scale {
    factor: f64,
    limits: Limits,
}

impl Series {
    pub(super) fn observe(&mut self, value: f64, row: u64, options: &Options) -> Verdict {
        if value != 0.0 && self.scale.is_none() {
            self.scale = Some(Scale::of(value, options));
        }
        let Some(scale) = &self.scale else {
            return self.baseline.observe(0, row, &options.limits(1.0));
        };
        // A float too large for the integer becomes the largest integer.
        let verdict = self.baseline.observe((value * scale.factor).round() as u64, row, &scale.limits);
        self.since = self.baseline.since(row);
        let mean = self.baseline.mean();
        if mean != 0 && !USEFUL.contains(&mean) {
            self.baseline = Baseline::default();
            self.scale = None;
        }
        verdict
    }

    /// The baseline, and how `value` compares with it; `None` before the first sample.
    pub(super) fn known(&self, value: f64) -> Option<Known> {
        let factor = self.scale.as_ref().map_or(1.0, |scale| scale.factor);
        let mean = self.baseline.mean() as f64 / factor;
        (self.baseline.samples() > 0).then(|| Known {
            mean,
            deviation: self.baseline.deviation() as f64 / factor,
            samples: self.baseline.samples(),
            ratio: (mean > 0.0).then_some(value / mean).filter(|ratio| ratio.is_finite()),
        })
    }

    /// The row where the latest run began.
    pub(super) fn since(&self) -> u64 {
        self.since
    }
}

impl Scale {
    fn of(value: f64, options: &Options) -> Self {
        // Within ±1000, neither 2^n nor 2^-n is infinite or zero.
        let exponent = (FIRST_BITS - 1 - value.log2().floor() as i32).clamp(-1_000, 1_000);
        let factor = 2_f64.powi(exponent);
        Self { factor, limits: options.limits(factor) }
    }
}

impl Known {
    /// Rounds to significant digits.
    pub(super) fn rounded(self) -> Self {
        Self {
            mean: significant(self.mean),
            deviation: significant(self.deviation),
            ratio: self.ratio.map(significant),
            ..self
        }
    }
}

/// Rounds to six significant digits.
fn significant(number: f64) -> f64 {
    format!("{number:.5e}").parse().unwrap_or(number)
}
