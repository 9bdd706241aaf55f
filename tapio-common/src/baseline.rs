//! The one baseline: what is normal for one series, in 32 bytes.
//!
//! Compiled into the kernel programs and into the agent, so it is plain 64-bit integer
//! arithmetic: no division by a variable, no loop, no allocation, no path that panics.
//! Time comes with the sample, as any number that does not go back.
//!
//! What it keeps is a smoothed mean and mean deviation in the manner of Jacobson and Karels
//! (RFC 6298), with four differences, each measured in `docs/decisions/0002-baseline.md`:
//! - **gated**: a sample judged abnormal does not move the mean, else a spike becomes normal;
//! - **leaky runs**: a sample back in the band takes two off a run instead of ending it;
//! - **unrest**: a series that often leaves its band and comes back must stay away longer
//!   before that counts as a new level; where that is most of what it does, its band widens until
//!   both of two levels that alternate are normal;
//! - **relearning** starts from the smoothed level of the run, not from its last sample.

use bytemuck::{Pod, Zeroable};

/// The largest value distinguished; anything larger is taken for this. 2^48 - 1: 3.2 days in
/// nanoseconds. Room for a fraction and for every product below without overflow.
pub const MAX_VALUE: u64 = (1 << 48) - 1;

/// What one sample was judged to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Too little is known to judge; the sample taught.
    Learning,
    /// Nothing to report. A sample outside the band that is neither far enough for a spike
    /// nor the end of a run is also normal, but does not teach.
    Normal,
    /// Far above what is normal, or over the ceiling. Does not teach.
    Spike,
    /// The level has changed, since [`Baseline::since`]. Said once; the new level is normal
    /// from here on. Copy the baseline before [`Baseline::observe`] to say what was normal
    /// before.
    Shift,
}

/// When a sample is abnormal. Plain integers: handed to the kernel programs as `.rodata`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Limits {
    /// A spike is over this many percent of the mean.
    pub ratio_percent: u16,
    /// A spike is over the mean by more than this many deviations.
    pub deviations: u8,
    /// The band is the mean plus and minus this many quarters of a deviation; samples outside
    /// it do not teach, and make up the runs that end in a shift.
    pub band_quarters: u8,
    /// This many samples outside the band on one side, and up to three more in a series that
    /// is restless, are a new level. At most 100; 0 is taken for 1.
    pub run: u8,
    /// What a sample that does not continue a run takes off it. 2 lets a run survive one stray
    /// sample in three; a number as large as `run` means that it has to be unbroken.
    pub leak: u8,
    /// The first samples of a series are only learnt from.
    pub min_samples: u16,
    /// Within this much of the mean nothing is abnormal, in the value's unit. 0: no floor.
    pub floor: u64,
    /// Over this, every sample is a spike whatever was learnt, and does not teach, in the
    /// value's unit. 0: no ceiling.
    pub ceiling: u64,
}

/// What is normal for one series. All zeros, the default, knows nothing.
///
/// Every bit pattern is valid: one that was torn or written by another version gives odd
/// verdicts for a while, never a fault.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Baseline {
    /// Mean (48.8 fixed point) above 8 bits of run: its length, negative below the band.
    mean_and_run: u64,
    /// Mean deviation (48.8 fixed point) above 8 bits of unrest.
    deviation_and_unrest: u64,
    /// Smoothed level of the current run (48 bits) above 16 bits of sample count.
    level_and_samples: u64,
    /// When the latest run began.
    since: u64,
}

/// Bits of fraction in the mean and the deviation.
const FRACTION_BITS: u32 = 8;
const FIXED_MAX: u64 = (MAX_VALUE << FRACTION_BITS) | 0xff;
/// Gain of the mean, 1/8 as in RFC 6298.
const MEAN_GAIN_SHIFT: u32 = 3;
/// Gain of the deviation, 1/32. RFC 6298 has 1/4, which forgets between two bursts of noise
/// what the first one taught.
const DEVIATION_GAIN_SHIFT: u32 = 5;
/// Gain of both, 1/4, on the first samples of a series: an odd first one is forgotten, and the
/// noise known, before anything is judged.
const LEARNING_GAIN_SHIFT: u32 = 2;
/// An abnormal sample widens the deviation by 1/64, so that a band which most samples have
/// outgrown opens again although nothing outside it teaches.
const WIDEN_SHIFT: u32 = 6;
/// The band is never narrower than 1/128 of the mean: a level change under 0.8 % is not one.
const NARROWEST_SHIFT: u32 = 7;
/// After a shift this many samples are learnt from unjudged.
const SETTLE: u64 = 2;
/// By 1/16 in a series of so much unrest: more than calm samples take off where there are no more than two of them for
/// each abnormal one.
const WIDEN_RESTLESS_SHIFT: u32 = 4;
const RESTLESS: u64 = 240;
/// What a run that comes to nothing adds to the unrest; a quiet sample takes 1 off.
const UNREST_STEP: u64 = 16;
const UNREST_MAX: u64 = 255;
/// Unrest for one more sample of run.
const UNREST_PER_SAMPLE_SHIFT: u32 = 6;
const SAMPLES_MAX: u64 = 0xffff;
const RUN_MAX: u8 = 100;

impl Limits {
    /// Measured on labelled round-trip times; see `docs/decisions/0002-baseline.md`. Floor and
    /// ceiling are off, since a unit is needed to choose them.
    pub const DEFAULT: Self = Self {
        ratio_percent: 200,
        deviations: 4,
        band_quarters: 10,
        run: 5,
        leak: 2,
        min_samples: 16,
        floor: 0,
        ceiling: 0,
    };

    /// The floor as the mean is kept.
    #[inline(always)]
    fn floor_fixed(&self) -> u64 {
        self.floor.min(MAX_VALUE) << FRACTION_BITS
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Baseline {
    /// Judges `value` against what is known, then learns from it if it may.
    ///
    /// `value` is in any unit, the same for the whole series and for `limits`; see
    /// [`MAX_VALUE`]. `now` is nanoseconds, a row number, anything that does not go back.
    #[inline(always)]
    pub fn observe(&mut self, value: u64, now: u64, limits: &Limits) -> Verdict {
        if self.learn_if_calm(value, limits) { Verdict::Normal } else { self.judge(value, now, limits) }
    }

    /// The common case of [`Self::observe`] by itself, for a hook where each instruction counts: learns from a
    /// `value` that is plainly normal and says so. `false` decides and changes nothing: [`Self::judge`] does.
    #[inline(always)]
    #[must_use]
    pub fn learn_if_calm(&mut self, value: u64, limits: &Limits) -> bool {
        let samples = self.level_and_samples & SAMPLES_MAX;
        let running = self.mean_and_run & 0xff != 0;
        if running || samples < u64::from(limits.min_samples) || samples == 0 || value > MAX_VALUE {
            return false;
        }
        if limits.ceiling != 0 && value > limits.ceiling {
            return false;
        }
        let mean = self.mean_and_run >> 8;
        let deviation = self.deviation_and_unrest >> 8;
        let error = (value << FRACTION_BITS) as i64 - mean as i64;
        let distance = error.unsigned_abs();
        // Within the floor there is nothing to multiply. Beyond it, nearer than both the band and a spike.
        if distance > limits.floor_fixed() {
            let widths = u64::from(limits.band_quarters).min(u64::from(limits.deviations) << 2);
            if distance > ((deviation * widths) >> 2) {
                return false;
            }
        }
        let unrest = (self.deviation_and_unrest & 0xff).saturating_sub(1);
        self.mean_and_run = ((mean as i64 + (error >> MEAN_GAIN_SHIFT)) as u64) << 8;
        let deviation = deviation as i64;
        let deviation = deviation + ((distance as i64 - deviation) >> DEVIATION_GAIN_SHIFT);
        self.deviation_and_unrest = ((deviation as u64) << 8) | unrest;
        self.level_and_samples += u64::from(samples != SAMPLES_MAX);
        true
    }

    /// The whole of [`Self::observe`], for any sample.
    #[inline(always)]
    pub fn judge(&mut self, value: u64, now: u64, limits: &Limits) -> Verdict {
        let over_ceiling = limits.ceiling != 0 && value > limits.ceiling;
        let value = value.min(MAX_VALUE);
        let sample = value << FRACTION_BITS;
        let samples = self.level_and_samples & SAMPLES_MAX;

        if samples == 0 || samples < u64::from(limits.min_samples) {
            if over_ceiling {
                return Verdict::Spike;
            }
            if samples == 0 {
                self.relearn(value, 1);
            } else if samples + SETTLE < u64::from(limits.min_samples) {
                self.teach(sample, LEARNING_GAIN_SHIFT, LEARNING_GAIN_SHIFT);
            } else {
                self.teach(sample, MEAN_GAIN_SHIFT, DEVIATION_GAIN_SHIFT);
            }
            return Verdict::Learning;
        }

        let mean = self.mean_and_run >> 8;
        let deviation = self.deviation_and_unrest >> 8;
        let distance = sample.abs_diff(mean);
        let floor = limits.floor_fixed();
        let band =
            ((deviation * u64::from(limits.band_quarters)) >> 2).max(mean >> NARROWEST_SHIFT).max(floor);
        let far = sample > mean
            && distance > floor
            && distance > deviation * u64::from(limits.deviations)
            && is_over_ratio(value, mean, limits.ratio_percent);

        if far || distance > band {
            if self.prolong_run(value, sample > mean, now, limits) {
                // The run stands for the samples that a new series would have to wait for.
                let settled = u64::from(limits.min_samples).saturating_sub(SETTLE);
                self.relearn(self.level_and_samples >> 16, settled.max(1));
                return Verdict::Shift;
            }
            let unrest = self.deviation_and_unrest & 0xff;
            let shift = if unrest >= RESTLESS { WIDEN_RESTLESS_SHIFT } else { WIDEN_SHIFT };
            let widened = (deviation + (deviation >> shift)).min(FIXED_MAX);
            self.deviation_and_unrest = (widened << 8) | unrest;
            return if far || over_ceiling { Verdict::Spike } else { Verdict::Normal };
        }

        self.calm(limits);
        if over_ceiling {
            return Verdict::Spike;
        }
        self.teach(sample, MEAN_GAIN_SHIFT, DEVIATION_GAIN_SHIFT);
        Verdict::Normal
    }

    /// The same without the run under way, for one that is taken up again later: what came in between is not known.
    #[must_use]
    pub const fn without_run(self) -> Self {
        Self { mean_and_run: self.mean_and_run & !0xff, since: 0, ..self }
    }

    /// The smoothed mean, in the value's unit.
    #[inline(always)]
    pub fn mean(&self) -> u64 {
        round(self.mean_and_run >> 8)
    }

    /// The smoothed mean deviation, in the value's unit.
    #[inline(always)]
    pub fn deviation(&self) -> u64 {
        round(self.deviation_and_unrest >> 8)
    }

    /// How many samples taught this level; stays at 65 535. After a shift it starts just under
    /// `min_samples`, for the run that became the level.
    #[inline(always)]
    pub fn samples(&self) -> u32 {
        (self.level_and_samples & SAMPLES_MAX) as u32
    }

    /// `now` of the first sample of the latest run: of the one that ended in [`Verdict::Shift`]
    /// when read straight after it. 0 when there was none.
    #[inline(always)]
    pub fn since(&self) -> u64 {
        self.since
    }

    /// Takes `level` for the mean, with no more known about the noise than that it is small.
    #[inline(always)]
    fn relearn(&mut self, level: u64, samples: u64) {
        let mean = level << FRACTION_BITS;
        let deviation = (mean >> 6) + (mean >> 7);
        self.mean_and_run = mean << 8;
        self.deviation_and_unrest = (deviation << 8) | (self.deviation_and_unrest & 0xff);
        self.level_and_samples = (level << 16) | samples;
    }

    #[inline(always)]
    fn teach(&mut self, sample: u64, mean_gain_shift: u32, deviation_gain_shift: u32) {
        let mean = (self.mean_and_run >> 8) as i64;
        let deviation = (self.deviation_and_unrest >> 8) as i64;
        let error = sample as i64 - mean;
        let mean = mean + (error >> mean_gain_shift);
        let deviation = deviation + ((error.abs() - deviation) >> deviation_gain_shift);
        self.mean_and_run = ((mean as u64) << 8) | (self.mean_and_run & 0xff);
        self.deviation_and_unrest = ((deviation as u64) << 8) | (self.deviation_and_unrest & 0xff);
        if self.level_and_samples & SAMPLES_MAX != SAMPLES_MAX {
            self.level_and_samples += 1;
        }
    }

    /// Counts a sample outside the band; true when its run has become a new level.
    #[inline(always)]
    fn prolong_run(&mut self, value: u64, above: bool, now: u64, limits: &Limits) -> bool {
        let side: i64 = if above { 1 } else { -1 };
        let mut run = self.run();
        if run * side < 0 {
            run = self.leak(run, limits);
            if run != 0 {
                self.set_run(run);
                return false;
            }
        }
        let samples = self.level_and_samples & SAMPLES_MAX;
        let level = if run == 0 {
            self.since = now;
            value
        } else {
            ((self.level_and_samples >> 16) + value) >> 1
        };
        self.level_and_samples = (level << 16) | samples;
        run += side;
        self.set_run(run);
        let unrest = self.deviation_and_unrest & 0xff;
        let needed = u64::from(limits.run.min(RUN_MAX)) + (unrest >> UNREST_PER_SAMPLE_SHIFT);
        run.unsigned_abs() >= needed
    }

    /// Counts a sample inside the band.
    #[inline(always)]
    fn calm(&mut self, limits: &Limits) {
        let run = self.run();
        if run != 0 {
            let run = self.leak(run, limits);
            self.set_run(run);
        } else if self.deviation_and_unrest & 0xff != 0 {
            self.deviation_and_unrest -= 1;
        }
    }

    /// What is left of `run` after a sample that does not continue it.
    #[inline(always)]
    fn leak(&mut self, run: i64, limits: &Limits) -> i64 {
        let left = run.abs() - i64::from(limits.leak);
        if left > 0 {
            return if run < 0 { -left } else { left };
        }
        let unrest = ((self.deviation_and_unrest & 0xff) + UNREST_STEP).min(UNREST_MAX);
        self.deviation_and_unrest = (self.deviation_and_unrest & !0xff) | unrest;
        0
    }

    #[inline(always)]
    fn run(&self) -> i64 {
        i64::from(self.mean_and_run as u8 as i8)
    }

    #[inline(always)]
    fn set_run(&mut self, run: i64) {
        self.mean_and_run = (self.mean_and_run & !0xff) | u64::from(run as u8);
    }
}

/// `value > mean * ratio_percent / 100`, exactly, for a mean with [`FRACTION_BITS`]. The mean is
/// multiplied in two parts because it fills 56 bits; 48 + 16 fit, and so does their sum.
#[inline(always)]
fn is_over_ratio(value: u64, mean: u64, ratio_percent: u16) -> bool {
    let ratio = u64::from(ratio_percent);
    value * 100 > (mean >> FRACTION_BITS) * ratio + (((mean & 0xff) * ratio) >> FRACTION_BITS)
}

#[inline(always)]
fn round(fixed: u64) -> u64 {
    (fixed + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS
}

#[cfg(test)]
mod tests;
