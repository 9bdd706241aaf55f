mod ask;
mod attention;
mod cpu;
mod day;
mod health;
mod kit;
mod link;
mod page;
mod properties;
mod scenarios;
mod signals;
mod state;

use std::sync::LazyLock;

use tapio_occurrence::{
    Data, Value,
    kubernetes::{Missing, Object, Pair, Reference, condition},
};

use self::kit::Cluster;
use crate::{Engine, Limits, Rules};

/// Parsed once: that takes longer than most tests.
static RULES: LazyLock<Rules> = LazyLock::new(|| Rules::embedded().unwrap());

fn engine() -> Engine {
    Engine::new(RULES.clone(), Limits::default())
}

#[test]
fn the_rules_that_come_with_it_are_valid() {
    let rules = Rules::embedded().unwrap();
    let mut types: Vec<_> =
        rules.rules.iter().flat_map(|rule| rule.effect.kinds.iter().chain(&rule.cause.kinds)).collect();
    types.sort_unstable();
    types.dedup();
    for kind in types {
        assert!(rules.kinds.iter().any(|known| known.finding.kinds.contains(kind)), "{kind} is no kind");
    }
}

#[test]
fn a_wrong_rule_file_is_refused_with_its_place() {
    let wrong = |text: &str| Rules::parse([("mine.yaml", text)]).unwrap_err().to_string();
    let rule = "rules:\n  - rule: a\n    effect: {type: b}\n    cause: {type: c}\n    path: [owner]\n    \
                lag: {median_s: 10, longest_s: 60}\n    strength: 0.5\n    because: d\n";
    Rules::parse([("mine.yaml", rule)]).unwrap();
    let error = wrong(&rule.replace("owner", "over"));
    assert!(
        error.starts_with("mine.yaml:5:") && error.contains("over") && error.contains("owned"),
        "{error}"
    );
    let error = wrong(&rule.replace("strength: 0.5", "strength: 2"));
    assert!(error.contains("rule a") && error.contains("strength: 2 is not between 0 and 1"), "{error}");
    let error = wrong(&rule.replace("because", "why"));
    assert!(error.contains("why") && error.starts_with("mine.yaml:8"), "{error}");
    let error = wrong(&format!("{rule}    absent: \"{{pod}}\"\n"));
    assert!(error.contains("{pod: there is no such name"), "{error}");
}

#[test]
fn repeats_change_nothing() {
    let mut cluster = Cluster::shop();
    cluster.roll_out("payments", "pay:2");
    cluster.wait(60);
    cluster.oom("payments");
    cluster.refused("checkout", "payments", 40);
    cluster.wait(60);
    let mut once = engine();
    let mut twice = engine();
    for fact in &cluster.facts {
        once.take(fact).unwrap();
        twice.take(fact).unwrap();
        twice.take(fact).unwrap();
    }
    let of_once: Vec<_> = once.incidents().into_iter().cloned().collect();
    assert_eq!(of_once.len(), 1);
    assert_eq!(of_once, twice.incidents().into_iter().cloned().collect::<Vec<_>>());
    assert_eq!(twice.ledger().repeated, cluster.facts.len() as u64);
}

#[test]
fn what_is_impossible_is_refused_and_changes_nothing() {
    let mut cluster = Cluster::shop();
    let mut long =
        Object { object: Reference { kind: "Pod".to_owned(), ..Reference::default() }, ..Object::default() };
    long.object.name = "x".repeat(1 << 20);
    cluster.portti(&long, "");
    let mut wide =
        Object { object: Reference { kind: "Pod".to_owned(), ..Reference::default() }, ..Object::default() };
    wide.labels = vec![Pair { key: "a".to_owned(), value: "b".to_owned() }; 3_000];
    cluster.portti(&wide, "");
    let mut engine = engine();
    let errors: Vec<_> = cluster.facts.iter().filter_map(|fact| engine.take(fact).err()).collect();
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(
        texts[0].contains("a name of 1048576 bytes") && texts[1].contains("more than 2048 entries"),
        "{texts:?}"
    );
    assert_eq!(engine.ledger().refused, 2);
}

#[test]
fn a_million_facts_of_one_object_are_bounded() {
    let mut cluster = Cluster::shop();
    cluster.oom("payments");
    let mut fact = cluster.facts.pop().unwrap();
    let mut engine = engine();
    for nth in 0..200_000u64 {
        fact.id = ulid::Ulid::from_parts(fact.time_unix_ns / 1_000_000, u128::from(nth));
        fact.time_unix_ns += 1_000_000;
        engine.take(&fact).unwrap();
    }
    let findings = engine.stock().findings;
    assert_eq!(findings, 1);
    assert_eq!(engine.findings()[0].count, 200_000);
}

#[test]
fn what_is_not_watched_is_not_ruled_out() {
    let mut cluster = Cluster::shop();
    cluster.synced.missing = vec![Missing { kind: "Secret".to_owned(), reason: "off".to_owned() }];
    // As agents send it.
    let observer = Data::from([
        ("observer", "container".into()),
        ("state", "failed".into()),
        ("missing", "it was stopped".into()),
    ]);
    cluster.heartbeat(Data::from([("observers", Value::List(vec![observer]))]));
    for _ in 0..3 {
        let data = Data::from([("status", Value::from(1u64))]);
        cluster.agent("container.exit_error", "payments", 0, "payments exited with 1", data);
        cluster.wait(20);
    }
    cluster.refused("checkout", "stock", 40);
    cluster.wait(5);
    let why = cluster.why("payments");
    assert!(why.missing.iter().any(|text| *text == "Secrets are not watched"), "{why:#?}");
    assert!(!why.ruled_out.iter().any(|text| text.contains("configured")), "{why:#?}");
    let refused = cluster.why("checkout");
    assert!(
        refused.missing.iter().any(|text| text.starts_with("container does not run on node-")),
        "{refused:#?}"
    );
    assert!(!refused.ruled_out.iter().any(|text| *text == "crashes of stock"), "{refused:#?}");
    assert!(cluster.run().coverage().degraded.iter().any(|text| text.contains("it was stopped")));
}

#[test]
fn while_kubernetes_is_not_watched_no_change_is_ruled_out() {
    let mut cluster = Cluster::shop();
    cluster.is_unwatched = true;
    cluster.wait(600);
    cluster.oom("payments");
    cluster.wait(60);
    let why = cluster.why("payments");
    assert!(why.missing.iter().any(|text| text.starts_with("changes after ")), "{why:#?}");
    assert!(why.ruled_out.is_empty(), "{why:#?}");
}

#[test]
fn a_past_gap_is_missing_as_long_as_a_change_in_it_could_be_the_cause() {
    let why = |cluster: &Cluster| {
        let mut cluster = cluster.clone();
        cluster.oom("payments");
        cluster.wait(60);
        cluster.why("payments")
    };
    let mut cluster = Cluster::shop();
    assert!(!why(&cluster).missing.iter().any(|text| text.contains("watched")));
    cluster.is_unwatched = true;
    let since = cluster.time_in(0);
    cluster.wait(600);
    cluster.is_unwatched = false;
    let until = cluster.time_in(30);
    cluster.wait(900);
    let missing = format!("Kubernetes was not watched from {since} to {until}");
    let during = why(&cluster);
    assert!(during.missing.iter().any(|text| **text == *missing), "{missing}: {during:#?}");
    assert!(during.ruled_out.is_empty(), "{during:#?}");
    // Two hours later nothing that happened then is looked for.
    cluster.wait(7_200);
    let later = why(&cluster);
    assert!(!later.missing.iter().any(|text| text.contains("watched")), "{later:#?}");
    assert!(!later.ruled_out.is_empty(), "{later:#?}");
}

#[test]
fn each_line_says_whose_it_is() {
    let mut cluster = Cluster::shop();
    cluster.oom("payments");
    let data = Data::from([("seconds", Value::from(60u64))]);
    cluster.agent("scheduler.latency", "payments", 0, "payments waits for a node", data);
    let lines = cluster.run().findings();
    let source = |kind: &str| lines.iter().find(|line| line.kind == kind).map(|line| line.source.as_ref());
    assert_eq!(source("scheduler.latency"), Some("scheduler"), "{lines:#?}");
    assert_eq!(source("container.oom_kill"), Some("kernel"));
}

#[test]
fn what_is_held_and_let_go_is_counted() {
    let mut cluster = Cluster::shop();
    cluster.oom("payments");
    cluster.wait(60);
    let mut engine = cluster.run();
    let stock = engine.stock();
    assert_eq!(stock.incidents.values().sum::<usize>(), 1, "{stock:?}");
    assert_eq!(stock.connections, 4, "{stock:?}");
    assert!(stock.versions >= stock.entities / 2 && stock.rules > 10 && stock.findings > 0, "{stock:?}");
    let opened: Vec<_> = engine.opened_after(0).collect();
    assert_eq!((opened.len(), opened[0].0), (1, 1));
    assert!(opened[0].1.abs_diff(cluster.now_ns) < 120_000_000_000, "{opened:?}");
    assert_eq!(engine.opened_after(1).count(), 0);
    // Two days later only what the API server knows is left.
    let mut late = cluster.facts.last().unwrap().clone();
    for days in 1..=96 {
        late.time_unix_ns = cluster.now_ns + days * 1_800_000_000_000;
        late.id = ulid::Ulid::from_parts(late.time_unix_ns / 1_000_000, u128::from(days));
        engine.take(&late).unwrap();
    }
    let (stock, ledger) = (engine.stock(), engine.ledger());
    assert_eq!((stock.connections, ledger.expired_connections), (0, 4), "{stock:?} {ledger:?}");
    assert_eq!((stock.findings, ledger.expired_findings > 0), (0, true), "{stock:?} {ledger:?}");
}

#[test]
fn what_is_said_again_changes_nothing() {
    let mut cluster = Cluster::shop();
    let pod = cluster.newest("payments");
    cluster.condition("Pod", &pod, condition::NOT_READY, "ContainersNotReady", "containers are not ready");
    cluster.oom("payments");
    cluster.wait(120);
    let before = cluster.why("payments");
    let mut again = cluster.facts.clone();
    again.retain(|fact| ["kubernetes.object", "kubernetes.condition"].contains(&&*fact.kind));
    assert!(again.iter().any(|fact| fact.kind == "kubernetes.condition"));
    for (nth, fact) in again.iter_mut().enumerate() {
        fact.id = ulid::Ulid::from_parts(fact.time_unix_ns / 1_000_000, u128::MAX - nth as u128);
    }
    cluster.facts.extend(again);
    assert_eq!(cluster.why("payments"), before);
}
