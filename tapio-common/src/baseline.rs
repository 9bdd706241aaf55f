//! The one baseline: what is normal for one series, in 32 bytes.
//!
//! Compiled into the kernel programs and into the agent, so it is plain 64-bit integer arithmetic: no division by a
//! variable, no loop, no allocation, no path that panics. The caller passes the time with each sample, as any number
//! that never decreases.
//!
//! It keeps a smoothed mean and mean deviation in the manner of Jacobson and Karels (RFC 6298), with four differences,
//! each measured in `docs/decisions/0002-baseline.md`:
//! - **gated**: an abnormal sample does not move the mean, else a spike would become normal;
//! - **leaky runs**: a sample back inside the band takes two off a run instead of ending it;
//! - **flapping**: a series that often leaves its band and comes back must stay outside longer before that counts as a
//!   new level. If it does so most of the time, its band widens, until two alternating levels are both normal;
//! - **relearning** starts from the smoothed level of the run, not from its last sample.

use bytemuck::{Pod, Zeroable};

/// The largest value that is distinguished; larger ones count as this. 2^48 - 1: 3.2 days in nanoseconds. Leaves room
/// for a fraction and for every product below without overflow.
pub const MAX_VALUE: u64 = (1 << 48) - 1;

/// The result of judging one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Too few samples to judge; the sample trained the baseline.
    Learning,
    /// Nothing to report. A sample outside the band that is not far enough for a spike and does not complete a run is
    /// also normal, but does not train the baseline.
    Normal,
    /// Far above the mean, or over the ceiling. Does not train the baseline.
    Spike,
    /// The level changed, at [`Baseline::since`]. Returned once; the new level is normal from here on. To report what
    /// was normal before, copy the baseline before [`Baseline::observe`].
    Shift,
}

/// Thresholds that decide when a sample is abnormal. Plain integers, which kernel programs receive as `.rodata`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Limits {
    /// A spike is over this percentage of the mean.
    pub ratio_percent: u16,
    /// A spike is above the mean by more than this many deviations.
    pub deviations: u8,
    /// The band is the mean plus and minus this many quarters of a deviation. Samples outside it do not train the
    /// baseline; they make up the runs that end in a shift.
    pub band_quarters: u8,
    /// Length of a run: this many samples outside the band on one side are a new level, up to three more in a series
    /// that is flapping. At most 100; 0 counts as 1.
    pub run: u8,
    /// How much a sample that does not continue a run takes off it. With 2 a run survives one stray sample in three;
    /// with `run` or more, a run must be unbroken.
    pub leak: u8,
    /// The first samples of a series only train the baseline.
    pub min_samples: u16,
    /// A sample within this distance of the mean is never abnormal, in the value's unit. 0: no floor.
    pub floor: u64,
    /// A sample over this is a spike whatever was learned, and does not train the baseline, in the value's unit. 0: no
    /// ceiling.
    pub ceiling: u64,
}

/// What is normal for one series. All zeros, the default, is a series without samples.
///
/// Every bit pattern is valid: a value that was torn, or written by another version, gives wrong verdicts for a while,
/// but never a fault.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Baseline {
    /// Mean (48.8 fixed point) above 8 bits with the length of the current run, negative below the band.
    mean_and_run: u64,
    /// Mean deviation (48.8 fixed point) above 8 bits of flapping.
    deviation_and_flapping: u64,
    /// Smoothed level of the current run (48 bits) above 16 bits of sample count.
    level_and_samples: u64,
    /// When the latest run began.
    since: u64,
}

/// Fraction bits of the mean and the deviation.
const FRACTION_BITS: u32 = 8;
const FIXED_MAX: u64 = (MAX_VALUE << FRACTION_BITS) | 0xff;
/// Gain of the mean, 1/8 as in RFC 6298.
const MEAN_GAIN_SHIFT: u32 = 3;
/// Gain of the deviation, 1/32. With the 1/4 of RFC 6298 it would forget the noise of one burst before the next.
const DEVIATION_GAIN_SHIFT: u32 = 5;
/// Gain of both, 1/4, for the first samples of a series, so that an odd first one is forgotten, and the noise is known,
/// before anything is judged.
const LEARNING_GAIN_SHIFT: u32 = 2;
/// An abnormal sample widens the deviation by 1/64, so that a band that most samples have outgrown opens again,
/// although nothing outside it trains the baseline.
const WIDEN_SHIFT: u32 = 6;
/// The band is never narrower than 1/128 of the mean: a level change under 0.8 % is ignored.
const NARROWEST_SHIFT: u32 = 7;
/// After a shift this many samples train the baseline without being judged.
const SETTLE: u64 = 2;
/// From [`FLAPPING_THRESHOLD`] on, an abnormal sample widens the deviation by 1/16. This is more than the normal
/// samples narrow it, if there are no more than two of them for each abnormal one.
const WIDEN_FLAPPING_SHIFT: u32 = 4;
const FLAPPING_THRESHOLD: u64 = 240;
/// How much a run that does not become a level adds to flapping; a sample in the band takes 1 off.
const FLAPPING_STEP: u64 = 16;
const FLAPPING_MAX: u64 = 255;
/// For each 64 of flapping, a run needs one more sample.
const FLAPPING_PER_SAMPLE_SHIFT: u32 = 6;
const SAMPLES_MAX: u64 = 0xffff;
const RUN_MAX: u8 = 100;

impl Limits {
    /// Measured on labelled round-trip times; see `docs/decisions/0002-baseline.md`. Floor and ceiling are off, since
    /// they depend on the unit.
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

    /// The floor in the mean's fixed-point format.
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
    /// Judges `value`, then trains the baseline with it if it is normal.
    ///
    /// `value` is in any unit, as long as it is the same for the whole series and for `limits`; see [`MAX_VALUE`].
    /// `now` is any number that never decreases, such as nanoseconds or a row number.
    #[inline(always)]
    pub fn observe(&mut self, value: u64, now: u64, limits: &Limits) -> Verdict {
        if self.learn_if_normal(value, limits) { Verdict::Normal } else { self.judge(value, now, limits) }
    }

    /// The common case of [`Self::observe`] alone, for a hook where each instruction counts. If `value` is plainly
    /// normal, trains the baseline with it and returns true. False decides and changes nothing: call [`Self::judge`].
    #[inline(always)]
    #[must_use]
    pub fn learn_if_normal(&mut self, value: u64, limits: &Limits) -> bool {
        let samples = self.level_and_samples & SAMPLES_MAX;
        let running = self.mean_and_run & 0xff != 0;
        if running || samples < u64::from(limits.min_samples) || samples == 0 || value > MAX_VALUE {
            return false;
        }
        if limits.ceiling != 0 && value > limits.ceiling {
            return false;
        }
        let mean = self.mean_and_run >> 8;
        let deviation = self.deviation_and_flapping >> 8;
        let error = (value << FRACTION_BITS) as i64 - mean as i64;
        let distance = error.unsigned_abs();
        // Within the floor, save the multiplication. Beyond it, the value must be nearer than both the band and a
        // spike.
        if distance > limits.floor_fixed() {
            let widths = u64::from(limits.band_quarters).min(u64::from(limits.deviations) << 2);
            if distance > ((deviation * widths) >> 2) {
                return false;
            }
        }
        let flapping = (self.deviation_and_flapping & 0xff).saturating_sub(1);
        self.mean_and_run = ((mean as i64 + (error >> MEAN_GAIN_SHIFT)) as u64) << 8;
        let deviation = deviation as i64;
        let deviation = deviation + ((distance as i64 - deviation) >> DEVIATION_GAIN_SHIFT);
        self.deviation_and_flapping = ((deviation as u64) << 8) | flapping;
        self.level_and_samples += u64::from(samples != SAMPLES_MAX);
        true
    }

    /// [`Self::observe`] without the short cut, for any sample.
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
                self.train(sample, LEARNING_GAIN_SHIFT, LEARNING_GAIN_SHIFT);
            } else {
                self.train(sample, MEAN_GAIN_SHIFT, DEVIATION_GAIN_SHIFT);
            }
            return Verdict::Learning;
        }

        let mean = self.mean_and_run >> 8;
        let deviation = self.deviation_and_flapping >> 8;
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
                // The run stands in for the samples that a new series would have to wait for.
                let settled = u64::from(limits.min_samples).saturating_sub(SETTLE);
                self.relearn(self.level_and_samples >> 16, settled.max(1));
                return Verdict::Shift;
            }
            let flapping = self.deviation_and_flapping & 0xff;
            let shift = if flapping >= FLAPPING_THRESHOLD { WIDEN_FLAPPING_SHIFT } else { WIDEN_SHIFT };
            let widened = (deviation + (deviation >> shift)).min(FIXED_MAX);
            self.deviation_and_flapping = (widened << 8) | flapping;
            return if far || over_ceiling { Verdict::Spike } else { Verdict::Normal };
        }

        self.count_inside(limits);
        if over_ceiling {
            return Verdict::Spike;
        }
        self.train(sample, MEAN_GAIN_SHIFT, DEVIATION_GAIN_SHIFT);
        Verdict::Normal
    }

    /// A copy without the current run, for a baseline that is restored later: the samples in between are not known.
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
        round(self.deviation_and_flapping >> 8)
    }

    /// How many samples trained this level; stays at 65 535. After a shift it starts just under `min_samples`, in place
    /// of the run that became the level.
    #[inline(always)]
    pub fn samples(&self) -> u32 {
        (self.level_and_samples & SAMPLES_MAX) as u32
    }

    /// `now` of the first sample of the latest run: right after [`Verdict::Shift`], of the run that ended in it. 0 if
    /// there was none.
    #[inline(always)]
    pub fn since(&self) -> u64 {
        self.since
    }

    /// Sets the mean to `level`, and the deviation to a small part of it, since the noise is not known yet.
    #[inline(always)]
    fn relearn(&mut self, level: u64, samples: u64) {
        let mean = level << FRACTION_BITS;
        let deviation = (mean >> 6) + (mean >> 7);
        self.mean_and_run = mean << 8;
        self.deviation_and_flapping = (deviation << 8) | (self.deviation_and_flapping & 0xff);
        self.level_and_samples = (level << 16) | samples;
    }

    #[inline(always)]
    fn train(&mut self, sample: u64, mean_gain_shift: u32, deviation_gain_shift: u32) {
        let mean = (self.mean_and_run >> 8) as i64;
        let deviation = (self.deviation_and_flapping >> 8) as i64;
        let error = sample as i64 - mean;
        let mean = mean + (error >> mean_gain_shift);
        let deviation = deviation + ((error.abs() - deviation) >> deviation_gain_shift);
        self.mean_and_run = ((mean as u64) << 8) | (self.mean_and_run & 0xff);
        self.deviation_and_flapping = ((deviation as u64) << 8) | (self.deviation_and_flapping & 0xff);
        if self.level_and_samples & SAMPLES_MAX != SAMPLES_MAX {
            self.level_and_samples += 1;
        }
    }

    /// Counts a sample outside the band. Returns true if its run has become a new level.
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
        let flapping = self.deviation_and_flapping & 0xff;
        let needed = u64::from(limits.run.min(RUN_MAX)) + (flapping >> FLAPPING_PER_SAMPLE_SHIFT);
        run.unsigned_abs() >= needed
    }

    /// Counts a sample inside the band.
    #[inline(always)]
    fn count_inside(&mut self, limits: &Limits) {
        let run = self.run();
        if run != 0 {
            let run = self.leak(run, limits);
            self.set_run(run);
        } else if self.deviation_and_flapping & 0xff != 0 {
            self.deviation_and_flapping -= 1;
        }
    }

    /// Length of `run` after a sample that does not continue it.
    #[inline(always)]
    fn leak(&mut self, run: i64, limits: &Limits) -> i64 {
        let left = run.abs() - i64::from(limits.leak);
        if left > 0 {
            return if run < 0 { -left } else { left };
        }
        let flapping = ((self.deviation_and_flapping & 0xff) + FLAPPING_STEP).min(FLAPPING_MAX);
        self.deviation_and_flapping = (self.deviation_and_flapping & !0xff) | flapping;
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

/// `value > mean * ratio_percent / 100`, exactly, for a mean with [`FRACTION_BITS`]. The mean is multiplied in two
/// parts because it fills 56 bits; 48 + 16 fit, and so does their sum.
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
