//! The smallest set of causes that explains the findings of a component.
//!
//! A cause scores in natural logarithms of odds: its prior, plus for each group of findings how much likelier they are
//! with it than without, at most [`MOST`] each, so that a cascade does not count fifty times. The cause with the highest
//! score is taken, then another only if it adds [`ANOTHER`] for what is left.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Component, Kin, Known, Link, is_standing, kin, link, order};
use crate::{
    calibration::Lead,
    fact::{EDIT, REVERT},
    finding::{Finding, FindingId},
    rule::Class,
};

/// Most that one group of findings adds.
const MOST: f64 = 6.0;
/// What another cause has to add: odds of 20 to 1.
const ANOTHER: f64 = 3.0;
/// Most causes of one component.
const MAX_CAUSES: usize = 3;
/// What a standing finding loses as a cause.
const STANDING: f64 = -3.9;
/// From this margin over the next best cause on, a cause is likely: odds of 4 to 1.
const MARGIN: f64 = 1.4;
/// A cause in between is preferred if its link is at least this part as strong.
const NEARER: f64 = 0.5;
/// A cause that explains nothing has to be likelier than this by itself.
const UNLIKELY: f64 = -1.75;
/// Candidates that are kept with an explanation.
const MAX_CANDIDATES: usize = 16;
/// Candidates of which it is kept what they explain.
const MAX_SHOWN: usize = 6;
/// What is kept of what a candidate explains.
const MAX_EXPLAINED: usize = 16;
/// Longest chain.
const MAX_HOPS: usize = 6;

/// How sure an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    /// The evidence does not decide.
    Inconclusive,
    /// One cause is by far the likeliest.
    Likely,
    /// The mechanism is proved, link by link.
    Confirmed,
}

/// What a part of a score is for.
#[derive(Clone, Debug)]
pub(crate) enum Term {
    /// How likely such a cause is by itself.
    Prior,
    /// It has been there all the time.
    Standing,
    /// It explains a group of findings. How often they came for no reason in a fortnight, if that counts against it.
    Explains(Kin, Option<u64>),
}

/// A possible cause with what speaks for it.
#[derive(Clone, Debug)]
pub(crate) struct Considered {
    pub(crate) finding: FindingId,
    pub(crate) score: f64,
    /// What the score is the sum of.
    pub(crate) terms: Vec<(Term, f64)>,
    /// What it explains by itself with the rule that leads to it, the nearest first.
    pub(crate) explains: Vec<(FindingId, usize)>,
}

/// A possible cause, while it is compared with others.
#[derive(Clone, Debug)]
struct Candidate {
    finding: FindingId,
    score: f64,
    terms: Vec<(Term, f64)>,
    /// What it explains by itself. Of several changes that were made together, this tells which one it was.
    own: Reached,
    /// How much likelier that is with it.
    own_score: f64,
    /// What it explains together with its kin.
    reach: Reached,
}

/// One cause with everything that it explains.
#[derive(Clone, Debug)]
pub(crate) struct Explanation {
    /// `None`: the cause is not known.
    pub(crate) root: Option<FindingId>,
    /// The same as the root in other places: on other pods of the workload, or in other changes of the set.
    pub(crate) kin: Vec<FindingId>,
    /// What is explained, along the chain and then in order of time, without the root and its kin.
    pub(crate) effects: Vec<FindingId>,
    /// The links from the root to the effects: a tree.
    pub(crate) links: Vec<Link>,
    pub(crate) certainty: Certainty,
    /// How far the root is ahead.
    pub(crate) lead: Option<Lead>,
    /// The best causes, the best first.
    pub(crate) candidates: Vec<Considered>,
    /// As [`Component::left_out`].
    pub(crate) left_out: usize,
}

impl Explanation {
    /// The root, if it is likely enough to be named.
    pub(crate) fn named(&self) -> Option<FindingId> {
        self.root.filter(|_| self.lead.is_none_or(|lead| lead.chance.is_named()))
    }

    /// All findings of it: the root, its kin, the effects.
    pub(crate) fn all(&self) -> impl Iterator<Item = FindingId> {
        self.root.iter().chain(&self.kin).chain(&self.effects).copied()
    }

    /// What failed first: a failure that users can notice before a mere symptom, else the first effect, else the cause.
    pub(crate) fn first(&self, known: Known<'_>) -> Option<FindingId> {
        let is_failure = |id: &FindingId| {
            opens(known, *id)
                && known.findings.get(*id).is_some_and(|finding| link::can_be_root(known, finding))
        };
        // Exact ones first: the kernel's before the API server's.
        let is_exact = |id: &FindingId| {
            known.findings.get(*id).is_some_and(|finding| !finding.key.kind.starts_with("kubernetes."))
        };
        let find = |wanted: &dyn Fn(&FindingId) -> bool| self.effects.iter().copied().find(|id| wanted(id));
        find(&|id| is_failure(id) && is_exact(id))
            .or_else(|| find(&is_failure))
            .or_else(|| find(&|id| opens(known, *id)))
            .or_else(|| self.effects.first().copied())
            .or(self.root)
    }
}

pub(super) fn explain(known: Known<'_>, component: &Component) -> Vec<Explanation> {
    let groups = groups(known, component);
    let mut left: BTreeSet<FindingId> = component.findings.iter().copied().collect();
    // A change is no effect that has to be explained.
    left.retain(|id| {
        known.findings.get(*id).is_some_and(|finding| !crate::fact::is_change(&finding.key.kind))
    });
    let all: Vec<Candidate> = component
        .findings
        .iter()
        .filter(|id| known.findings.get(**id).is_some_and(|finding| link::can_be_root(known, finding)))
        .map(|id| candidate(component, &groups, *id))
        .collect();
    let mut explanations: Vec<Explanation> = Vec::new();
    while explanations.len() < MAX_CAUSES && !left.is_empty() {
        let mut scored: Vec<Candidate> = all
            .iter()
            .cloned()
            .map(|candidate| scored(known, component, candidate, &groups, &left))
            .collect();
        sort(known, &mut scored);
        let Some(best) = nearest(&scored).filter(|best| {
            best.reach.keys().any(|id| left.contains(id))
                && (explanations.is_empty() || best.score >= ANOTHER)
        }) else {
            break;
        };
        let explanation = explanation(known, component, best, &scored, &left);
        left.remove(&best.finding);
        left.retain(|id| !explanation.effects.contains(id) && !explanation.kin.contains(id));
        explanations.push(explanation);
    }
    // What nothing explains has an unknown cause, all of it together.
    if !left.is_empty() {
        let effects: Vec<_> = component.findings.iter().copied().filter(|id| left.contains(id)).collect();
        explanations.push(Explanation {
            root: None,
            kin: Vec::new(),
            links: tree(known, component, &left),
            certainty: Certainty::Inconclusive,
            lead: None,
            candidates: closest(known, component, &effects, &groups, &left),
            effects,
            left_out: component.left_out,
        });
    }
    explanations
}

/// The links among findings, of those to each effect the strongest one, without a cycle. What leads to another cause of the
/// effect is further back, so that its own link to the effect says nothing new.
fn tree(known: Known<'_>, component: &Component, among: &BTreeSet<FindingId>) -> Vec<Link> {
    let is_among = |link: &&Link| among.contains(&link.cause) && among.contains(&link.effect);
    let mut links: Vec<&Link> = component.links.iter().filter(is_among).collect();
    let by_ends: BTreeMap<(FindingId, FindingId), &Link> =
        links.iter().map(|link| ((link.cause, link.effect), *link)).collect();
    let mut effects_of: BTreeMap<FindingId, Vec<&Link>> = BTreeMap::new();
    links.iter().for_each(|link| effects_of.entry(link.cause).or_default().push(*link));
    // Along one rule: trouble that goes back and forth took the direct way.
    let is_further_back = |link: &Link| {
        let between = effects_of.get(&link.cause).into_iter().flatten();
        between.filter(|first| first.effect != link.effect && first.rule == link.rule).any(|first| {
            by_ends
                .get(&(first.effect, link.effect))
                .is_some_and(|second| second.rule == link.rule && second.strength >= NEARER * link.strength)
        })
    };
    let mut of_effect: BTreeMap<FindingId, usize> = BTreeMap::new();
    links
        .iter()
        .filter(|link| !is_further_back(link))
        .for_each(|link| *of_effect.entry(link.effect).or_default() += 1);
    links.retain(|link| !of_effect.contains_key(&link.effect) || !is_further_back(link));
    links.sort_by_cached_key(|link| (order(known, link.cause), order(known, link.effect)));
    links.sort_by(|a, b| b.strength.total_cmp(&a.strength));
    let mut cause_of: BTreeMap<FindingId, FindingId> = BTreeMap::new();
    let mut kept = Vec::new();
    for link in links {
        let mut causes = std::iter::successors(Some(link.cause), |id| cause_of.get(id).copied());
        if !cause_of.contains_key(&link.effect) && !causes.any(|id| id == link.effect) {
            cause_of.insert(link.effect, link.cause);
            kept.push(link.clone());
        }
    }
    kept
}

/// Where an unknown cause is closest: symptoms that no other symptom explains, by what they explain.
fn closest(
    known: Known<'_>,
    component: &Component,
    effects: &[FindingId],
    groups: &BTreeMap<FindingId, Kin>,
    left: &BTreeSet<FindingId>,
) -> Vec<Considered> {
    let explained: BTreeSet<FindingId> =
        component.links.iter().filter(|link| left.contains(&link.cause)).map(|link| link.effect).collect();
    let origins = effects.iter().filter(|id| !explained.contains(id));
    let mut scored: Vec<Candidate> =
        origins.map(|id| scored(known, component, candidate(component, groups, *id), groups, left)).collect();
    sort(known, &mut scored);
    scored
        .iter()
        .take(MAX_CANDIDATES)
        .enumerate()
        .map(|(nth, candidate)| considered(known, component, nth, candidate))
        .collect()
}

/// The best first; of the same score the one that explains more by itself, then the earlier one.
fn sort(known: Known<'_>, candidates: &mut [Candidate]) {
    candidates.sort_by(|a, b| {
        let earlier = || order(known, a.finding).cmp(&order(known, b.finding));
        b.score.total_cmp(&a.score).then(b.own_score.total_cmp(&a.own_score)).then_with(earlier)
    });
}

/// The first candidates with what they explain, the others by name.
fn considered(known: Known<'_>, component: &Component, nth: usize, candidate: &Candidate) -> Considered {
    Considered {
        finding: candidate.finding,
        score: candidate.score,
        terms: candidate.terms.clone(),
        explains: if nth < MAX_SHOWN { explains(known, component, candidate) } else { Vec::new() },
    }
}

/// The best candidate; if it explains another one without being likelier by [`MARGIN`], that other one: going further back
/// has to be worth it.
fn nearest(scored: &[Candidate]) -> Option<&Candidate> {
    let best = scored.first()?;
    let mut close = scored.iter().skip(1).take_while(|other| best.score - other.score < MARGIN);
    close.find(|other| best.reach.get(&other.finding).is_some_and(|(_, link)| link.is_some())).or(Some(best))
}

/// Findings of one type on one workload are one group: more of them say no more.
fn groups(known: Known<'_>, component: &Component) -> BTreeMap<FindingId, Kin> {
    component.findings.iter().filter_map(|id| Some((*id, kin(known, *id)?))).collect()
}

/// A cause with all that it explains, together with its kin, and by itself.
fn candidate(component: &Component, groups: &BTreeMap<FindingId, Kin>, root: FindingId) -> Candidate {
    let of_root = groups.get(&root);
    let is_kin = |id: &&FindingId| **id == root || of_root.is_some() && groups.get(id) == of_root;
    let all: Vec<_> = component.findings.iter().filter(is_kin).copied().collect();
    let reach = reach(component, &all);
    let own = if all.len() > 1 { self::reach(component, &[root]) } else { reach.clone() };
    Candidate { finding: root, score: 0.0, terms: Vec::new(), own, own_score: 0.0, reach }
}

/// For each finding how likely it is where others are, and the last link to it; without one: those others.
type Reached = BTreeMap<FindingId, (f64, Option<usize>)>;

/// Follows links from findings, the likeliest way to each effect.
fn reach(component: &Component, from: &[FindingId]) -> Reached {
    let mut here: BTreeSet<_> = from.iter().copied().collect();
    let mut reach: Reached = here.iter().map(|id| (*id, (1.0, None))).collect();
    for _ in 0..MAX_HOPS {
        let mut next = BTreeSet::new();
        for (index, link) in here.iter().flat_map(|cause| component.links_of(*cause)) {
            let Some((so_far, _)) = reach.get(&link.cause) else { continue };
            let strength = so_far * link.strength;
            let is_likelier = match reach.get(&link.effect) {
                // Where it began.
                Some((_, None)) => false,
                Some((known, Some(_))) => *known < strength,
                None => true,
            };
            if is_likelier {
                reach.insert(link.effect, (strength, Some(index)));
                next.insert(link.effect);
            }
        }
        here = next;
    }
    reach
}

fn scored(
    known: Known<'_>,
    component: &Component,
    mut candidate: Candidate,
    groups: &BTreeMap<FindingId, Kin>,
    left: &BTreeSet<FindingId>,
) -> Candidate {
    let Some(finding) = known.findings.get(candidate.finding) else { return candidate };
    let Some(kind) = known.rules.kind_of(finding) else { return candidate };
    candidate.terms = vec![(Term::Prior, known.verdicts.prior(&kind.names, kind.prior))];
    if kind.class != Class::Change && is_standing(known, finding) {
        candidate.terms.push((Term::Standing, STANDING));
    }
    let gains_of = |reach| gains(known, component, reach, groups, left);
    let explained = gains_of(&candidate.reach).into_iter();
    candidate.terms.extend(
        explained.map(|(kin, gain)| {
            (Term::Explains(kin.clone(), usual(known, kin).map(|(count, _)| count)), gain)
        }),
    );
    candidate.score = candidate.terms.iter().map(|(_, value)| value).sum();
    candidate.own_score = gains_of(&candidate.own).values().sum();
    candidate
}

/// How much likelier each group of findings is with a cause than without.
fn gains<'a>(
    known: Known<'_>,
    component: &Component,
    reach: &Reached,
    groups: &'a BTreeMap<FindingId, Kin>,
    left: &BTreeSet<FindingId>,
) -> BTreeMap<&'a Kin, f64> {
    let mut gains: BTreeMap<&Kin, f64> = BTreeMap::new();
    for (id, (_, link)) in reach {
        let Some(group) = groups.get(id).filter(|_| left.contains(id)) else { continue };
        // What lies on the way was observed: how likely it has this effect does not depend on how likely the cause had it.
        let Some(strength) = link.and_then(|link| component.links.get(link)).map(|link| link.strength) else {
            continue;
        };
        let kind = known.findings.get(*id).and_then(|finding| known.rules.kind_of(finding));
        let leak = kind.map_or(crate::rule::SELDOM, |kind| kind.leak);
        let leak = usual(known, group).map_or(leak, |(_, usual)| usual.max(leak));
        let gain = ((strength + leak * (1.0 - strength)) / leak).ln().min(MOST);
        let most = gains.entry(group).or_default();
        *most = most.max(gain);
    }
    gains
}

/// How often a group of findings came for no reason, and how likely it therefore is; `None` if that is seldom.
fn usual(known: Known<'_>, group: &Kin) -> Option<(u64, f64)> {
    let (count, likely) = known.usual.of(group);
    (!known.without.learning && likely > crate::rule::SELDOM).then_some((count, likely))
}

/// How many links lead from a cause to a finding, and one.
fn hops(component: &Component, reach: &Reached, id: FindingId) -> usize {
    let links =
        std::iter::successors(reach.get(&id), |(_, link)| reach.get(&component.links.get((*link)?)?.cause));
    links.take(MAX_HOPS + 1).count()
}

/// What a candidate explains, the nearest first.
fn explains(known: Known<'_>, component: &Component, candidate: &Candidate) -> Vec<(FindingId, usize)> {
    let rule = |(id, (_, link)): (&FindingId, &(f64, Option<usize>))| {
        Some((*id, component.links.get((*link)?)?.rule))
    };
    let mut explained: Vec<_> = candidate.own.iter().filter_map(rule).collect();
    explained.sort_by_cached_key(|(id, _)| (hops(component, &candidate.own, *id), order(known, *id)));
    explained.truncate(MAX_EXPLAINED);
    explained
}

fn explanation(
    known: Known<'_>,
    component: &Component,
    best: &Candidate,
    scored: &[Candidate],
    left: &BTreeSet<FindingId>,
) -> Explanation {
    let mut reached: Vec<FindingId> =
        best.reach.keys().copied().filter(|id| *id != best.finding && left.contains(id)).collect();
    // Along the chain, then in order of time.
    reached.sort_by_cached_key(|id| (hops(component, &best.reach, *id), order(known, *id)));
    let is_kin = |id: &FindingId| best.reach.get(id).is_some_and(|(_, link)| link.is_none());
    let (kin, effects): (Vec<_>, Vec<_>) = reached.into_iter().partition(is_kin);
    // The way to each effect, with what lies on it.
    let mut on_the_way: BTreeSet<usize> = BTreeSet::new();
    for effect in &effects {
        let mut here = *effect;
        while let Some((_, Some(index))) = best.reach.get(&here) {
            if !on_the_way.insert(*index) {
                break;
            }
            let Some(link) = component.links.get(*index) else { break };
            here = link.cause;
        }
    }
    let links: Vec<Link> =
        on_the_way.iter().filter_map(|index| component.links.get(*index).cloned()).collect();
    // Another cause that lies on the way is part of the same story, unless nothing is gained by going further back. So is the same
    // edit, if it was made again, and what took it back in between.
    let is_again = |field| {
        move |other: &&Candidate| {
            other.finding != best.finding && is_edit(known, other.finding, field, best.finding)
        }
    };
    let was_repeated = scored.iter().any(|other| is_again(EDIT)(&other));
    let is_same = |other: &&Candidate| was_repeated && (is_again(EDIT)(other) || is_again(REVERT)(other));
    let mut others = scored.iter().filter(|other| other.finding != best.finding && !is_same(other));
    let rival = others.find(|other| {
        let shares = other.reach.keys().any(|id| effects.contains(id) && left.contains(id));
        shares && !best.reach.get(&other.finding).is_some_and(|(_, link)| link.is_none())
    });
    let margin = rival.map(|rival| best.score - rival.score);
    let candidates = scored
        .iter()
        .take(MAX_CANDIDATES)
        .enumerate()
        .map(|(nth, other)| considered(known, component, nth, other))
        .collect();
    let mut explanation = Explanation {
        root: Some(best.finding),
        kin,
        effects,
        links,
        certainty: Certainty::Inconclusive,
        lead: None,
        candidates,
        left_out: component.left_out,
    };
    // Whether each link on the way to the first failure is proved.
    let ways = std::iter::successors(explanation.first(known), |here| {
        let (_, link) = best.reach.get(here)?;
        Some(component.links.get((*link)?)?.cause)
    });
    let links: Vec<Option<&Link>> = ways
        .take(MAX_HOPS + 1)
        .map_while(|here| best.reach.get(&here)?.1.map(|index| component.links.get(index)))
        .collect();
    let is_proved = is_final(known, component, best.finding)
        && !links.is_empty()
        && links.iter().all(|link| link.is_some_and(|link| link.is_certain));
    explanation.certainty = match (best.score, margin) {
        (score, _) if score < 0.5 && !explanation.effects.is_empty() => Certainty::Inconclusive,
        // What is so often of no consequence is no cause by itself.
        (score, _) if score < UNLIKELY => Certainty::Inconclusive,
        (_, Some(margin)) if margin < MARGIN => Certainty::Inconclusive,
        _ if is_proved => Certainty::Confirmed,
        _ => Certainty::Likely,
    };
    let lead = known.verdicts.lead(explanation.certainty, margin);
    if !lead.chance.is_named() {
        explanation.certainty = Certainty::Inconclusive;
    }
    explanation.lead = Some(lead);
    explanation
}

/// Whether a change is the same edit as another one, or would take that back.
fn is_edit(known: Known<'_>, one: FindingId, field: &str, other: FindingId) -> bool {
    let [Some(one), Some(other)] = [one, other].map(|id| known.findings.get(id)) else { return false };
    let edits = |finding: &Finding, field: &str| -> BTreeSet<String> {
        finding.fields.get(field).into_iter().flatten().cloned().collect()
    };
    let edit = edits(one, EDIT);
    one.key.entity == other.key.entity && !edit.is_empty() && edit == edits(other, field)
}

/// Whether nothing may lie behind a cause: a change is somebody's doing; of anything else every cause that a rule knows has to
/// be ruled out.
fn is_final(known: Known<'_>, component: &Component, root: FindingId) -> bool {
    let Some(finding) = known.findings.get(root) else { return false };
    if crate::fact::is_change(&finding.key.kind) {
        return true;
    }
    let mut ways = link::Ways::of(known.graph, finding);
    let mut is_seen = |(index, rule)| {
        let found = link::look(known, index, rule, root, &mut ways);
        !matches!(found, Some(link::Found::NotCovered(_) | link::Found::Present))
    };
    component.links.iter().all(|link| link.effect != root)
        && known.rules.with_effect(&finding.key.kind).all(&mut is_seen)
}

pub(crate) fn opens(known: Known<'_>, id: FindingId) -> bool {
    known.findings.get(id).and_then(|finding| known.rules.kind_of(finding)).is_some_and(|kind| kind.opens)
}
