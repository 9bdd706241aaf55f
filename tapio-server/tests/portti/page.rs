//! docs/facts.md: its examples are facts and signals, of every type, and it says what each permission gives.

use std::collections::BTreeSet;

use tapio_occurrence::{
    Occurrence,
    kubernetes::{Change, Condition, Deleted, Fact, Object, Synced, Warning},
    signal::{Calls, Signal},
};

const PAGE: &str = include_str!("../../../docs/facts.md");

fn is<F: Fact>(occurrence: &Occurrence) -> bool {
    F::of(occurrence).is_some_and(|fact| fact.unwrap().to_data().unwrap() == occurrence.data)
}

#[test]
fn every_example_is_a_fact() {
    let lines = PAGE.lines().filter(|line| line.starts_with('{'));
    let examples: Vec<Occurrence> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    for example in &examples {
        let reads = [
            is::<Object>,
            is::<Change>,
            is::<Deleted>,
            is::<Condition>,
            is::<Warning>,
            is::<Synced>,
            is::<Calls>,
        ];
        let is_signal = Signal::of(example).is_some_and(|of| of.unwrap().to_data().unwrap() == example.data);
        assert!(is_signal || reads.iter().any(|is| is(example)), "{example:?}");
        assert!(PAGE.contains(&format!("### {}\n", example.kind)), "{}", example.kind);
    }
    let types: BTreeSet<_> = examples.iter().map(|example| example.kind.clone()).collect();
    let sections = ["### kubernetes.", "### signal."].map(|head| PAGE.matches(head).count());
    assert_eq!((types.len(), sections), (10, [6, 4]));
}
