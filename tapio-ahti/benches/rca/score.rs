//! Scores of a set, and their table.

use std::collections::BTreeMap;

use tapio_ahti::incident::Certainty;

use crate::case::{Outcome, Wanted};

/// How often something is among the first `k`.
fn within(outcomes: &[&Outcome], place: fn(&Outcome) -> Option<usize>, k: usize) -> f64 {
    let found = outcomes.iter().filter(|outcome| place(outcome).is_some_and(|place| place <= k)).count();
    found as f64 / outcomes.len().max(1) as f64
}

/// The mean of the first five.
fn average(outcomes: &[&Outcome], place: fn(&Outcome) -> Option<usize>) -> f64 {
    (1..=5).map(|k| within(outcomes, place, k)).sum::<f64>() / 5.0
}

fn object(outcome: &Outcome) -> Option<usize> {
    outcome.object
}

fn both(outcome: &Outcome) -> Option<usize> {
    outcome.both
}

pub(crate) fn print(set: &str, published: &str, outcomes: &[Outcome], wanted: &Wanted) {
    let all: Vec<&Outcome> = outcomes.iter().collect();
    if all.is_empty() {
        println!("{set}: no such cases");
        return;
    }
    let has_cause = all.iter().any(|outcome| !outcome.expected.cause.is_empty());
    let mut of_fault: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
    for outcome in &all {
        of_fault.entry(&outcome.fault).or_default().push(outcome);
    }
    println!("\n{set}: {} cases; {published}", all.len());
    println!("  {:<38} {:>5} {:>6} {:>6} {:>6} {:>9}", "", "cases", "A@1", "A@3", "Avg@5", "and cause");
    let row = |name: &str, of: &[&Outcome]| {
        let cause = if has_cause { format!("{:.2}", within(of, both, 1)) } else { String::new() };
        println!(
            "  {name:<38} {:>5} {:>6.2} {:>6.2} {:>6.2} {cause:>9}",
            of.len(),
            within(of, object, 1),
            within(of, object, 3),
            average(of, object)
        );
    };
    for (fault, of) in &of_fault {
        row(fault, of);
    }
    row("all", &all);
    let chance: f64 = all.iter().map(|outcome| 1.0 / outcome.choices.max(1) as f64).sum();
    let is = |outcome: &&&Outcome| outcome.is_right();
    let speaks: Vec<&&Outcome> =
        all.iter().filter(|outcome| outcome.certainty >= Some(Certainty::Likely)).collect();
    let confirmed: Vec<&&Outcome> =
        all.iter().filter(|outcome| outcome.certainty == Some(Certainty::Confirmed)).collect();
    let unknown = all.iter().filter(|outcome| outcome.certainty.is_none()).count();
    println!(
        "  chance {:.2}; unknown {unknown}; inconclusive {}; likely or confirmed {}, right {:.2}; confirmed {}, wrong {}",
        chance / all.len() as f64,
        all.len() - speaks.len() - unknown,
        speaks.len(),
        speaks.iter().copied().filter(is).count() as f64 / speaks.len().max(1) as f64,
        confirmed.len(),
        confirmed.len() - confirmed.iter().copied().filter(is).count()
    );
    let traceless: Vec<&&Outcome> = all.iter().filter(|outcome| outcome.leaves_no_trace).collect();
    if !traceless.is_empty() {
        let silent = traceless.iter().filter(|outcome| outcome.certainty < Some(Certainty::Likely)).count();
        let right = all.iter().filter(|outcome| {
            outcome.object == Some(1)
                || outcome.leaves_no_trace && outcome.certainty < Some(Certainty::Likely)
        });
        println!(
            "  of {} without a trace {silent} are answered unknown or inconclusive; A@1 where that is right {:.2}",
            traceless.len(),
            right.count() as f64 / all.len() as f64
        );
    }
    let key = set.replace('-', "_");
    println!("{key}_object_a1 {:.3} ratio", within(&all, object, 1));
    if has_cause {
        println!("{key}_object_cause_a1 {:.3} ratio", within(&all, both, 1));
    }
    if wanted.lists_wrong {
        for outcome in all.iter().filter(|outcome| !is(outcome)) {
            let named: Vec<String> =
                outcome.named.iter().take(3).map(|said| format!("{} {}", said.object, said.cause)).collect();
            println!(
                "  {} {:?}: {} {} | {}",
                outcome.name,
                outcome.certainty,
                outcome.expected.object,
                outcome.expected.cause,
                named.join(" | ")
            );
        }
    }
}
