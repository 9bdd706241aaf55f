//! A series that is judged by the shared baseline.

use tapio_common::baseline::{Baseline, Limits, Verdict};

/// Samples once a minute: a level is new after three of them.
const LIMITS: Limits = Limits { run: 3, min_samples: 8, ..Limits::DEFAULT };

/// One series.
pub(crate) struct Series {
    baseline: Baseline,
    limits: Limits,
}

impl Series {
    /// A series in which less than `floor` above its mean is nothing.
    pub(crate) fn new(floor: u64) -> Self {
        Self { baseline: Baseline::default(), limits: Limits { floor, ..LIMITS } }
    }

    /// Judges a sample. Returns what was normal if it is abnormal.
    pub(crate) fn judge(&mut self, value: u64, at_ns: u64) -> Option<u64> {
        let before = self.baseline;
        match self.baseline.observe(value, at_ns, &self.limits) {
            Verdict::Spike => Some(before.mean()),
            Verdict::Shift if value > before.mean() => {
                // What goes on is reported on.
                self.baseline = before;
                Some(before.mean())
            }
            Verdict::Learning | Verdict::Normal | Verdict::Shift => None,
        }
    }

    /// What is normal.
    pub(crate) fn mean(&self) -> u64 {
        self.baseline.mean()
    }
}
