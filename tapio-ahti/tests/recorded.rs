//! The facts of each scenario, as they were recorded on a real cluster, give the answer that the scenario's truth says.
//!
//! `cargo xtask scenarios --record` writes the recordings.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test's helpers fail as its assertions do")]

use std::{fs, path::Path, sync::LazyLock};

use serde::Deserialize;
use tapio_ahti::{
    Engine, Limits, Rules,
    answer::{self, Answer},
    incident::{Certainty, Incident},
};
use tapio_occurrence::Occurrence;

/// Parsed once: that takes longer than most questions.
static RULES: LazyLock<Rules> = LazyLock::new(|| Rules::embedded().unwrap());

#[derive(Deserialize)]
struct Scenario {
    ask: Option<String>,
    truth: Truth,
}

#[derive(Deserialize)]
struct Truth {
    root: Option<String>,
    kind: Option<String>,
    missing: Option<String>,
    #[serde(default)]
    also: Vec<String>,
    #[serde(default)]
    not: Vec<String>,
}

fn directory(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn engine(facts: &[Occurrence]) -> Engine {
    let mut engine = Engine::new(RULES.clone(), Limits::default());
    for fact in facts {
        engine.take(fact).unwrap();
    }
    engine
}

fn answer(facts: &[Occurrence], asked: &str) -> Answer {
    let mut engine = engine(facts);
    let (kind, name) = asked.split_once('/').unwrap();
    assert!(answer::kind(kind).is_some(), "{asked}");
    engine.why(Some(kind), Some("shop"), name)
}

/// Whether an incident has this root.
fn is_of(incident: &Incident, root: &str) -> bool {
    incident.root.as_ref().is_some_and(|found| is(&found.to_string(), root))
}

/// Whether a name is the expected one, which may end with a `*`.
fn is(name: &str, expected: &str) -> bool {
    match expected.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == expected,
    }
}

#[test]
fn recorded_failures_have_the_cause_that_their_scenario_says() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(directory("tests/recorded")).unwrap() {
        let path = entry.unwrap().path();
        let Some(name) = path.file_stem().and_then(|name| name.to_str()) else { continue };
        let scenario = fs::read_to_string(directory("../scenarios").join(format!("{name}.yaml"))).unwrap();
        let scenario: Scenario = serde_saphyr::from_str(&scenario).unwrap();
        let (Some(asked), Some(root)) = (scenario.ask, scenario.truth.root) else { continue };
        let recorded = fs::read(&path).unwrap();
        let lines = recorded.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let facts: Vec<_> = lines.map(|line| Occurrence::read_json(line).unwrap()).collect();
        count += 1;
        if root == "none" {
            let incidents: Vec<_> = engine(&facts).incidents().into_iter().cloned().collect();
            wrong.extend(incidents.iter().map(|incident| format!("{name}: {}", incident.title)));
            continue;
        }
        let answer = answer(&facts, &asked);
        let kind = answer.incident.as_ref().and_then(|incident| incident.root_kind.clone());
        let is_root = |incident: &Incident| match root.as_str() {
            "unknown" => incident.certainty == Certainty::Inconclusive,
            root => is_of(incident, root),
        };
        let is_said = |text: &String| {
            answer
                .incident
                .iter()
                .flat_map(|incident| &incident.missing)
                .any(|missing| missing.contains(text))
        };
        let is_right = answer.incident.as_ref().is_some_and(is_root)
            && scenario.truth.kind.is_none_or(|expected| kind == Some(expected))
            && scenario.truth.missing.as_ref().is_none_or(is_said);
        if !is_right {
            wrong.push(format!("{name}: ({kind:?}), not {root}\n{}", answer.text()));
        }
        let mut engine = engine(&facts);
        let all = engine.incidents();
        let accused = scenario.truth.not.iter().filter(|not| all.iter().any(|one| is_of(one, not)));
        wrong.extend(accused.map(|not| format!("{name}: {not} is accused")));
        let unseen = scenario.truth.also.iter().filter(|also| !all.iter().any(|one| is_of(one, also)));
        wrong.extend(unseen.map(|also| format!("{name}: no incident of {also}")));
        // Another run gives the same bytes.
        assert_eq!(answer, self::answer(&facts, &asked));
    }
    assert!(count > 0, "there are no recordings");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
