//! New levels: how a run of samples away from the mean is counted, and what becomes of it.
//!
//! A sample adds its distance from the mean to the score, in quarters of a deviation, clipped and less the drift; one on
//! the other side takes three times its distance off.

use super::{
    Baseline, CLIP, FIRST_DEVIATION_SHIFT, FIXED_MAX, FRACTION_BITS, Limits, SAMPLES_MAX, UNREST_MAX, float,
};

pub(super) const SCORE_MASK: u64 = 0xfff;
const SCORE_MAX: i64 = 0x7ff;
const DRIFT: i64 = super::DRIFT as i64;
/// What a sample outside the band adds to the score.
const FULL: i64 = CLIP as i64 - DRIFT;
const RUN_MAX: u8 = 100;
/// How much a run that comes to nothing adds to the unrest; a sample without a run takes 1 off.
const UNREST_STEP: u64 = 3;
/// A quarter of the unrest is added to the score that a run needs: nine samples in a fully restless series.
const UNREST_SHIFT: u32 = 2;
/// The unrest counts in full for a level that is as near as twice the deviation and the spread of the run, and for half
/// where it is twice as far away.
const NEAR: u64 = 2;
/// However far away the level is, a quarter of the unrest counts: else five spikes in a row, of which there are some in
/// any series with many, would be a level.
const LEAST_SHIFT: u32 = 2;
/// What a scattered run needs more: four samples.
const SCATTERED: u64 = 4 * FULL as u64;
const SPREAD_BITS: u32 = 2;
const OTHER_BITS: u32 = 10;
/// Two levels alternate once they have come back this many times, each after less than 2^[`STAY_SHIFT`] samples.
const ALTERNATING: u64 = 4;
const RETURNS_MAX: u64 = 0xf;
/// A level that stays for so many samples counts as one return less.
const STAY_SHIFT: u32 = 7;

impl Baseline {
    /// Adds a sample to the score: how far it is from the mean in quarters of a deviation, clipped, and `above` or below
    /// it. True if the run has become a new level.
    #[inline(always)]
    pub(super) fn count(
        &mut self,
        value: u64,
        quarters: u64,
        above: i64,
        unit: u64,
        now: u64,
        limits: &Limits,
    ) -> bool {
        let quarters = quarters as i64;
        let side = (above >> 63) | 1;
        let score = self.score() * side;
        if score < 0 {
            let left = -score - 3 * quarters - DRIFT;
            if left > 0 {
                self.set_score(-left * side);
                return false;
            }
            self.end_run();
            if quarters > DRIFT {
                self.begin_run(value, now);
                self.set_score((quarters - DRIFT) * side);
            }
            return false;
        }
        let left = score + quarters - DRIFT;
        if left <= 0 {
            self.end_run();
            return false;
        }
        // Placed where the score gets past what one sample outside the band is worth, so that weak samples before it do not
        // move the beginning, and a clean step begins with its first sample.
        if score < FULL {
            self.begin_run(value, now);
        } else {
            self.prolong_run(value);
        }
        let left = left.min(SCORE_MAX);
        self.set_score(left * side);
        let surplus = left - FULL * i64::from(limits.run.clamp(1, RUN_MAX)) + (DRIFT - 1);
        surplus > 0 && self.is_certain(surplus as u64, unit)
    }

    /// Whether a run with more than a calm series would need has enough for this one.
    #[inline(always)]
    fn is_certain(&self, surplus: u64, unit: u64) -> bool {
        let (step, spread) = (self.step(), self.spread());
        let is_scattered = spread > (step >> 1) + (step >> 2);
        let needed = (self.unrest() >> UNREST_SHIFT) + if is_scattered { SCATTERED } else { 0 };
        if surplus > needed {
            return true;
        }
        // The further away, the less is needed. Two bits of the factors go, so that the products fit.
        surplus > needed >> LEAST_SHIFT && (step >> 2) * surplus > ((unit + spread) >> 2) * (needed * NEAR)
    }

    /// Makes the level of the run the mean. True if that is nothing new: the series alternates between it and the mean.
    #[inline(always)]
    pub(super) fn shift(&mut self, limits: &Limits) -> bool {
        let mean = self.mean_fixed();
        let level = self.level() << FRACTION_BITS;
        let (step, spread) = (self.step(), self.spread());
        let stay = u64::from(self.samples().saturating_sub(limits.min_samples));
        let other = self.other();
        // A run of samples of both levels is between them.
        let is_beyond = (level > other) == (other > mean);
        let is_back = level.abs_diff(other) <= (step >> 2) + if is_beyond { 0 } else { spread };
        let returns = if is_back { (self.returns() + 1).saturating_sub(stay >> STAY_SHIFT) } else { 0 };
        let did_alternate = self.alternates();
        let other = float::encode(mean, OTHER_BITS);
        self.run = (self.run & !0xffff_ffff) | (other << 16) | (returns.min(RETURNS_MAX) << 12);
        // The noise of the new level is known by the spread of its run, and is rarely far from that of the old one.
        let noise = 3 * (spread >> 3) + (self.deviation_fixed().min(step) >> 2);
        let samples = limits.min_samples.clamp(1, SAMPLES_MAX);
        self.set_level(level, ((level >> FIRST_DEVIATION_SHIFT) + noise).min(FIXED_MAX), samples);
        did_alternate && self.alternates()
    }

    #[inline(always)]
    pub(super) fn set_level(&mut self, mean: u64, deviation: u64, samples: u32) {
        self.set_mean(mean);
        self.set_deviation(deviation);
        self.level_and_samples = (self.level_and_samples & !0xffff) | u64::from(samples);
    }

    /// Whether there are two levels that are both normal: the mean and [`Self::other`].
    #[inline(always)]
    pub(super) const fn alternates(&self) -> bool {
        self.returns() >= ALTERNATING
    }

    /// The mean before the last shift, fixed point.
    #[inline(always)]
    pub(super) fn other(&self) -> u64 {
        float::decode((self.run >> 16) & 0xffff, OTHER_BITS)
    }

    /// How often the last two levels have followed each other.
    #[inline(always)]
    const fn returns(&self) -> u64 {
        (self.run >> 12) & RETURNS_MAX
    }

    /// The score of the current run, negative below the mean; 0: there is none.
    #[inline(always)]
    pub(super) const fn score(&self) -> i64 {
        ((self.run << 52) as i64) >> 52
    }

    #[inline(always)]
    fn set_score(&mut self, score: i64) {
        self.run = (self.run & !SCORE_MASK) | (score as u64 & SCORE_MASK);
    }

    #[inline(always)]
    fn begin_run(&mut self, value: u64, now: u64) {
        self.run = (now << 32) | (self.run & 0xffff_ffff);
        self.set_run(value, 0);
    }

    #[inline(always)]
    fn prolong_run(&mut self, value: u64) {
        let away = value.abs_diff(self.level()) << FRACTION_BITS;
        let spread = self.spread();
        let spread = if spread == 0 { away } else { (spread + away) >> 1 };
        self.set_run((self.level() + value) >> 1, float::encode(spread, SPREAD_BITS));
    }

    /// Ends a run that came to nothing, if there is one.
    #[inline(always)]
    fn end_run(&mut self) {
        if self.score() != 0 {
            let unrest = (self.unrest() + UNREST_STEP).min(UNREST_MAX);
            self.mean_and_unrest = (self.mean_and_unrest & !UNREST_MAX) | unrest;
            self.run &= !SCORE_MASK;
        }
    }

    #[inline(always)]
    fn set_run(&mut self, level: u64, spread: u64) {
        self.level_and_samples = (level << 16) | u64::from(self.samples());
        self.deviation_and_spread = (self.deviation_and_spread & !0xff) | spread;
    }

    /// The smoothed level of the current run.
    #[inline(always)]
    const fn level(&self) -> u64 {
        self.level_and_samples >> 16
    }

    /// How far the level of the current run is from the mean, fixed point.
    #[inline(always)]
    fn step(&self) -> u64 {
        (self.level() << FRACTION_BITS).abs_diff(self.mean_fixed())
    }

    /// How far the samples of the current run are from each other, smoothed, fixed point.
    #[inline(always)]
    fn spread(&self) -> u64 {
        float::decode(self.deviation_and_spread & 0xff, SPREAD_BITS)
    }
}
