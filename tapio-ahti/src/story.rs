//! From an explanation to an incident that people read.

mod advice;
mod lines;
mod title;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use self::{
    advice::NAMES,
    lines::{KUBERNETES, line},
    title::short,
};
use self::{
    advice::{advice, filled, values},
    lines::{MAX_LINES, in_order, message, places},
    title::title,
};
use crate::{
    explain::{
        Certainty, Explanation, Found, Kin, Known, MAX_TOGETHER, Term, Ways, charged, kin, look, workload,
    },
    finding::{Finding, FindingId},
    graph::{EntityId, Name, Step as Way},
    incident::{Considered, Explained, Hidden, Incident, Status, Step},
    visible::{Places, Prose},
};

/// Causes that are shown with their score.
const MAX_CONSIDERED: usize = 5;
/// Names in a list.
const MAX_NAMES: usize = 25;

fn name(known: Known<'_>, id: EntityId) -> Name {
    known.graph.get(id).map_or_else(|| Name::new("Unknown", None, "?"), |entity| Name::clone(&entity.name))
}

/// The object that a finding is about.
fn object(known: Known<'_>, finding: &Finding) -> EntityId {
    charged(known, finding).unwrap_or(finding.key.entity)
}

/// The same for incidents of the same class of cause and the same workload.
pub(crate) fn fingerprint(known: Known<'_>, of: &Explanation) -> String {
    let root = of.root.and_then(|id| known.findings.get(id));
    let class = root.and_then(|root| known.rules.kind_of(root)).map_or("unknown", |kind| &kind.names);
    let about = root.or_else(|| of.first(known).and_then(|id| known.findings.get(id)));
    let workload = about.map(|about| workload(known, about));
    let workload = workload.map(|id| name(known, id).to_string()).unwrap_or_default();
    format!("v1:{class}:{workload}")
}

/// The incident of an explanation, without number and history.
pub(crate) fn incident(known: Known<'_>, of: &Explanation) -> Incident {
    let get = |id: FindingId| known.findings.get(id);
    // The same on several pods of a workload is one line.
    let mut lines: Vec<Vec<FindingId>> =
        of.root.map(|root| [&[root], &*of.kin].concat()).into_iter().collect();
    let mut of_kin: BTreeMap<Kin, usize> = BTreeMap::new();
    for id in &of.effects {
        let place = kin(known, *id).map(|kin| *of_kin.entry(kin).or_insert(lines.len()));
        match place.and_then(|place| lines.get_mut(place)) {
            Some(line) => line.push(*id),
            None => lines.push(vec![*id]),
        }
    }
    lines.truncate(MAX_LINES);
    let (place, lines) = in_order(known, of, &lines);
    let root = of.named().and_then(get);
    let root_kind = root.and_then(|root| known.rules.kind_of(root));
    let first = of.first(known).and_then(get);
    let workload = |finding: &Finding| workload(known, finding);

    let of_root = root.map(workload);
    let hits: BTreeSet<EntityId> = of
        .all()
        .filter_map(get)
        .filter(|finding| !crate::fact::is_change(&finding.key.kind))
        .map(workload)
        .collect();
    let hits = workloads(known, hits, true);
    let at_risk = workloads(known, at_risk(known, &hits), false);
    // What people ask about: who fails last in the chain, not where it began.
    let reached = reached(of);
    let worst =
        of.effects.iter().rev().filter(|id| reached.contains(id)).filter_map(|id| get(*id)).map(workload);
    let worst = worst.filter(|id| hits.contains(id)).find(|id| Some(*id) != of_root);
    let title = title(known, of, worst, root, root_kind, first);
    let (ruled_out, mut missing) = match first {
        Some(_) => checked(known, of),
        None => (Vec::new(), Vec::new()),
    };
    if of.left_out > 0 {
        let text = format!(
            "{} findings that matter least were left out: {MAX_TOGETHER} are weighed together",
            of.left_out
        );
        missing.push(Prose::new(text, []));
    }
    let chain = of.links.iter().filter_map(|link| {
        let (cause, effect) = (place.get(&link.cause)?, place.get(&link.effect)?);
        if cause == effect {
            return None;
        }
        let rule = known.rules.rules.get(link.rule)?;
        let lag = get(link.effect)?.onset_ns as f64 - get(link.cause)?.onset_ns as f64;
        Some(Step {
            cause: *cause,
            effect: *effect,
            rule: rule.rule.clone(),
            because: rule.because.clone(),
            lag_s: (lag / 1e8).round() / 10.0,
            certain: link.is_certain,
        })
    });
    let mut chain: Vec<Step> = chain.collect();
    chain.sort_by_key(|step| (step.cause, step.effect, !step.certain));
    chain.dedup_by_key(|step| (step.cause, step.effect));
    Incident {
        id: String::new(),
        fingerprint: fingerprint(known, of),
        revision: 1,
        status: Status::Open,
        title,
        certainty: of.certainty,
        since_unix_ns: first.map_or(known.now_ns, |first| first.onset_ns),
        resolved_unix_ns: None,
        has_cause: root.is_some(),
        root: root.map(|root| name(known, object(known, root))),
        root_kind: root_kind.map(|kind| kind.names.clone()),
        lead: of.lead,
        lines,
        chain,
        hits: names(known, &hits),
        at_risk: names(known, &at_risk),
        ruled_out,
        missing,
        advice: root
            .zip(root_kind)
            .map(|(root, kind)| advice(known, root, &kind.actions))
            .unwrap_or_default(),
        considered: considered(known, of).into_iter().take(MAX_CONSIDERED).collect(),
        seen_before: 0,
        feedback: None,
        ack: None,
        mute: None,
        hidden: Hidden::default(),
    }
}

/// Whom failures hit: workloads. A node whose kubelet finds a probe failing, or a service without endpoints, only if there
/// is nobody else.
fn workloads(known: Known<'_>, all: BTreeSet<EntityId>, or_all: bool) -> BTreeSet<EntityId> {
    let is_workload = |id: &EntityId| !known.graph.is(*id, "Node") && !known.graph.is(*id, "Service");
    let found: BTreeSet<EntityId> = all.iter().copied().filter(is_workload).collect();
    if found.is_empty() && or_all { all } else { found }
}

fn names(known: Known<'_>, ids: &BTreeSet<EntityId>) -> Vec<Name> {
    let mut names: Vec<_> = ids.iter().map(|id| name(known, *id)).collect();
    names.sort_unstable();
    names.truncate(MAX_NAMES);
    names
}

/// What the cause itself leads to, without what changes that were made with it lead to; everything, if there is no cause.
fn reached(of: &Explanation) -> BTreeSet<FindingId> {
    let Some(root) = of.root else { return of.effects.iter().copied().collect() };
    let mut found = BTreeSet::from([root]);
    let mut open = vec![root];
    while let Some(cause) = open.pop() {
        let effects = of.links.iter().filter(|link| link.cause == cause).map(|link| link.effect);
        open.extend(effects.filter(|effect| found.insert(*effect)));
    }
    found
}

/// Who depends on workloads with symptoms, and has none.
fn at_risk(known: Known<'_>, hits: &BTreeSet<EntityId>) -> BTreeSet<EntityId> {
    let callers = |hit: &EntityId| known.graph.walk(&[*hit], &[Way::Callers], known.now_ns);
    let mut found: BTreeSet<EntityId> = hits.iter().flat_map(callers).collect();
    found.retain(|id| !hits.contains(id));
    found
}

/// What was looked for to explain the first failures, and was not there, or could not be seen.
fn checked(known: Known<'_>, of: &Explanation) -> (Vec<Prose>, Vec<Prose>) {
    let explained: BTreeSet<_> = of.links.iter().map(|link| (link.rule, link.effect)).collect();
    let (mut ruled_out, mut missing) = (BTreeMap::<String, Places>::new(), BTreeMap::<String, Places>::new());
    let (mut asked, mut possible) = (BTreeSet::new(), BTreeSet::new());
    for id in of.all() {
        // One of each kind says what there is to say.
        if asked.len() >= MAX_LINES || !asked.insert(kin(known, id)) {
            continue;
        }
        let is_effect = |finding: &&Finding| !crate::fact::is_change(&finding.key.kind);
        let Some(finding) = known.findings.get(id).filter(is_effect) else { continue };
        let mut ways = Ways::of(known.graph, finding);
        for (index, rule) in known.rules.with_effect(&finding.key.kind) {
            let Some(absent) = &rule.absent else { continue };
            let text = filled(absent, &values(known, finding));
            if explained.contains(&(index, id)) {
                possible.insert(text);
                continue;
            }
            match look(known, index, rule, id, &mut ways) {
                Some(Found::Absent) => ruled_out.entry(text).or_default().extend(places(known, finding)),
                Some(Found::NotCovered(all)) => {
                    for what in all {
                        missing.entry(what).or_default().extend(places(known, finding));
                    }
                    possible.insert(text);
                }
                Some(Found::Present) => drop(possible.insert(text)),
                None => {}
            }
        }
    }
    // Several rules look for the same, each in its own place.
    ruled_out.retain(|text, _| !possible.contains(text));
    let prose = |texts: BTreeMap<String, Places>| {
        texts.into_iter().map(|(text, places)| Prose::new(text, places)).collect()
    };
    (prose(ruled_out), prose(missing))
}

/// Whether a finding of an explanation is of an object or of its pods.
pub(crate) fn concerns(known: Known<'_>, of: &Explanation, object: &Name) -> bool {
    let findings = of.all().filter_map(|id| known.findings.get(id));
    findings.into_iter().any(|finding| name(known, workload(known, finding)) == *object)
}

/// The causes that were considered, the best first, each once.
pub(crate) fn considered(known: Known<'_>, of: &Explanation) -> Vec<Considered> {
    let mut shown = BTreeSet::new();
    let round = |value: f64| (value * 100.0).round() / 100.0;
    let ids = |finding: &Finding| finding.facts.iter().map(|(_, id)| id.to_string()).collect();
    let workload = |finding: &Finding| name(known, workload(known, finding));
    let explained = |(id, rule): &(FindingId, usize)| {
        let finding = known.findings.get(*id)?;
        Some(Explained {
            kind: finding.key.kind.to_string(),
            workload: workload(finding),
            rule: known.rules.rules.get(*rule)?.rule.clone(),
            facts: ids(finding),
        })
    };
    let of = of.candidates.iter().filter_map(|candidate| {
        let finding = known.findings.get(candidate.finding)?;
        // The same on another pod is the same cause.
        if kin(known, candidate.finding).is_some_and(|kin| !shown.insert(kin)) {
            return None;
        }
        let kind = known.rules.kind_of(finding).map_or("", |kind| &kind.names);
        let term = |term: &Term| match term {
            Term::Prior => Prose::new(format!("prior of {kind}"), []),
            Term::Standing => Prose::new("has been there all the time", []),
            Term::Explains((kind, of), usual) => {
                let place = of.as_ref().map(|workload| workload.place());
                let of = of.as_ref().map(|workload| format!(" of {workload}")).unwrap_or_default();
                let usual =
                    usual.map(|times| format!(", which came {times} times in a fortnight for no reason"));
                Prose::new(format!("explains {kind}{of}{}", usual.unwrap_or_default()), place)
            }
        };
        Some(Considered {
            entity: name(known, object(known, finding)),
            workload: workload(finding),
            kind: kind.to_owned(),
            facts: ids(finding),
            explains: candidate.explains.iter().filter_map(explained).collect(),
            text: message(known, finding),
            score: round(candidate.score),
            terms: candidate.terms.iter().map(|(of, value)| (term(of), round(*value))).collect(),
        })
    });
    of.collect()
}

/// How sure an answer is, in capitals.
pub(crate) const fn shown(certainty: Certainty) -> &'static str {
    match certainty {
        Certainty::Confirmed => "CONFIRMED",
        Certainty::Likely => "LIKELY",
        Certainty::Inconclusive => "INCONCLUSIVE",
    }
}
