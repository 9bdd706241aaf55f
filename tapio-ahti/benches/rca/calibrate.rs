//! How often answers are right, of those that say that they are as likely; and the weights that say so.

use std::collections::BTreeMap;

use tapio_ahti::calibration::{FAILURES, FITTED, Weights, odds, probability, shift};

use crate::case::Outcome;

/// How little weights matter before they are fitted: the variance of a normal distribution.
const VARIANCE: f64 = 1.0;
const STEPS: usize = 50;

/// An answer that names a cause.
#[derive(Clone, Copy)]
struct Answer {
    signs: Weights,
    is_right: bool,
}

/// How likely it was held to be, and whether it was right.
type Judged = (f64, bool);

/// Rules were made with what was recorded here until all of it was right: nothing can be learned from it.
fn is_fitted(set: &str) -> bool {
    set != crate::RECORDED
}

pub(crate) fn print(sets: &BTreeMap<&str, Vec<Outcome>>) {
    let answers = |outcomes: &Vec<Outcome>| -> Vec<Answer> {
        let named = outcomes.iter().filter_map(|outcome| Some((outcome, outcome.signs?)));
        named.map(|(outcome, signs)| Answer { signs, is_right: outcome.is_right() }).collect()
    };
    let sets: BTreeMap<&str, Vec<Answer>> = sets.iter().map(|(name, of)| (*name, answers(of))).collect();
    println!("\ncalibration: answers that name a cause, weights fitted without the set");
    println!(
        "  {:<16} {:>7} {:>6} {:>6} {:>6} {:>14} {:>6}",
        "", "answers", "right", "Brier", "ECE", "judged: Brier", "ECE"
    );
    let (mut alone, mut judged) = (Vec::new(), Vec::new());
    for (name, of) in sets.iter().filter(|(_, of)| !of.is_empty()) {
        let others: Vec<Answer> = sets
            .iter()
            .filter(|(other, _)| *other != name && is_fitted(other))
            .flat_map(|(_, of)| of.clone())
            .collect();
        let weights = fit(&others);
        let without: Vec<Judged> =
            of.iter().map(|answer| (probability(odds(answer.signs, weights)), answer.is_right)).collect();
        let with = one_by_one(&without);
        row(name, &without, &with);
        alone.extend(without);
        judged.extend(with);
    }
    row("all", &alone, &judged);
    println!("  {:<16} {:>7} {:>6} {:>6}", "said", "answers", "said", "right");
    for (range, of) in bins(&judged) {
        println!("  {range:<16} {:>7} {:>6.2} {:>6.2}", of.len(), mean(&of, |(said, _)| *said), right(&of));
    }
    let all: Vec<Answer> =
        sets.into_iter().filter(|(name, _)| is_fitted(name)).flat_map(|(_, of)| of).collect();
    let weights = fit(&all);
    let is_same = weights.iter().zip(FITTED).all(|(here, there)| (here - there).abs() < 0.006);
    let is_same = is_same && all.len() as u64 == FAILURES;
    println!(
        "  weights {weights:.2?} of {} answers; {}",
        all.len(),
        if is_same {
            "the engine has them"
        } else {
            "the engine has others: see tapio-ahti/src/calibration.rs"
        }
    );
    println!("calibration_ece {:.3} ratio", error(&judged));
}

fn row(name: &str, alone: &[Judged], judged: &[Judged]) {
    println!(
        "  {name:<16} {:>7} {:>6.2} {:>6.3} {:>6.3} {:>14.3} {:>6.3}",
        alone.len(),
        right(alone),
        brier(alone),
        error(alone),
        brier(judged),
        error(judged)
    );
}

/// As if each answer were judged before the next one is given.
fn one_by_one(of: &[Judged]) -> Vec<Judged> {
    let mut order: Vec<usize> = (0..of.len()).collect();
    // Sets are sorted by fault; clusters are not.
    fastrand::Rng::with_seed(7).shuffle(&mut order);
    let of: Vec<Judged> = order.into_iter().map(|at| of[at]).collect();
    let moved = |(at, (likely, is_right)): (usize, &Judged)| {
        let shift = shift(&of[..at]);
        (probability((likely / (1.0 - likely)).ln() + shift), *is_right)
    };
    of.iter().enumerate().map(moved).collect()
}

/// The weights of a logistic regression, by Newton's method.
fn fit(answers: &[Answer]) -> Weights {
    let mut weights = Weights::default();
    for _ in 0..STEPS {
        let mut slope = weights.map(|weight| -weight / VARIANCE);
        let mut bend = [[0.0; 3]; 3];
        for (at, row) in bend.iter_mut().enumerate() {
            row[at] = 1.0 / VARIANCE;
        }
        for answer in answers {
            let likely = probability(odds(answer.signs, weights));
            for (at, sign) in answer.signs.iter().enumerate() {
                slope[at] += sign * (f64::from(u8::from(answer.is_right)) - likely);
                for (other, value) in answer.signs.iter().enumerate() {
                    bend[at][other] += sign * value * likely * (1.0 - likely);
                }
            }
        }
        let step = solve(bend, slope);
        weights = std::array::from_fn(|at| weights[at] + step[at]);
    }
    weights
}

/// Solves a system of equations that is positive definite.
fn solve(mut of: [[f64; 3]; 3], mut right: Weights) -> Weights {
    for at in 0..3 {
        for below in at + 1..3 {
            let factor = of[below][at] / of[at][at];
            let above = of[at];
            of[below].iter_mut().zip(above).for_each(|(value, above)| *value -= factor * above);
            right[below] -= factor * right[at];
        }
    }
    for at in (0..3).rev() {
        let known: f64 = (at + 1..3).map(|other| of[at][other] * right[other]).sum();
        right[at] = (right[at] - known) / of[at][at];
    }
    right
}

fn mean(of: &[Judged], value: impl Fn(&Judged) -> f64) -> f64 {
    of.iter().map(value).sum::<f64>() / of.len().max(1) as f64
}

fn right(of: &[Judged]) -> f64 {
    mean(of, |(_, is_right)| f64::from(u8::from(*is_right)))
}

fn brier(of: &[Judged]) -> f64 {
    mean(of, |(likely, is_right)| (likely - f64::from(u8::from(*is_right))).powi(2))
}

/// Ten bins of the same width.
fn bins(of: &[Judged]) -> Vec<(String, Vec<Judged>)> {
    let mut bins: BTreeMap<u8, Vec<Judged>> = BTreeMap::new();
    for judged in of {
        bins.entry(((judged.0 * 10.0) as u8).min(9)).or_default().push(*judged);
    }
    bins.into_iter().map(|(bin, of)| (format!(".{bin}0 to .{bin}9"), of)).collect()
}

/// The expected calibration error: by how much what is said differs from what is right, in the mean.
fn error(of: &[Judged]) -> f64 {
    let off = |(_, bin): (String, Vec<Judged>)| {
        (mean(&bin, |(said, _)| *said) - right(&bin)).abs() * bin.len() as f64
    };
    bins(of).into_iter().map(off).sum::<f64>() / of.len().max(1) as f64
}
