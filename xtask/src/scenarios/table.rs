//! The table at the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::run::{Judged, Outcome};
use super::truth::CONFIRMED;

/// A row for each scenario; below it what was wrong, and the incidents beside the right one.
pub(super) fn of(outcomes: &[(&str, Outcome)]) -> String {
    let mut out = String::new();
    let width = outcomes.iter().map(|(name, _)| name.len()).max().unwrap_or_default().max("scenario".len());
    // Writing to a String does not fail.
    let _ = writeln!(
        out,
        "\n{:<width$} {:<5} {:<5} {:>9} {:>6}  {:<12} {:>7} {:>6}",
        "scenario", "root", "kind", "precision", "recall", "certainty", "seconds", "others"
    );
    for (name, outcome) in outcomes {
        let _ = match outcome {
            Outcome::Skipped(reason) => writeln!(out, "{name:<width$} skipped: {reason}"),
            Outcome::Failed(error) => writeln!(out, "{name:<width$} FAILED: {error}"),
            Outcome::Judged(judged) => writeln!(out, "{name:<width$} {}", row(judged)),
        };
    }
    for (name, outcome) in outcomes {
        if let Outcome::Judged(judged) = outcome {
            notes(&mut out, name, judged);
        }
    }
    let run = outcomes.iter().filter(|(_, outcome)| !matches!(outcome, Outcome::Skipped(_)));
    let right = run.clone().filter(|(_, outcome)| !outcome.is_wrong()).count();
    let _ = writeln!(out, "\n{right} of {} right", run.count());
    certainties(&mut out, outcomes);
    out
}

/// Of the answers of each certainty, how many had the right root: what `confirmed` and `likely` are worth.
fn certainties(out: &mut String, outcomes: &[(&str, Outcome)]) {
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (_, outcome) in outcomes {
        let Outcome::Judged(judged) = outcome else { continue };
        let Some(certainty) = &judged.certainty else { continue };
        let (right, all) = counts.entry(certainty).or_default();
        *right += usize::from(judged.judgement.root && judged.accused.is_empty());
        *all += 1;
    }
    for (certainty, (right, all)) in counts {
        let _ = writeln!(out, "{certainty}: the right root in {right} of {all}");
    }
}

fn row(judged: &Judged) -> String {
    let word = |is: bool| if is { "yes" } else { "NO" };
    let share = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), |share| format!("{share:.2}"));
    let seconds = judged.seconds.map_or_else(|| "-".to_owned(), |seconds| seconds.to_string());
    format!(
        "{:<5} {:<5} {:>9} {:>6}  {:<12} {seconds:>7} {:>6}",
        word(judged.judgement.root),
        word(judged.judgement.kind),
        share(judged.judgement.precision),
        share(judged.judgement.recall),
        judged.certainty.as_deref().unwrap_or("-"),
        judged.others.len(),
    )
}

fn notes(out: &mut String, name: &str, judged: &Judged) {
    let mut note = |text: String| {
        let _ = writeln!(out, "{name}: {text}");
    };
    if !judged.judgement.root || !judged.judgement.kind {
        let (root, kind) =
            (judged.root.as_deref().unwrap_or("none"), judged.kind.as_deref().unwrap_or("none"));
        note(format!("said root {root}, kind {kind}"));
    }
    if !judged.judgement.first {
        note("the first advice is another".to_owned());
    }
    if !judged.judgement.missing {
        note("does not say what is missing".to_owned());
    }
    if !judged.judgement.root && judged.certainty.as_deref() == Some(CONFIRMED) {
        note("CONFIRMED, and wrong".to_owned());
    }
    for fault in &judged.not_found {
        note(format!("no incident of {fault}"));
    }
    for accused in &judged.accused {
        note(format!("accuses an innocent: {accused}"));
    }
    for other in &judged.others {
        note(format!("also {other}"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::truth::Judgement;
    use super::*;

    #[test]
    fn a_row_for_each_and_what_was_wrong() {
        let judged = |root: bool| {
            Outcome::Judged(Box::new(Judged {
                root: Some("Deployment shop/payments".into()),
                kind: Some("rollout".into()),
                certainty: Some("likely".into()),
                judgement: Judgement {
                    root,
                    kind: true,
                    first: true,
                    precision: Some(0.5),
                    recall: Some(1.0),
                    missing: true,
                },
                seconds: root.then_some(42),
                others: vec!["TAP-2 stock is failing".into()],
                accused: Vec::new(),
                not_found: Vec::new(),
            }))
        };
        let table = of(&[
            ("leak", judged(true)),
            ("cpu", judged(false)),
            ("node-memory", Outcome::Skipped("no".into())),
            ("dns", Outcome::Failed("kubectl".into())),
        ]);
        for line in [
            "leak        yes   yes        0.50   1.00  likely            42      1",
            "cpu         NO    yes        0.50   1.00  likely             -      1",
            "node-memory skipped: no",
            "dns         FAILED: kubectl",
            "cpu: said root Deployment shop/payments, kind rollout",
            "leak: also TAP-2 stock is failing",
            "1 of 3 right",
            "likely: the right root in 1 of 2",
        ] {
            assert!(table.lines().any(|found| found == line), "{line}\n{table}");
        }
    }
}
