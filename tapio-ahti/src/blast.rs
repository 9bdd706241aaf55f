//! How far an incident reaches: the workloads that it is about, and how it gets from one to the next.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    explain::Known,
    graph::{EntityId, Name, Step},
    incident::{Incident, Line},
    visible::Prose,
};

/// How far an incident reaches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Blast {
    /// The incident.
    pub incident: String,
    /// What it is about: the cause, then what has symptoms, then what depends on that.
    pub members: Vec<Member>,
    /// How it gets from one to the next.
    pub reaches: Vec<Reach>,
}

/// One workload, or what lies between two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Member {
    /// What people call it.
    pub name: Name,
    /// Its part.
    pub part: Part,
    /// When its first line began; absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_unix_ns: Option<u64>,
    /// That line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Prose>,
}

/// The part that a member has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// It has the cause.
    Cause,
    /// It has symptoms.
    Hit,
    /// It is part of the chain, and no workload: a service, a node.
    Between,
    /// It depends on one that is hit, and has no symptoms yet.
    AtRisk,
}

/// The way from one member to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reach {
    /// Index among the members: where it comes from.
    pub from: usize,
    /// Where it gets to.
    pub to: usize,
    /// Why; absent where it has not got there yet, and the one only calls the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// Whether the mechanism is proved.
    pub certain: bool,
}

pub(crate) fn blast(known: Known<'_>, of: &Incident) -> Blast {
    let first = |name: &Name| of.lines.iter().filter(|line| line.workload == *name).min_by_key(began);
    let member = |name: &Name, part| {
        let line = first(name);
        Member {
            name: name.clone(),
            part,
            since_unix_ns: line.map(|line| line.since_unix_ns),
            text: line.map(|line| line.text.clone()),
        }
    };
    let cause = of.lines.first().filter(|_| of.has_cause).map(|line| (&line.workload, Part::Cause));
    let hit = of.hits.iter().map(|name| (name, Part::Hit));
    let between = of.lines.iter().map(|line| (&line.workload, Part::Between));
    let at_risk = of.at_risk.iter().map(|name| (name, Part::AtRisk));
    let mut named = BTreeSet::new();
    let all = cause.into_iter().chain(hit).chain(between).chain(at_risk);
    let members: Vec<Member> =
        all.filter(|(name, _)| named.insert(*name)).map(|(name, part)| member(name, part)).collect();
    let place = |name: &Name| members.iter().position(|member| member.name == *name);
    let workload = |line: usize| of.lines.get(line).and_then(|line| place(&line.workload));
    let explained = of.chain.iter().filter_map(|step| {
        let (from, to) = (workload(step.cause)?, workload(step.effect)?);
        Some(Reach { from, to, because: Some(step.because.clone()), certain: step.certain })
    });
    let mut reaches: Vec<Reach> = explained.filter(|reach| reach.from != reach.to).collect();
    let ids: Vec<Option<EntityId>> =
        members.iter().map(|member| known.graph.named(&member.name, known.now_ns)).collect();
    for (to, caller) in ids.iter().enumerate().filter(|(at, _)| is(&members, *at, Part::AtRisk)) {
        let called = known.graph.walk(caller.as_slice(), &[Step::Calls], known.now_ns);
        let is_called = |at: usize| ids.get(at).copied().flatten().is_some_and(|id| called.contains(&id));
        let hit = (0..members.len()).filter(|at| !is(&members, *at, Part::AtRisk) && is_called(*at));
        reaches.extend(hit.map(|from| Reach { from, to, because: None, certain: false }));
    }
    // Of several reasons a proved one.
    reaches.sort_by_key(|reach| (reach.from, reach.to, !reach.certain));
    reaches.dedup_by_key(|reach| (reach.from, reach.to));
    Blast { incident: of.id.clone(), members, reaches }
}

fn is(members: &[Member], at: usize, part: Part) -> bool {
    members.get(at).is_some_and(|member| member.part == part)
}

fn began(line: &&Line) -> u64 {
    line.since_unix_ns
}
