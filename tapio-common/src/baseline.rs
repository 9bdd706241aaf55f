//! The one baseline: what is normal for one series, in 32 bytes.
//!
//! Compiled into the kernel programs and into the agent, so it is plain 64-bit integer arithmetic: no division by a
//! variable on the common way, no unbounded loop, no allocation, no path that panics. The caller passes the time with each
//! sample, as any number that never decreases.
//!
//! It keeps a smoothed mean and mean deviation in the manner of Jacobson and Karels (RFC 6298), and finds new levels by a
//! cumulative sum (CUSUM; Page, 1954), with these differences:
//! - **gated**: an abnormal sample does not move the mean, else a spike would become normal;
//! - **clipped**: however large, a sample counts for little more than one at the edge of the band;
//! - **self-starting**: what asks for more evidence is learned too. A series whose runs often come to nothing is
//!   *restless*, and has to stay away from its mean for longer, unless it is far away;
//! - **two levels** that alternate are both normal after a while.
//!
//! Where the constants come from, and what each is good for: `docs/decisions/0002-baseline.md`.

pub mod apart;
mod float;
mod level;

use bytemuck::{Pod, Zeroable};

use self::level::SCORE_MASK;

/// The largest value that is distinguished; larger ones count as this. 2^48 - 1: 3.2 days in nanoseconds. Leaves room
/// for a fraction and for every product below without overflow.
pub const MAX_VALUE: u64 = (1 << 48) - 1;

/// From nanoseconds to a unit of time of which a run lasts less than 2^32: 1.05 ms. See [`Baseline::observe`].
pub const TICK_SHIFT: u32 = 20;

/// The result of judging one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Too few samples to judge; the sample trained the baseline.
    Learning,
    /// Nothing to report. A sample outside the band that is not far enough for a spike and does not complete a run is
    /// also normal, but does not train the baseline.
    Normal,
    /// Far above what is normal, or over the ceiling. Does not train the baseline.
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
    /// Length of a run: this many samples well outside the band on one side are a new level in a calm series. In a
    /// restless one it takes up to 9 more, the fewer the further away the level is; up to 4 more if they are scattered.
    /// At most 100; 0 counts as 1.
    pub run: u8,
    /// The first samples of a series only train the baseline. At most 65,535.
    pub min_samples: u32,
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
    /// Mean (48.8 fixed point) above 8 bits of unrest.
    mean_and_unrest: u64,
    /// Mean deviation (48.8 fixed point) above 8 bits with the spread of the current run, a [`float`].
    deviation_and_spread: u64,
    /// Smoothed level of the current run (48 bits) above 16 bits of sample count.
    level_and_samples: u64,
    /// When the latest run began (32 bits); the level before this one (16 bits, a [`float`]); how often these two came
    /// back (4 bits); the score of the current run (12 bits, negative below the mean).
    run: u64,
}

/// Fraction bits of the mean and the deviation.
const FRACTION_BITS: u32 = 8;
const FIXED_MAX: u64 = (MAX_VALUE << FRACTION_BITS) | 0xff;
/// Gain of the mean, 1/8 as in RFC 6298. With 1/16 a slow wave makes 30 times as many alarms.
const MEAN_GAIN_SHIFT: u32 = 3;
/// Gain of the deviation, 1/32. With the 1/4 of RFC 6298 it would forget the noise of one burst before the next.
const DEVIATION_GAIN_SHIFT: u32 = 5;
/// Gain of both, 1/4, for the first samples of a series, so that an odd first one is forgotten, and the noise is known,
/// before anything is judged.
const LEARNING_GAIN_SHIFT: u32 = 2;
/// The last samples of learning train with the usual gains.
const SETTLE: u32 = 2;
/// A sample outside the band widens the deviation by 1/64, so that a band that most samples have outgrown opens again,
/// although nothing outside it trains the baseline.
const WIDEN_SHIFT: u32 = 6;
/// What a new level is taken to vary by at least: 1/128.
const FIRST_DEVIATION_SHIFT: u32 = 7;
/// A sample further from the mean than this many quarters of a deviation is outside the band, and counts as this many.
const CLIP: u64 = 11;
/// So many quarters of a deviation say nothing about the level. Each sample takes them off the score.
const DRIFT: u64 = 4;
const SAMPLES_MAX: u32 = 0xffff;
const UNREST_MAX: u64 = 0xff;

impl Limits {
    /// Measured on labelled round-trip times; see `docs/decisions/0002-baseline.md`. Floor and ceiling are off, since
    /// they depend on the unit.
    pub const DEFAULT: Self =
        Self { ratio_percent: 200, deviations: 4, run: 5, min_samples: 16, floor: 0, ceiling: 0 };

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
    /// `now` is any number that never decreases, such as nanoseconds or a row number. Its lower half is kept: who asks
    /// for [`Self::since`] chooses a unit of which a run lasts less than 2^32, such as nanoseconds over 2^[`TICK_SHIFT`].
    #[inline(always)]
    pub fn observe(&mut self, value: u64, now: u64, limits: &Limits) -> Verdict {
        if self.learn_if_normal(value, limits) { Verdict::Normal } else { self.judge(value, now, limits) }
    }

    /// The common case of [`Self::observe`] alone, for a hook where each instruction counts. If `value` is plainly
    /// normal, trains the baseline with it and returns true. False decides and changes nothing: call [`Self::judge`].
    #[inline(always)]
    #[must_use]
    pub fn learn_if_normal(&mut self, value: u64, limits: &Limits) -> bool {
        let samples = self.samples();
        if self.score() != 0 || samples < limits.min_samples || samples == 0 || value > MAX_VALUE {
            return false;
        }
        if limits.ceiling != 0 && value > limits.ceiling {
            return false;
        }
        let sample = value << FRACTION_BITS;
        let distance = sample.abs_diff(self.mean_fixed());
        // Within the floor, save the multiplication. Beyond it, the sample must add nothing to the score, and be nearer
        // than a spike.
        if distance > limits.floor_fixed() {
            let unit = self.unit(limits);
            let is_near = (distance << 2) + (unit >> 1) < unit * (DRIFT + 1);
            if !is_near || distance > self.deviation_fixed() * u64::from(limits.deviations) {
                return false;
            }
        }
        self.calm_down();
        self.train(sample, MEAN_GAIN_SHIFT, DEVIATION_GAIN_SHIFT);
        true
    }

    /// [`Self::observe`] without the short cut, for any sample.
    #[inline(always)]
    pub fn judge(&mut self, value: u64, now: u64, limits: &Limits) -> Verdict {
        // Each question is asked where its answer is needed, and a division takes the place of comparisons: the verifier
        // walks what is between a flag and its use once for each combination of flags.
        let is_over_ceiling = || limits.ceiling != 0 && value > limits.ceiling;
        let clipped = value.min(MAX_VALUE);
        let sample = clipped << FRACTION_BITS;
        let samples = self.samples();

        if samples == 0 || samples < limits.min_samples {
            if is_over_ceiling() {
                return Verdict::Spike;
            }
            if samples == 0 {
                self.set_level(sample, sample >> FIRST_DEVIATION_SHIFT, 1);
            } else if samples + SETTLE < limits.min_samples {
                self.train(sample, LEARNING_GAIN_SHIFT, LEARNING_GAIN_SHIFT);
            } else {
                self.train(sample, MEAN_GAIN_SHIFT, DEVIATION_GAIN_SHIFT);
            }
            return Verdict::Learning;
        }

        let unit = self.unit(limits);
        let above = sample as i64 - self.mean_fixed() as i64;
        let distance = above.unsigned_abs();
        let mut quarters = ((distance << 2) + (unit >> 1)) / unit;
        if distance <= limits.floor_fixed() {
            quarters = quarters.min(DRIFT);
        }

        if self.count(clipped, quarters.min(CLIP), above, unit, now, limits) {
            // Never silent over the ceiling.
            let is_known = self.shift(limits) && !is_over_ceiling();
            return if is_known { Verdict::Normal } else { Verdict::Shift };
        }
        if self.score() == 0 {
            self.calm_down();
        }
        let is_far = self.is_far(clipped, limits);
        if !is_far && quarters <= CLIP {
            if is_over_ceiling() {
                return Verdict::Spike;
            }
            self.train(sample, MEAN_GAIN_SHIFT, DEVIATION_GAIN_SHIFT);
            return Verdict::Normal;
        }
        let deviation = self.deviation_fixed();
        self.set_deviation((deviation + (deviation >> WIDEN_SHIFT)).min(FIXED_MAX));
        if is_far || is_over_ceiling() {
            return Verdict::Spike;
        }
        Verdict::Normal
    }

    /// A copy without the current run, for a baseline that is restored later: the samples in between are not known.
    #[must_use]
    pub const fn without_run(self) -> Self {
        let without = self.run & !SCORE_MASK & (u32::MAX as u64);
        Self { deviation_and_spread: self.deviation_and_spread & !0xff, run: without, ..self }
    }

    /// The smoothed mean, in the value's unit.
    #[inline(always)]
    pub fn mean(&self) -> u64 {
        round(self.mean_fixed())
    }

    /// The smoothed mean deviation, in the value's unit.
    #[inline(always)]
    pub fn deviation(&self) -> u64 {
        round(self.deviation_fixed())
    }

    /// How many samples trained this level; stays at 65 535. After a shift it starts at `min_samples`: the run that became
    /// the level stands in for them.
    #[inline(always)]
    pub fn samples(&self) -> u32 {
        (self.level_and_samples & u64::from(SAMPLES_MAX)) as u32
    }

    /// The `now` of the first sample of the latest run; right after [`Verdict::Shift`], of the run that ended in it. `now`
    /// is any time since then.
    #[inline(always)]
    pub fn since(&self, now: u64) -> u64 {
        now.wrapping_sub(u64::from((now as u32).wrapping_sub((self.run >> 32) as u32)))
    }

    /// What a sample's distance is measured in: the deviation, but at least 3/1024 of the mean, so that a level change
    /// under 0.8 % is ignored, and so much that the band (2.75 of it) begins at the floor.
    #[inline(always)]
    fn unit(&self, limits: &Limits) -> u64 {
        let mean = self.mean_fixed();
        let floor = limits.floor_fixed();
        self.deviation_fixed().max((mean >> 9) + (mean >> 10)).max((floor >> 2) + (floor >> 3)).max(1)
    }

    /// Whether a sample is far enough above what is normal for a spike. Of two levels that alternate, the upper one.
    #[inline(always)]
    fn is_far(&self, value: u64, limits: &Limits) -> bool {
        let mean = self.mean_fixed();
        let normal = if self.alternates() { mean.max(self.other()) } else { mean };
        let over = (value << FRACTION_BITS).saturating_sub(normal);
        over > limits.floor_fixed()
            && over > self.deviation_fixed() * u64::from(limits.deviations)
            && is_over_ratio(value, normal, limits.ratio_percent)
    }

    #[inline(always)]
    fn train(&mut self, sample: u64, mean_gain_shift: u32, deviation_gain_shift: u32) {
        let (mean, deviation) = (self.mean_fixed() as i64, self.deviation_fixed() as i64);
        let error = sample as i64 - mean;
        self.set_mean((mean + (error >> mean_gain_shift)) as u64);
        self.set_deviation((deviation + ((error.abs() - deviation) >> deviation_gain_shift)) as u64);
        self.level_and_samples += u64::from(self.samples() != SAMPLES_MAX);
    }

    #[inline(always)]
    const fn mean_fixed(&self) -> u64 {
        self.mean_and_unrest >> 8
    }

    #[inline(always)]
    fn set_mean(&mut self, mean: u64) {
        self.mean_and_unrest = (mean << 8) | self.unrest();
    }

    #[inline(always)]
    const fn deviation_fixed(&self) -> u64 {
        self.deviation_and_spread >> 8
    }

    #[inline(always)]
    fn set_deviation(&mut self, deviation: u64) {
        self.deviation_and_spread = (deviation << 8) | (self.deviation_and_spread & 0xff);
    }

    /// How restless the series is: how many of its runs came to nothing lately.
    #[inline(always)]
    const fn unrest(&self) -> u64 {
        self.mean_and_unrest & UNREST_MAX
    }

    #[inline(always)]
    fn calm_down(&mut self) {
        self.mean_and_unrest -= u64::from(self.unrest() != 0);
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
