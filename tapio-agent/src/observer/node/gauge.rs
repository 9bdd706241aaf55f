//! A share of time, compared with its own past.

use serde::{Deserialize, Serialize};
use tapio_common::baseline::{Baseline, Verdict};

use super::settings::Share;
use crate::observer::baseline;

/// Its baseline, and for how many samples in a row it has been abnormal.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Gauge {
    #[serde(with = "baseline")]
    baseline: Baseline,
    #[serde(skip)]
    over: u32,
}

impl Gauge {
    /// Judges a share, in 1/1024. `None`: normal. `Some(None)`: abnormal, but not for long enough. Otherwise
    /// the baseline before it.
    pub(super) fn judge(&mut self, share: u64, now_ns: u64, limits: &Share) -> Option<Option<Baseline>> {
        let before = self.baseline;
        let verdict = self.baseline.observe(share.min(1024), now_ns, &limits.limits);
        let is_over = verdict == Verdict::Spike || (verdict == Verdict::Shift && share > before.mean());
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
