//! A value that is compared with its own past.

use serde::{Deserialize, Serialize};
use tapio_common::baseline::{self, Baseline, Verdict};
use tapio_occurrence::Normal;

use super::baseline as stored;

/// Its baseline, and for how many samples in a row it has been abnormal.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Gauge {
    #[serde(with = "stored")]
    baseline: Baseline,
    #[serde(skip)]
    over: u32,
}

/// When a value is abnormal, and for how many samples in a row it has to be.
#[derive(Debug)]
pub(super) struct Sustained {
    pub(super) limits: baseline::Limits,
    /// How many samples in a row it has to last.
    pub(super) sustain: u32,
}

impl Gauge {
    /// Judges a value. `None`: normal. `Some(None)`: abnormal, but not for long enough. Otherwise the baseline before
    /// it.
    pub(super) fn judge(&mut self, value: u64, now_ns: u64, limits: &Sustained) -> Option<Option<Baseline>> {
        let before = self.baseline;
        let verdict = self.baseline.observe(value, now_ns, &limits.limits);
        let is_over = verdict == Verdict::Spike || (verdict == Verdict::Shift && value > before.mean());
        if !is_over {
            self.over = 0;
            return None;
        }
        self.over += 1;
        let has_lasted = self.over >= limits.sustain;
        if verdict == Verdict::Shift {
            // From here on this level is normal.
            self.over = 0;
        }
        Some(has_lasted.then_some(before))
    }
}

/// Returns the normal value, in this unit.
pub(super) fn normal(baseline: &Baseline, value: u64, unit: &'static str) -> Normal {
    let mean = baseline.mean();
    Normal {
        mean,
        deviation: baseline.deviation(),
        unit: unit.into(),
        samples: baseline.samples(),
        ratio: (mean > 0).then(|| (value as f64 / mean as f64 * 10.0).round() / 10.0),
    }
}
