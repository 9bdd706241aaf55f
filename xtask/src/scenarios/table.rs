//! The table at the end.

use std::fmt::Write as _;

use super::run::{Judged, Outcome};

/// A row for each scenario; below it what was wrong, and the incidents beside the right one.
pub(super) fn of(outcomes: &[(&str, Outcome)]) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(
        out,
        "\n{:<14} {:<5} {:<5} {:>9} {:>6}  {:<12} {:>7} {:>6}",
        "scenario", "root", "kind", "precision", "recall", "certainty", "seconds", "others"
    );
    for (name, outcome) in outcomes {
        let _ = match outcome {
            Outcome::Skipped(reason) => writeln!(out, "{name:<14} skipped: {reason}"),
            Outcome::Failed(error) => writeln!(out, "{name:<14} FAILED: {error}"),
            Outcome::Judged(judged) => writeln!(out, "{name:<14} {}", row(judged)),
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
    out
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
                },
                seconds: root.then_some(42),
                others: vec!["TAP-2 stock is failing".into()],
                accused: Vec::new(),
            }))
        };
        let table = of(&[
            ("leak", judged(true)),
            ("cpu", judged(false)),
            ("node-memory", Outcome::Skipped("no".into())),
            ("dns", Outcome::Failed("kubectl".into())),
        ]);
        for line in [
            "leak           yes   yes        0.50   1.00  likely            42      1",
            "cpu            NO    yes        0.50   1.00  likely             -      1",
            "node-memory    skipped: no",
            "dns            FAILED: kubectl",
            "cpu: said root Deployment shop/payments, kind rollout",
            "leak: also TAP-2 stock is failing",
            "1 of 3 right",
        ] {
            assert!(table.lines().any(|found| found == line), "{line}\n{table}");
        }
    }
}
