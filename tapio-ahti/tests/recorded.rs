//! The facts of each scenario, as they were recorded on a real cluster, give the answer that the scenario's truth says.
//!
//! `cargo xtask scenarios --record` writes the recordings.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test's helpers fail as its assertions do")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::LazyLock,
};

use serde::Deserialize;
use tapio_ahti::{
    Engine, Limits, Rules,
    answer::{self, Answer, Story},
    incident::{Certainty, Incident},
};
use tapio_occurrence::{
    Occurrence, Value,
    kubernetes::{Deleted, Fact as _, Object, Reference},
};
use ulid::Ulid;

/// Parsed once: that takes longer than most questions.
static RULES: LazyLock<Rules> = LazyLock::new(|| Rules::embedded().unwrap());

/// What Kubernetes says may be a moment older than its cause.
const SEEN_EARLY_NS: u64 = 5_000_000_000;

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

fn parse(lines: &str) -> Vec<Occurrence> {
    lines.lines().map(|line| Occurrence::read_json(line.as_bytes()).unwrap()).collect()
}

fn recorded(name: &str) -> String {
    fs::read_to_string(directory("tests/recorded").join(format!("{name}.jsonl"))).unwrap()
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
        let facts = parse(&fs::read_to_string(&path).unwrap());
        count += 1;
        if root == "none" {
            let incidents: Vec<_> = engine(&facts).incidents().into_iter().cloned().collect();
            wrong.extend(incidents.iter().map(|incident| format!("{name}: {}", incident.title)));
            continue;
        }
        let answer = answer(&facts, &asked);
        let shown = answer.incident.iter().flat_map(|incident| Story::of(incident).then);
        let times: Vec<_> = shown.map(|line| line.since_unix_ns).collect();
        if times.windows(2).any(|pair| pair[1] + SEEN_EARLY_NS < pair[0]) {
            wrong.push(format!("{name} is not in order of time\n{}", answer.text()));
        }
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

/// Several rules look for crashes, each in its own place: of a container that exits, and is killed by its probe, one finds them.
#[test]
fn what_one_rule_finds_another_does_not_rule_out() {
    for (name, asked) in [("configuration", "deploy/payments"), ("liveness", "deploy/orders")] {
        let incident = answer(&parse(&recorded(name)), asked).incident.unwrap();
        assert!(!incident.ruled_out.is_empty());
        assert!(!incident.ruled_out.iter().any(|text| text.contains("crashes of")), "{incident:#?}");
    }
}

/// A healthy cluster, over and over: each time with new pods of new revisions. Then a rollout fails.
#[test]
fn of_a_replayed_day_of_a_healthy_cluster_there_is_no_incident_and_then_there_is_one() {
    const DAY_NS: u64 = 86_400_000_000_000;
    let mut lines = recorded("healthy");
    let first = parse(&lines);
    let made = made_names(&first);
    let (start_ns, end_ns) = ends(&first);
    lines.extend(gone(&first, end_ns).iter().map(line));
    let mut engine = Engine::new(RULES.clone(), Limits::default());
    let (mut now_ns, mut rollouts) = (start_ns, 0);
    for round in 0..DAY_NS.div_ceil(end_ns - start_ns) {
        // Of the same length, and sorted as before.
        let rename = |lines: String, name: &String| lines.replace(name, &format!("{round:03}{}", &name[3..]));
        let facts = parse(&made.iter().fold(lines.clone(), rename));
        rollouts += facts.iter().filter(|fact| fact.message.contains(": restarted, by")).count();
        take(&mut engine, facts, start_ns, now_ns);
        now_ns += end_ns - start_ns;
    }
    assert!(rollouts > 200, "{rollouts} rollouts");
    let titles: Vec<_> = engine.incidents().into_iter().map(|incident| &incident.title).collect();
    assert!(titles.is_empty(), "{titles:#?}");

    let failure = parse(&recorded("image"));
    let start_ns = ends(&failure).0;
    take(&mut engine, failure, start_ns, now_ns);
    let incidents = engine.incidents();
    let [incident] = incidents.as_slice() else { panic!("{incidents:#?}") };
    assert!(is_of(incident, "Deployment shop/payments"), "{incident:#?}");
}

/// The times of the first and the last fact.
fn ends(facts: &[Occurrence]) -> (u64, u64) {
    let times = || facts.iter().map(|fact| fact.time_unix_ns);
    (times().min().unwrap(), times().max().unwrap())
}

fn line(fact: &Occurrence) -> String {
    let mut line = Vec::new();
    fact.write_json(&mut line);
    line.push(b'\n');
    String::from_utf8(line).unwrap()
}

/// What is made up for pods and their ReplicaSets: uids, revisions, and the ends of pods' names.
fn made_names(facts: &[Occurrence]) -> BTreeSet<String> {
    let mut made = BTreeSet::new();
    for data in facts.iter().map(|fact| &fact.data) {
        let Some(kind @ ("Pod" | "ReplicaSet")) = data.text("kind") else { continue };
        let end = data.text("name").and_then(|name| name.rsplit('-').next()).filter(|_| kind == "Pod");
        let names = [data.text("uid"), data.text("revision"), end].into_iter().flatten();
        made.extend(names.filter(|name| name.len() >= 5).map(str::to_owned));
    }
    made
}

/// What says that the pods and ReplicaSets that are left are gone.
fn gone(facts: &[Occurrence], at_ns: u64) -> Vec<Occurrence> {
    let mut left = BTreeMap::new();
    for fact in facts {
        if let Some(deleted) = Deleted::of(fact) {
            left.remove(&deleted.unwrap().object);
        } else if let Some(object) = Object::of(fact) {
            left.insert(object.unwrap().object, fact);
        }
    }
    left.retain(|object, _| ["Pod", "ReplicaSet"].contains(&&*object.kind));
    let gone = |(object, fact): (Reference, &Occurrence)| Occurrence {
        id: Ulid::from_parts(at_ns / 1_000_000, fact.id.random()),
        time_unix_ns: at_ns,
        kind: Deleted::TYPE.into(),
        data: Deleted { object }.to_data().unwrap(),
        ..fact.clone()
    };
    left.into_iter().map(gone).collect()
}

/// Takes facts at another time than when they were recorded.
fn take(engine: &mut Engine, facts: Vec<Occurrence>, recorded_ns: u64, now_ns: u64) {
    let moved = |time_ns: u64| time_ns - recorded_ns + now_ns;
    for mut fact in facts {
        fact.time_unix_ns = moved(fact.time_unix_ns);
        fact.id = Ulid::from_parts(fact.time_unix_ns / 1_000_000, fact.id.random());
        for (key, value) in &mut fact.data.0 {
            if let Value::Number(time_ns) = value
                && key.ends_with("_unix_ns")
            {
                *time_ns = time_ns.saturating_sub(recorded_ns) + now_ns;
            }
        }
        engine.take(&fact).unwrap();
    }
}
