//! What people said of answers, and what it says about further ones.

use std::collections::BTreeMap;

use tapio_occurrence::feedback::{Feedback, Verdict};

use crate::{
    calibration::{self, Lead},
    explain::Certainty,
};

/// How many answers the prior of a rule file counts for.
const STRENGTH: f64 = 10.0;
/// How many one verdict counts for.
const WEIGHT: f64 = 3.0;
/// Most incidents with a verdict.
const MAX: usize = 10_000;

/// The latest verdict of each incident: who says it twice, or changes his mind, has one.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    /// By fingerprint and incident.
    latest: BTreeMap<(String, String), Given>,
    /// How much speaks for each kind of cause, and how much against it.
    of_kind: BTreeMap<String, (f64, f64)>,
    /// By how much answers here are more often right than elsewhere, in natural logarithms of odds.
    shift: f64,
    /// Verdicts of answers that named a cause.
    judged: u64,
    /// Verdicts that were not taken since there are too many.
    pub(crate) refused: u64,
}

/// A verdict.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
struct Given {
    at_ns: u64,
    verdict: Verdict,
    /// The kind of cause that was named.
    cause: Option<String>,
    /// How likely it was held to be.
    chance: Option<f64>,
}

impl Verdicts {
    pub(crate) fn take(&mut self, feedback: Feedback, at_ns: u64) {
        let whose = (feedback.fingerprint, feedback.incident);
        if self.latest.len() >= MAX && !self.latest.contains_key(&whose) {
            self.refused += 1;
            return;
        }
        let Feedback { verdict, cause, chance, .. } = feedback;
        let given = Given { at_ns, verdict, cause, chance };
        let latest = self.latest.entry(whose).or_insert_with(|| given.clone());
        if given > *latest {
            *latest = given;
        }
        self.of_kind.clear();
        let mut judged = Vec::new();
        for given in self.latest.values() {
            judged.extend(given.chance.map(|chance| (chance, given.verdict == Verdict::Right)));
            let Some(kind) = &given.cause else { continue };
            let (right, wrong) = self.of_kind.entry(kind.clone()).or_default();
            match given.verdict {
                Verdict::Right => *right += WEIGHT,
                Verdict::NotQuite => *wrong += WEIGHT / 3.0,
                Verdict::Wrong => *wrong += WEIGHT,
            }
        }
        (self.shift, self.judged) = (calibration::shift(&judged), judged.len() as u64);
    }

    /// How far a cause is ahead, after what was said of others.
    pub(crate) fn lead(&self, certainty: Certainty, margin: Option<f64>) -> Lead {
        calibration::lead(certainty, margin, self.shift, self.judged)
    }

    /// What was said last of such an incident.
    pub(crate) fn latest(&self, fingerprint: &str) -> Option<Verdict> {
        let of = self.latest.range((fingerprint.to_owned(), String::new())..);
        let of =
            of.take_while(|((of, _), _)| of == fingerprint).map(|(_, given)| (given.at_ns, given.verdict));
        of.max().map(|(_, verdict)| verdict)
    }

    /// The natural logarithm of the odds that a cause of this kind is the root, after what was said of others.
    pub(crate) fn prior(&self, kind: &str, prior: f64) -> f64 {
        let Some((right, wrong)) = self.of_kind.get(kind) else { return prior };
        let likely = prior.exp() / (1.0 + prior.exp());
        ((likely * STRENGTH + right) / ((1.0 - likely) * STRENGTH + wrong)).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feedback(fingerprint: &str, verdict: Verdict) -> Feedback {
        Feedback {
            incident: "TAP-1".to_owned(),
            fingerprint: fingerprint.to_owned(),
            cause: Some("rollout".to_owned()),
            verdict,
            chance: Some(0.9),
            note: None,
        }
    }

    #[test]
    fn each_verdict_counts_and_the_latest_is_shown() {
        let mut verdicts = Verdicts::default();
        assert!((verdicts.prior("rollout", -2.0) + 2.0).abs() < 1e-9);
        verdicts.take(feedback("a", Verdict::Wrong), 5);
        let after_one = verdicts.prior("rollout", -2.0);
        // 1.192 of 10, and three against it.
        assert!((after_one - (1.192_f64 / 11.808).ln()).abs() < 1e-3, "{after_one}");
        verdicts.take(feedback("a", Verdict::Right), 4);
        assert_eq!(verdicts.latest("a"), Some(Verdict::Wrong), "what came late was said before");
        verdicts.take(feedback("a", Verdict::Wrong), 5);
        assert!((verdicts.prior("rollout", -2.0) - after_one).abs() < 1e-9, "said twice");
        verdicts.take(feedback("a", Verdict::Right), 6);
        assert_eq!((verdicts.latest("a"), verdicts.latest("b")), (Some(Verdict::Right), None));
        assert!(verdicts.prior("rollout", -2.0) > -2.0);
        assert!((verdicts.prior("memory", -0.5) + 0.5).abs() < 1e-9, "of another kind");
    }

    #[test]
    fn wrong_answers_make_others_less_likely() {
        let mut verdicts = Verdicts::default();
        let chance = |verdicts: &Verdicts| verdicts.lead(Certainty::Likely, Some(2.0)).chance;
        let before = chance(&verdicts);
        (0..6).for_each(|nth| verdicts.take(feedback(&nth.to_string(), Verdict::Wrong), nth));
        let after = chance(&verdicts);
        assert_eq!((before.judged, after.judged), (0, 6));
        assert!(before.is_named() && !after.is_named(), "{before:?} {after:?}");
    }

    #[test]
    fn there_are_no_more_than_fit() {
        let given = Given { at_ns: 1, verdict: Verdict::Right, cause: None, chance: None };
        let latest = (0..MAX).map(|nth| ((nth.to_string(), String::new()), given.clone())).collect();
        let mut verdicts = Verdicts { latest, ..Verdicts::default() };
        (0..3).for_each(|nth| verdicts.take(feedback(&format!("new {nth}"), Verdict::Right), 1));
        assert_eq!((verdicts.latest.len(), verdicts.refused), (MAX, 3));
    }
}
