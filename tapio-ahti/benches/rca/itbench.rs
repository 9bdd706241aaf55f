//! ITBench: which service's trouble leads to which, from alerts alone.
//!
//! Who calls whom is known from the other scenarios of the same application. Of the facts 30 % are left out, and 30 % are of
//! services that have nothing to do with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::Value;
use tapio_ahti::{Engine, Limits, Rules};
use tapio_occurrence::{
    kubernetes::{Condition, Reference, condition},
    signal::{ERRORS, LATENCY, STARVATION},
};

use crate::{
    case::{NAMESPACE, Wanted},
    describe::{list, text},
    facts::{Facts, Judged, SEC},
    files, nezha,
};

const NODE: &str = "node";
const START_NS: u64 = 1_700_000_000 * SEC;
/// When the system is known, before the first alert.
const BEFORE_NS: u64 = START_NS - 7_200 * SEC;
/// Alerts last until they are answered.
const MINUTES: u64 = 11;
/// How bad it is, alerts do not say: half of the calls, or half a second.
const HALF_OF_CALLS: u64 = 5_000;
const HALF_A_SECOND_US: u64 = 500_000;
/// What has nothing to do with it happens at any time of an hour.
const SPREAD_MINUTES: u64 = 60;
/// Of ten facts, left out, and added.
const LEFT_OUT: u64 = 3;
const FOREIGN: u64 = 3;

/// Cause and effect, as workloads.
type Edge = (String, String);

/// Trouble of a workload.
#[derive(Clone)]
struct Alert {
    of: String,
    /// The type of the fact that it stands for.
    kind: String,
    since_ns: u64,
}

/// What came of all scenarios.
#[derive(Default)]
struct Tally {
    scenarios: usize,
    wanted: usize,
    said: usize,
    right: usize,
    undirected: usize,
}

pub(crate) fn print(directory: &Path, asked: &Wanted) -> Result<(), String> {
    let scenarios = files::json_lines(&directory.join("scenarios.jsonl"))?;
    let [mut plain, mut at_once, mut at_any_time] = [(); 3].map(|()| Tally::default());
    for (nth, scenario) in scenarios.iter().enumerate() {
        let others = scenarios.iter().enumerate().filter(|(other, _)| *other != nth);
        let calls = agreed(others.flat_map(|(_, other)| calls(other)));
        let alerts = alerts(scenario);
        run(scenario, &alerts, &calls, asked, &mut plain)?;
        run(scenario, &disturbed(nth, scenario, &alerts, &calls, 0), &calls, asked, &mut at_once)?;
        let changed = disturbed(nth, scenario, &alerts, &calls, SPREAD_MINUTES);
        run(scenario, &changed, &calls, asked, &mut at_any_time)?;
    }
    println!(
        "\nitbench-chains: {} scenarios with edges between what alerts name; published: none",
        plain.scenarios
    );
    plain.print("as they are");
    at_once.print("30 % left out, 30 % foreign at the same second");
    at_any_time.print("30 % left out, 30 % foreign in the same hour");
    let labels = agreement(&scenarios);
    println!(
        "  most other scenarios say of the same pair: precision {:.2}, recall {:.2}",
        labels.precision(),
        labels.recall()
    );
    println!("itbench_chains_precision {:.3} ratio", at_any_time.precision());
    println!("itbench_chains_recall {:.3} ratio", at_any_time.recall());
    Ok(())
}

/// How far the labels agree: each is predicted by most of the other scenarios with the same alerts of the same two workloads.
fn agreement(scenarios: &[Value]) -> Tally {
    let mut known: BTreeMap<(String, String), Vec<bool>> = BTreeMap::new();
    for scenario in scenarios {
        let alerts = alerts(scenario);
        let named: BTreeSet<&str> = alerts.iter().map(|alert| alert.of.as_str()).collect();
        let edges = truth(scenario, &named);
        for (a, b) in named.iter().flat_map(|a| named.iter().map(move |b| (*a, *b))).filter(|(a, b)| a != b) {
            let of_pair = |of: &str| {
                let own = alerts.iter().filter(|alert| alert.of == of).map(|alert| alert.kind.as_str());
                format!("{of} {}", own.collect::<Vec<_>>().join(" "))
            };
            let pair = (of_pair(a), of_pair(b));
            known.entry(pair).or_default().push(edges.contains(&(a.to_owned(), b.to_owned())));
        }
    }
    let mut tally = Tally::default();
    for labels in known.values() {
        let edges = labels.iter().filter(|is_edge| **is_edge).count();
        for is_edge in labels.iter().copied() {
            let (others, of) = (edges - usize::from(is_edge), labels.len() - 1);
            let is_said = 2 * others > of;
            tally.wanted += usize::from(is_edge);
            tally.said += usize::from(is_said);
            tally.right += usize::from(is_said && is_edge);
        }
    }
    tally
}

/// Alerts of which some are left out, and some are added that have nothing to do with them, each this many minutes before
/// at most.
fn disturbed(
    nth: usize,
    scenario: &Value,
    alerts: &[Alert],
    calls: &BTreeSet<Edge>,
    spread_minutes: u64,
) -> Vec<Alert> {
    let all: BTreeSet<&str> = calls.iter().flat_map(|(a, b)| [a.as_str(), b.as_str()]).collect();
    let own: BTreeSet<&str> = alerts.iter().map(|alert| alert.of.as_str()).collect();
    let foreign: Vec<&str> =
        all.into_iter().filter(|name| !own.contains(name) && !is_part(scenario, name)).collect();
    let mut changed = Vec::new();
    for (place, alert) in alerts.iter().enumerate() {
        if dice(nth, place, 0) >= LEFT_OUT {
            changed.push(alert.clone());
        }
        if dice(nth, place, 1) < FOREIGN && !foreign.is_empty() {
            let of = foreign[dice(nth, place, 2) as usize * 7 % foreign.len()].to_owned();
            let before = dice(nth, place + 1, 2) * spread_minutes / 10;
            changed.push(Alert { of, since_ns: START_NS - before * 60 * SEC, ..alert.clone() });
        }
    }
    changed
}

/// A number from 0 to 9, always the same for the same fact.
fn dice(scenario: usize, place: usize, of: u64) -> u64 {
    let mut x = (scenario as u64 * 131 + place as u64) * 3 + of + 1;
    x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (x ^ (x >> 32)) % 10
}

/// The workload of a group: that of the names in Kubernetes that it stands for, such as `^valkey-cart-[a-z0-9]+$`, since
/// scenarios name the same group in several ways; else that of its id.
fn base(scenario: &Value, group: &str) -> String {
    let gt = scenario.get("gt").unwrap_or(&Value::Null);
    let known = list(gt, "groups").iter().find(|known| text(known, "id") == group);
    let pattern = known.and_then(|known| list(known, "filter").first()?.as_str()).unwrap_or_default();
    let named = pattern.trim_start_matches(['^', '.', '*']);
    let named = &named[..named.find(['\\', '[', '.', '*', '$']).unwrap_or(named.len())];
    let mut name = if named.is_empty() { group } else { named }.trim_end_matches('-').to_lowercase();
    for part in ["-1", "-2", "-service", "-pod", "-deployment", "-replicaset"] {
        name = name.trim_end_matches(part).to_owned();
    }
    let name = name.replace('-', "");
    name.strip_suffix("service").filter(|name| !name.is_empty()).unwrap_or(&name).to_owned()
}

fn is_part(scenario: &Value, name: &str) -> bool {
    let gt = scenario.get("gt").unwrap_or(&Value::Null);
    list(gt, "groups").iter().any(|group| base(scenario, text(group, "id")) == name)
}

fn alerts(scenario: &Value) -> Vec<Alert> {
    let gt = scenario.get("gt").unwrap_or(&Value::Null);
    let known = list(gt, "alerts").iter().filter_map(|alert| {
        let kind = match text(alert, "id") {
            "HighRequestErrorRate" => ERRORS,
            "HighRequestLatency" => LATENCY,
            "NoRequestsReceived" | "NoRequestsOpened" | "NoDatabaseOperations" => STARVATION,
            "KubePodNotReady" => condition::NOT_READY,
            "KubePodCrashLooping" | "KubeContainerWaiting" => condition::WAITING,
            _ => return None,
        };
        let group = text(alert, "group_id");
        // Some alerts are of nothing in particular.
        (!group.is_empty()).then(|| (base(scenario, group), kind.to_owned()))
    });
    let all: BTreeSet<(String, String)> = known.collect();
    all.into_iter().map(|(of, kind)| Alert { of, kind, since_ns: START_NS }).collect()
}

fn is_starvation(effect: &str) -> bool {
    let effect = effect.to_lowercase();
    ["no request", "receives no", "no database", "no order", "starv", "stops receiving", "no longer receives"]
        .iter()
        .any(|words| effect.contains(words))
}

/// Who calls whom, by what a scenario says of how trouble spreads: to who calls, but quiet to who is called.
fn calls(scenario: &Value) -> Vec<Edge> {
    let gt = scenario.get("gt").unwrap_or(&Value::Null);
    let is_service = |id: &str| {
        let group = list(gt, "groups").iter().find(|group| text(group, "id") == id);
        group.is_some_and(|group| matches!(text(group, "kind"), "Service" | "Pod"))
    };
    let of = list(gt, "propagations").iter().filter_map(|spread| {
        let (source, target) = (text(spread, "source"), text(spread, "target"));
        let ends = (base(scenario, source), base(scenario, target));
        (ends.0 != ends.1 && is_service(source) && is_service(target)).then(|| {
            match is_starvation(text(spread, "effect")) {
                true => ends,
                false => (ends.1, ends.0),
            }
        })
    });
    of.collect()
}

/// Who calls whom, where scenarios contradict each other by what most of them say; a single one may be mistaken.
fn agreed(said: impl Iterator<Item = Edge>) -> BTreeSet<Edge> {
    let mut counts: BTreeMap<Edge, usize> = BTreeMap::new();
    said.for_each(|edge| *counts.entry(edge).or_default() += 1);
    let is_agreed = |((caller, callee), count): &(&Edge, &usize)| {
        **count > 1 && **count > counts.get(&(callee.clone(), caller.clone())).copied().unwrap_or_default()
    };
    counts.iter().filter(is_agreed).map(|(edge, _)| edge.clone()).collect()
}

/// The edges between the workloads of alerts, past those without.
fn truth(scenario: &Value, named: &BTreeSet<&str>) -> BTreeSet<Edge> {
    let gt = scenario.get("gt").unwrap_or(&Value::Null);
    let mut next: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for spread in list(gt, "propagations") {
        let (source, target) = (text(spread, "source"), text(spread, "target"));
        next.entry(base(scenario, source)).or_default().insert(base(scenario, target));
    }
    let mut edges = BTreeSet::new();
    for from in named {
        let mut open: Vec<&String> = next.get(*from).into_iter().flatten().collect();
        let mut seen: BTreeSet<&String> = BTreeSet::new();
        while let Some(here) = open.pop() {
            if !seen.insert(here) || here == from {
                continue;
            }
            if named.contains(here.as_str()) {
                edges.insert(((*from).to_owned(), here.clone()));
            } else {
                open.extend(next.get(here).into_iter().flatten());
            }
        }
    }
    edges
}

fn run(
    scenario: &Value,
    alerts: &[Alert],
    calls: &BTreeSet<Edge>,
    asked: &Wanted,
    tally: &mut Tally,
) -> Result<(), String> {
    let named: BTreeSet<&str> = alerts.iter().map(|alert| alert.of.as_str()).collect();
    let wanted = truth(scenario, &named);
    if wanted.is_empty() {
        return Ok(());
    }
    let mut facts = Facts::default();
    facts.watched(&[NODE], BEFORE_NS, START_NS + MINUTES * 60 * SEC);
    let edges: Vec<(&str, &str)> = calls.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let mut nodes: BTreeMap<&str, &str> = edges.iter().flat_map(|(a, b)| [(*a, NODE), (*b, NODE)]).collect();
    nodes.extend(named.iter().map(|name| (*name, NODE)));
    nezha::system(&mut facts, &nodes, &edges, BEFORE_NS);
    for Alert { of: name, kind, since_ns } in alerts {
        if [condition::NOT_READY, condition::WAITING].contains(&kind.as_str()) {
            let pod = nezha::pod_of(name);
            let mut state = Condition {
                object: Reference {
                    kind: "Pod".to_owned(),
                    namespace: Some(NAMESPACE.to_owned()),
                    uid: Some(format!("Pod-{pod}")),
                    name: pod,
                },
                condition: kind.clone(),
                status: "true".to_owned(),
                reason: (kind == condition::WAITING).then(|| "CrashLoopBackOff".to_owned()),
                ..Condition::default()
            };
            facts.portti(*since_ns, &state, &format!("{name}: {kind}"));
            state.status = "false".to_owned();
            facts.portti(since_ns + MINUTES * 60 * SEC, &state, "");
            continue;
        }
        let value = if kind == LATENCY { HALF_A_SECOND_US } else { HALF_OF_CALLS };
        for minute in 0..MINUTES {
            let (at, judged) = (since_ns + minute * 60 * SEC, Judged { value, normal: 0 });
            nezha::signal(&mut facts, at, kind, name, judged, &format!("{name}: {kind}"));
        }
    }
    let mut engine = Engine::new(Rules::embedded().map_err(|error| error.to_string())?, Limits::default());
    facts.all.sort_by_key(|fact| (fact.time_unix_ns, fact.id));
    for fact in &facts.all {
        engine.take(fact).map_err(|error| error.to_string())?;
    }
    let mut said: BTreeSet<Edge> = BTreeSet::new();
    for incident in engine.incidents() {
        let name = |at: usize| incident.lines.get(at).map(|line| line.workload.name.clone());
        let steps = incident.chain.iter().filter_map(|step| name(step.cause).zip(name(step.effect)));
        said.extend(steps.filter(|(cause, effect)| cause != effect));
    }
    if asked.lists_wrong {
        let show = |edges: Vec<&Edge>| {
            edges.iter().map(|(cause, effect)| format!("{cause} -> {effect}")).collect::<Vec<_>>().join(", ")
        };
        let of = text(scenario, "id");
        let alerts: Vec<_> = alerts.iter().map(|alert| format!("{} {}", alert.of, alert.kind)).collect();
        println!("  {of}: alerts {}", alerts.join(", "));
        println!("  {of}: said and wrong: {}", show(said.difference(&wanted).collect()));
        println!("  {of}: not said: {}", show(wanted.difference(&said).collect()));
    }
    tally.scenarios += 1;
    tally.wanted += wanted.len();
    tally.said += said.len();
    tally.right += said.intersection(&wanted).count();
    let turned = |(a, b): &Edge| wanted.contains(&(b.clone(), a.clone()));
    tally.undirected += said.iter().filter(|edge| wanted.contains(*edge) || turned(edge)).count();
    Ok(())
}

impl Tally {
    fn precision(&self) -> f64 {
        self.right as f64 / self.said.max(1) as f64
    }

    fn recall(&self) -> f64 {
        self.right as f64 / self.wanted.max(1) as f64
    }

    fn print(&self, what: &str) {
        println!(
            "  {what:<46} edges {:>4}, said {:>4}: precision {:.2} (either direction {:.2}), recall {:.2}",
            self.wanted,
            self.said,
            self.precision(),
            self.undirected as f64 / self.said.max(1) as f64,
            self.recall()
        );
    }
}
