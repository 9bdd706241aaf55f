//! Links: one finding explains another, by a rule.

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use super::{Known, rates::new_against_old};
use crate::{
    finding::{Finding, FindingId},
    graph::{EntityId, Graph, Step},
    rule::{Class, Cover, Evidence, From, Lag, Pair, Rule},
};

/// Weaker links are not considered.
const WEAKEST: f64 = 0.02;
/// A link is never surer than this, however much speaks for it.
const SUREST: f64 = 0.99;
/// Part of all lags that the log-normal distribution does not have.
const FLAT: f64 = 0.1;
/// What a change loses whose pods did without the effect until the next one, in natural logarithms of odds: 20 to 1.
const REPLACED: f64 = -3.0;
/// How much later than its effect a cause may seem to begin: clocks of one host, of two, and times of the API server,
/// which are whole seconds and a controller's delay.
const SAME_CLOCK_NS: u64 = 2_000_000_000;
const OTHER_CLOCK_NS: u64 = 10_000_000_000;

/// The part of an effect that has to come after its cause.
const MOST: f64 = 0.5;

/// One finding explains another.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) cause: FindingId,
    pub(crate) effect: FindingId,
    /// The rule, as an index.
    pub(crate) rule: usize,
    /// How likely the cause has had this effect, from 0 to 1.
    pub(crate) strength: f64,
    /// Whether the mechanism is proved.
    pub(crate) is_certain: bool,
}

/// What a rule finds for an effect.
pub(crate) enum Found {
    /// One or more.
    Present,
    /// None, and all of what would show one was watched.
    Absent,
    /// None, but what would show one was not watched; with what was not.
    NotCovered(Vec<String>),
}

/// The entities that links depend on.
pub(crate) type Reach = BTreeSet<EntityId>;

/// All links to an effect.
pub(crate) fn causes(known: Known<'_>, effect: FindingId) -> (Vec<Link>, Reach) {
    let Some(finding) = known.findings.get(effect) else { return Default::default() };
    let at = finding.onset_ns;
    let mut ways = Ways::of(known.graph, finding);
    ways.ends.extend(known.graph.owners(finding.key.entity, at));
    for pod in finding.pods.iter().chain(finding.peer.and_then(|peer| peer.entity).as_ref()) {
        ways.ends.extend(known.graph.owners(*pod, at));
    }
    let rules = known.rules.with_effect(&finding.key.kind);
    let links = rules.flat_map(|(index, rule)| by_rule(known, index, rule, effect, &mut ways)).collect();
    (links, ways.ends)
}

/// What a rule has to say about an effect; `None` if it is not about it.
pub(crate) fn look<'a>(
    known: Known<'a>,
    index: usize,
    rule: &'a Rule,
    effect: FindingId,
    ways: &mut Ways<'a>,
) -> Option<Found> {
    let finding = ways.effect;
    let is_of =
        known.graph.get(finding.key.entity).is_some_and(|entity| rule.effect.is_of(&entity.name.kind));
    if !is_of || !rule.effect.fits(finding) || starts(rule, finding).is_empty() {
        return None;
    }
    if !by_rule(known, index, rule, effect, ways).is_empty() {
        return Some(Found::Present);
    }
    if known.now_ns.saturating_sub(finding.onset_ns) < rule.reported_after_s.saturating_mul(1_000_000_000) {
        return None;
    }
    let missing = not_covered(known, rule, finding);
    Some(if missing.is_empty() { Found::Absent } else { Found::NotCovered(missing) })
}

fn starts(rule: &Rule, effect: &Finding) -> Vec<EntityId> {
    match rule.from {
        From::Entity => {
            let mut all = vec![effect.key.entity];
            all.extend(effect.pods.iter().filter(|pod| **pod != effect.key.entity));
            all
        }
        From::Peer => effect.peer.and_then(|peer| peer.entity).into_iter().collect(),
        From::Actor => effect.actor.into_iter().collect(),
    }
}

/// Where the paths of rules lead to from an effect. Many begin with the same steps.
pub(crate) struct Ways<'a> {
    graph: &'a Graph,
    effect: &'a Finding,
    along: BTreeMap<(From, &'a [Step]), Rc<BTreeSet<EntityId>>>,
    /// Where whole paths lead to.
    ends: Reach,
}

impl<'a> Ways<'a> {
    pub(crate) const fn of(graph: &'a Graph, effect: &'a Finding) -> Self {
        Self { graph, effect, along: BTreeMap::new(), ends: Reach::new() }
    }

    fn along(&mut self, rule: &Rule, path: &'a [Step]) -> Rc<BTreeSet<EntityId>> {
        if let Some(there) = self.along.get(&(rule.from, path)) {
            return Rc::clone(there);
        }
        let there = match path.split_last() {
            None => starts(rule, self.effect).into_iter().collect(),
            Some((last, before)) => {
                let here = self.along(rule, before);
                self.graph.take(&here, *last, self.effect.onset_ns)
            }
        };
        let there = Rc::new(there);
        self.along.insert((rule.from, path), Rc::clone(&there));
        there
    }
}

fn by_rule<'a>(
    known: Known<'a>,
    index: usize,
    rule: &'a Rule,
    effect: FindingId,
    ways: &mut Ways<'a>,
) -> Vec<Link> {
    let Known { graph, findings, .. } = known;
    let finding = ways.effect;
    let is_of = graph.get(finding.key.entity).is_some_and(|entity| rule.effect.is_of(&entity.name.kind));
    if !is_of || !rule.effect.fits(finding) {
        return Vec::new();
    }
    let mut links: BTreeMap<FindingId, Link> = BTreeMap::new();
    for entity in ways.along(rule, &rule.path).iter().copied() {
        ways.ends.insert(entity);
        if !graph.get(entity).is_some_and(|entity| rule.cause.is_of(&entity.name.kind)) {
            continue;
        }
        for (cause, other) in findings.of(entity) {
            if cause == effect || !rule.cause.fits(other) {
                continue;
            }
            let Some((lag_s, share)) = lag(other, finding, rule.lag.longest_s) else { continue };
            let was_before = || was_before(known, other, finding);
            let before = LazyCell::new(&was_before as &dyn Fn() -> bool);
            let pair = Pair { graph, findings, cause: other, effect: finding, before };
            if rule.requires.iter().any(|evidence| pair.holds(*evidence) != Some(true)) {
                continue;
            }
            let is_of_ages =
                |evidence: Evidence| matches!(evidence, Evidence::OnlyNewPods | Evidence::OldPodsToo);
            // Where there are new and old pods, how often they have the effect says more than whether they do.
            let compares = rule.compare || rule.weights.keys().any(|evidence| is_of_ages(*evidence));
            // What was there before the change does not need it.
            let compared = (compares && (rule.compare || !*pair.before) && !known.without.old_new)
                .then(|| new_against_old(known, other, finding))
                .flatten()
                // Where only old pods have it, a rule that does not compare weighs that.
                .filter(|odds| rule.compare || *odds != 0.0);
            let is_meant =
                |evidence: Evidence| !is_of_ages(evidence) || compared.is_none() && !known.without.old_new;
            let holding = rule.weights.iter().filter(|(evidence, _)| is_meant(**evidence));
            let holding = holding.filter(|(evidence, _)| pair.holds(**evidence) == Some(true));
            let is_replaced = was_replaced(known, other, finding);
            let replaced = if is_replaced { REPLACED } else { 0.0 };
            let weight: f64 =
                holding.map(|(_, weight)| weight).sum::<f64>() + compared.unwrap_or_default() + replaced;
            let proved = |all: &Vec<Evidence>| all.iter().all(|evidence| pair.holds(*evidence) == Some(true));
            let is_certain = !is_replaced && rule.certain.iter().any(proved);
            let strength = match is_certain {
                true => SUREST * share,
                false => (rule.strength * fit(known, rule, lag_s) * weight.exp() * share).min(SUREST),
            };
            if strength >= WEAKEST {
                links.insert(cause, Link { cause, effect, rule: index, strength, is_certain });
            }
        }
    }
    links.into_values().collect()
}

/// Whether the effect's workload had the same effect before the cause.
fn was_before(known: Known<'_>, cause: &Finding, effect: &Finding) -> bool {
    let workload = known.graph.workload(effect.key.entity, effect.onset_ns);
    // Pods that a rollout replaced existed before it.
    let mut pods = known.graph.walk(&[workload], &[Step::Owned], effect.onset_ns);
    pods.extend(known.graph.walk(&[workload], &[Step::Owned], cause.onset_ns.saturating_sub(1)));
    let mut all = pods.into_iter().flat_map(|pod| known.findings.of(pod));
    // One probe that fails while a pod starts is not what fails for good.
    let least = known.rules.kind_of(effect).map_or(1, |kind| kind.at_least);
    all.any(|(_, other)| {
        other.key.kind == effect.key.kind
            && other.onset_ns < cause.onset_ns
            && other.count.saturating_sub(other.times.count_from(cause.onset_ns)) >= least
    })
}

/// Whether the pods of a change did without the effect until the next change of its kind, for as long as the effect took
/// after the last one: of many rollouts a day, it is the last one.
fn was_replaced(known: Known<'_>, cause: &Finding, effect: &Finding) -> bool {
    let kind_of = |finding: &Finding| {
        known.rules.kind_of(finding).filter(|kind| kind.class == Class::Change).map(|kind| &kind.names)
    };
    let Some(kind) = kind_of(cause) else { return false };
    let later = known.findings.of(cause.key.entity).map(|(_, other)| other).filter(|other| {
        (cause.onset_ns + 1..=effect.onset_ns).contains(&other.onset_ns) && kind_of(other) == Some(kind)
    });
    let later: BTreeSet<u64> = later.map(|other| other.onset_ns).collect();
    let (Some(next_ns), Some(last_ns)) = (later.first(), later.last()) else { return false };
    if next_ns - cause.onset_ns < effect.onset_ns - last_ns {
        return false;
    }
    let pods = known.graph.walk(&[cause.key.entity], &[Step::Owned], next_ns - 1);
    // Times of the API server are whole seconds.
    let is_new = |pod: &EntityId| {
        known.graph.get(*pod).is_some_and(|entity| {
            entity.is_from_api() && entity.created_ns().saturating_add(1_000_000_000) >= cause.onset_ns
        })
    };
    let mut own = pods.into_iter().filter(|id| known.graph.is(*id, "Pod")).filter(is_new).peekable();
    let has = |pod: EntityId| {
        effect.pods.contains(&pod)
            || effect.of_pods.contains_key(&pod)
            || known.findings.of(pod).any(|(_, other)| other.key.kind == effect.key.kind)
    };
    own.peek().is_some() && !own.any(has)
}

/// Seconds from cause to effect, and which part of the effect came after the cause; `None` if the cause is too late, or too
/// early. What began a little before its cause, such as with the pods that a rollout ended, is explained if most of it came
/// after it.
fn lag(cause: &Finding, effect: &Finding, longest_s: f64) -> Option<(f64, f64)> {
    let same_clock = !cause.node.is_empty() && cause.node == effect.node;
    let tolerated = if same_clock { SAME_CLOCK_NS } else { OTHER_CLOCK_NS };
    let (onset_ns, share) = match cause.onset_ns > effect.onset_ns.saturating_add(tolerated) {
        true => {
            effect.times.from(cause.onset_ns.saturating_sub(tolerated)).filter(|(_, share)| *share >= MOST)?
        }
        false => (effect.onset_ns, 1.0),
    };
    // A state, and what lasts, is a cause as long as it does.
    let lasts =
        cause.is_state() && cause.ended_ns.is_none_or(|ended| ended >= onset_ns) || cause.last_ns >= onset_ns;
    let lag_s = onset_ns.saturating_sub(cause.onset_ns) as f64 / 1e9;
    match lag_s > longest_s {
        true if lasts && !crate::fact::is_change(&cause.key.kind) => Some((longest_s, share)),
        true => None,
        false => Some((lag_s, share)),
    }
}

/// How well a lag fits, from 0 to 1.
fn fit(known: Known<'_>, rule: &Rule, lag_s: f64) -> f64 {
    let before = density(lag_s, &rule.lag);
    if known.without.learning { before } else { known.usual.fit(&rule.rule, lag_s, before) }
}

/// How well it fits by itself: 1 up to the median.
fn density(lag_s: f64, lag: &Lag) -> f64 {
    if lag_s <= lag.median_s {
        return 1.0;
    }
    let z = (lag_s / lag.median_s).ln() / lag.spread;
    (1.0 - FLAT).mul_add((-z * z / 2.0).exp(), FLAT)
}

/// The kinds that have to be watched to know of rollouts and of the state of pods.
const WORKLOADS: &[&str] =
    &["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Pod", "Service", "EndpointSlice"];

/// What was not watched of what would show a cause.
fn not_covered(known: Known<'_>, rule: &Rule, effect: &Finding) -> Vec<String> {
    let mut missing = Vec::new();
    let at = effect.onset_ns;
    let goes_on = effect.is_state() && effect.ended_ns.is_none();
    let until_ns = if goes_on { known.now_ns } else { effect.last_ns.min(known.now_ns) };
    for cover in &rule.covered_by {
        match cover {
            Cover::Kubernetes => {
                let from_ns = at.saturating_sub((rule.lag.longest_s.min(3_600.0) * 1e9) as u64);
                let time = |unix_ns| {
                    let time = tapio_occurrence::timestamp(unix_ns).to_string();
                    time.get(11..19).unwrap_or(&time).to_owned()
                };
                if let Some(last) = known.seen.kubernetes_lost_ns(at) {
                    missing.push(format!("changes after {} are not known", time(last)));
                }
                let gaps = known.seen.kubernetes_gaps(from_ns, at);
                missing.extend(gaps.map(|(last, next)| {
                    format!("Kubernetes was not watched from {} to {}", time(last), time(next))
                }));
                match known.seen.synced_ns() {
                    Some(synced) if synced <= from_ns => {}
                    Some(synced) if synced <= at => {
                        missing.push(format!("changes before {} are not known", time(synced)));
                    }
                    _ => missing.push("changes in Kubernetes are not known".to_owned()),
                }
                let kinds = rule.cause.of.iter().map(String::as_str);
                let kinds: Vec<&str> =
                    if rule.cause.of.is_empty() { WORKLOADS.to_vec() } else { kinds.collect() };
                let unwatched = kinds.into_iter().filter(|kind| known.seen.missing_kind(kind).is_some());
                missing.extend(unwatched.map(|kind| format!("{kind}s are not watched")));
            }
            Cover::Agents => {
                let mut path = rule.path.clone();
                path.push(Step::Owned);
                let pods = known.graph.walk(&starts(rule, effect), &path, at);
                let nodes: BTreeSet<_> =
                    pods.into_iter().filter_map(|pod| known.graph.node(pod, at)).collect();
                if nodes.is_empty() {
                    missing.push("the pods in question, and so their nodes, are not known".to_owned());
                }
                // Types begin with the observer that reports them.
                let observers: BTreeSet<&str> =
                    rule.cause.kinds.iter().filter_map(|kind| kind.split('.').next()).collect();
                for node in nodes.into_iter().filter_map(|node| known.graph.get(node)) {
                    let name = &node.name.name;
                    // Somebody has to have looked when it began, and up to its end.
                    if !known.seen.has_node(name, at) || !known.seen.has_node(name, until_ns) {
                        missing.push(format!("no agent on {name}"));
                    }
                    let missing_here =
                        observers.iter().filter(|o| known.seen.missing_observer(name, o).is_some());
                    missing.extend(missing_here.map(|observer| format!("{observer} does not run on {name}")));
                }
            }
        }
    }
    missing
}

/// Whether a finding can be a root cause.
pub(crate) fn can_be_root(known: Known<'_>, finding: &Finding) -> bool {
    known.rules.kind_of(finding).is_some_and(|kind| kind.class != Class::Symptom)
}
