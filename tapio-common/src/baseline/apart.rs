//! [`Baseline::judge`] in a function of its own, for kernel programs: inlined, the verifier would walk each path through it
//! combined with each path after it.

use super::{Baseline, Limits, Verdict};

/// [`Verdict::Learning`].
pub const LEARNING: u32 = 0;
/// [`Verdict::Normal`].
pub const NORMAL: u32 = 1;
/// [`Verdict::Spike`].
pub const SPIKE: u32 = 2;
/// [`Verdict::Shift`].
pub const SHIFT: u32 = 3;

/// Judges `value`, and returns the verdict as a number.
#[inline(never)]
pub fn judge(baseline: &mut Baseline, value: u64, now: u64, limits: &Limits) -> u32 {
    match baseline.judge(value, now, limits) {
        Verdict::Learning => LEARNING,
        Verdict::Normal => NORMAL,
        Verdict::Spike => SPIKE,
        Verdict::Shift => SHIFT,
    }
}
