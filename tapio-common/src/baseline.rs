//! The one baseline.
use bytemuck::{Pod, Zeroable};

/// What is normal.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Baseline {
    mean: u64,
    deviation: u64,
    since: u64,
    samples: u32,
    run: u32,
}

/// When is it abnormal.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Limits {
    /// Percent of the mean.
    pub ratio_percent: u32,
    /// Deviations over the mean.
    pub deviations: u32,
    /// Abnormal samples in a row that make a shift.
    pub run: u32,
    /// Samples before judging.
    pub min_samples: u32,
    /// Absolute.
    pub floor: u64,
    /// Absolute.
    pub ceiling: u64,
}
/// Judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Too few samples.
    Learning,
    /// Normal.
    Normal,
    /// Far over.
    Spike,
    /// New level.
    Shift,
}
impl Limits {
    /// Defaults.
    pub const DEFAULT: Self =
        Self { ratio_percent: 200, deviations: 4, run: 6, min_samples: 8, floor: 0, ceiling: 0 };
}
impl Baseline {
    /// Judge and learn.
    #[inline(always)]
    pub fn observe(&mut self, value: u64, now: u64, limits: &Limits) -> Verdict {
        let over = limits.ceiling != 0 && value > limits.ceiling;
        if self.samples == 0 {
            self.mean = value << 3;
            self.deviation = value << 1;
            self.samples = 1;
            return if over { Verdict::Spike } else { Verdict::Learning };
        }
        let mean = self.mean >> 3;
        let up = value > mean;
        let diff = if up { value - mean } else { mean - value };
        let band = (self.deviation >> 2) * limits.deviations as u64;
        let band = if band > limits.floor { band } else { limits.floor };
        if self.samples >= limits.min_samples && (diff > band) {
            let sign = if up { 0x8000 } else { 0 };
            if self.run & 0x7fff == 0 || self.run & 0x8000 != sign {
                self.run = sign;
                self.since = now;
            }
            self.run += 1;
            if self.run & 0x7fff >= limits.run {
                self.mean = value << 3;
                self.deviation = value << 1;
                self.samples = 1;
                self.run = 0;
                return Verdict::Shift;
            }
            if over || (up && value * 100 > mean * limits.ratio_percent as u64) {
                return Verdict::Spike;
            }
            return Verdict::Normal;
        }
        self.run = 0;
        self.mean = self.mean + value - mean;
        self.deviation = self.deviation + diff - (self.deviation >> 2);
        self.samples = self.samples.saturating_add(1);
        if over {
            Verdict::Spike
        } else if self.samples <= limits.min_samples {
            Verdict::Learning
        } else {
            Verdict::Normal
        }
    }
    /// Mean.
    pub fn mean(&self) -> u64 {
        self.mean >> 3
    }
    /// Deviation.
    pub fn deviation(&self) -> u64 {
        self.deviation >> 2
    }
    /// Samples.
    pub fn samples(&self) -> u32 {
        self.samples
    }
    /// Since.
    pub fn since(&self) -> u64 {
        self.since
    }
}
