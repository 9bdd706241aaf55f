//! How likely it is that an answer names the cause.
//!
//! A logistic curve over what tells right answers from wrong ones. Its weights are fitted to failures whose causes are known,
//! by `cargo xtask bench rca`, and what people say of the answers of this cluster moves it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::explain::Certainty;

/// Weights of what tells.
pub type Weights = [f64; 3];

/// As `cargo xtask bench rca` fitted them: margin, proof, and what holds for every answer.
pub const FITTED: Weights = [0.45, 1.15, 0.71];
/// To so many failures.
pub const FAILURES: u64 = 481;
/// A larger margin says no more.
const MOST: f64 = 6.0;
/// A cause that is less likely is not named, in percent.
const NAMED: u8 = 50;
/// Rounded to so many percent, and never closer to 0 or 100.
const STEP: f64 = 5.0;

/// How far a cause is ahead of others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Lead {
    /// By how much its score is higher than that of the next cause that explains some of the same, does not lie on the way and is
    /// not the same edit made again, in natural logarithms of odds; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// How likely it is the cause.
    pub chance: Chance,
}

/// How likely the cause is the right one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Chance {
    /// In percent, rounded to 5, from 5 to 95.
    pub percent: u8,
    /// To how many failures of other clusters, whose causes are known, that is fitted.
    pub failures: u64,
    /// How many answers of this cluster people judged.
    pub judged: u64,
    /// What it would be without these, from 0 to 1.
    pub elsewhere: f64,
}

impl Chance {
    /// Whether the cause is likely enough to be named.
    pub(crate) const fn is_named(self) -> bool {
        self.percent >= NAMED
    }
}

/// What tells whether an answer is right.
#[must_use]
pub fn signs(certainty: Certainty, margin: Option<f64>) -> Weights {
    let margin = margin.map_or(MOST, |margin| margin.clamp(0.0, MOST));
    [margin, f64::from(u8::from(certainty == Certainty::Confirmed)), 1.0]
}

/// The natural logarithm of the odds that an answer with these signs is right.
#[must_use]
pub fn odds(signs: Weights, weights: Weights) -> f64 {
    signs.iter().zip(weights).map(|(sign, weight)| sign * weight).sum()
}

/// The probability of odds that are given by their natural logarithm.
#[must_use]
pub fn probability(odds: f64) -> f64 {
    1.0 / (1.0 + (-odds).exp())
}

/// By how much answers have to be moved, in natural logarithms of odds, after what was said of some of them: for each how likely
/// it was held to be, and whether it was right. It is as likely to be one as a normal distribution of variance 1 says.
#[must_use]
pub fn shift(judged: &[(f64, bool)]) -> f64 {
    const STEPS: usize = 20;
    let mut shift = 0.0;
    for _ in 0..STEPS {
        let (mut slope, mut bend) = (-shift, 1.0);
        for (elsewhere, is_right) in judged {
            let elsewhere = elsewhere.clamp(0.01, 0.99);
            let likely = probability((elsewhere / (1.0 - elsewhere)).ln() + shift);
            slope += f64::from(u8::from(*is_right)) - likely;
            bend += likely * (1.0 - likely);
        }
        shift += slope / bend;
    }
    shift
}

/// How far a cause is ahead, after so many answers were judged, and moved by so much.
pub(crate) fn lead(certainty: Certainty, margin: Option<f64>, shift: f64, judged: u64) -> Lead {
    let odds = odds(signs(certainty, margin), FITTED);
    let percent = (probability(odds + shift) * 100.0 / STEP).round() * STEP;
    let chance = Chance {
        percent: percent.clamp(STEP, 100.0 - STEP) as u8,
        failures: FAILURES,
        judged,
        elsewhere: probability(odds),
    };
    Lead { margin, chance }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_larger_margin_and_a_proof_say_more() {
        let percent = |certainty, margin| lead(certainty, margin, 0.0, 0).chance.percent;
        assert!(percent(Certainty::Likely, Some(1.5)) < percent(Certainty::Likely, None));
        assert!(percent(Certainty::Likely, Some(1.5)) < percent(Certainty::Confirmed, Some(1.5)));
        assert_eq!(percent(Certainty::Confirmed, None), 95, "never sure");
    }

    #[test]
    fn what_people_say_moves_it() {
        assert!(shift(&[]).abs() < 1e-9);
        let wrong = [(0.9, false); 6];
        let moved = lead(Certainty::Likely, Some(1.5), shift(&wrong), 6).chance;
        assert!(!moved.is_named(), "{moved:?}");
        assert!((moved.elsewhere - lead(Certainty::Likely, Some(1.5), 0.0, 0).chance.elsewhere).abs() < 1e-9);
        // As often right as was said.
        let as_said: Vec<_> = (0..50).map(|nth| (0.8, nth % 5 != 0)).collect();
        assert!(shift(&as_said).abs() < 1e-3, "{}", shift(&as_said));
    }

    proptest! {
        #[test]
        fn it_is_finite_and_in_its_steps(
            judged in prop::collection::vec((0.0..=1.0, any::<bool>()), 0..200),
            margin in prop::option::of(-10.0..100.0),
        ) {
            let moved = lead(Certainty::Likely, margin, shift(&judged), judged.len() as u64).chance;
            prop_assert!(moved.percent.is_multiple_of(5) && (5..=95).contains(&moved.percent), "{moved:?}");
        }

        #[test]
        fn one_more_right_answer_never_makes_others_less_likely(
            judged in prop::collection::vec((0.05..0.95, any::<bool>()), 0..50),
            elsewhere in 0.05..0.95,
        ) {
            let mut more = judged.clone();
            more.push((elsewhere, true));
            prop_assert!(shift(&more) >= shift(&judged) - 1e-9);
        }
    }
}
