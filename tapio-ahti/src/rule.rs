//! Rules: which effects which causes have, and what decides between them. They are data: `rules/*.yaml`.

mod evidence;
mod file;
mod pattern;

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

pub use self::file::Error;
pub(crate) use self::{
    evidence::{Evidence, Pair},
    pattern::Pattern,
};
use crate::graph::Step;

/// What a finding is, in an explanation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Class {
    /// Somebody changed something.
    Change,
    /// Something broke by itself, or a person or program broke it.
    Fault,
    /// Something ran out.
    Exhaustion,
    /// An effect; never a root cause.
    Symptom,
}

/// What is known of a type of finding.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kind {
    /// The findings that are meant.
    pub(crate) finding: Pattern,
    pub(crate) class: Class,
    /// Natural logarithm of the odds that such a finding is a root cause, before anything else is known.
    pub(crate) prior: f64,
    /// Whether a workload's users can notice it, so that it opens an incident.
    #[serde(default)]
    pub(crate) opens: bool,
    /// How many times a minute it has to occur before it opens one.
    #[serde(default = "once")]
    pub(crate) at_least: u64,
    /// How long it has to last before that, in seconds.
    #[serde(default = "settle")]
    pub(crate) lasts_s: u64,
    /// How likely it is within half an hour without any cause: what is often there for no reason says little.
    #[serde(default = "seldom")]
    pub(crate) leak: f64,
    /// Whether it is about a connection, and may be of either end.
    #[serde(default)]
    pub(crate) two_ended: bool,
    /// Whether what it causes is to be expected, and no incident.
    #[serde(default)]
    pub(crate) expected: bool,
    /// What happened, for the title: `is OOM-killed`.
    pub(crate) says: String,
    /// The same of who does it to others: `has taken CPU time from its neighbours`.
    #[serde(default)]
    pub(crate) by: Option<String>,
    /// The cause, in a few words that stay the same for all of its kind: `memory`, `image`.
    pub(crate) names: String,
    /// What to do if it is the cause.
    #[serde(default, rename = "do")]
    pub(crate) actions: Vec<Action>,
}

const fn once() -> u64 {
    1
}

/// A symptom has to last so long until it opens an incident, if nothing else is said, in seconds.
pub(crate) const SETTLE_S: u64 = 30;

const fn settle() -> u64 {
    SETTLE_S
}

/// Once in seven days.
pub(crate) const SELDOM: f64 = 0.003;

const fn seldom() -> f64 {
    SELDOM
}

/// How long after a cause its effect comes.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lag {
    /// Median, in seconds.
    pub(crate) median_s: f64,
    /// Standard deviation of its natural logarithm.
    #[serde(default = "spread")]
    pub(crate) spread: f64,
    /// Beyond it the cause is not considered, in seconds.
    pub(crate) longest_s: f64,
}

/// Fitted to the lags between rollouts and alarms: 19 s, 112 s and 342 s at 5, 50 and 95 %.
const fn spread() -> f64 {
    0.9
}

/// What has to be watched so that absence means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cover {
    /// Changes and conditions, from the API server.
    Kubernetes,
    /// The agent on the nodes of the pods in question.
    Agents,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Action {
    pub(crate) text: String,
    #[serde(default)]
    pub(crate) command: Option<String>,
    #[serde(default)]
    pub(crate) undo: Option<String>,
    /// Only where the cause's tool is this one, or `none` where no tool owns the object.
    #[serde(default)]
    pub(crate) tool: Option<String>,
}

/// One rule.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    pub(crate) rule: String,
    pub(crate) effect: Pattern,
    pub(crate) cause: Pattern,
    /// Where the walk to the cause begins: at the effect's own entity, at the other end of its connection, or at who had a
    /// hand in it.
    #[serde(default)]
    pub(crate) from: From,
    /// The way from there to the cause's entity.
    pub(crate) path: Vec<Step>,
    pub(crate) lag: Lag,
    /// How likely the effect is where the cause is, from 0 to 1.
    pub(crate) strength: f64,
    /// Evidence that proves it. All of one list have to hold; one list is enough.
    #[serde(default)]
    pub(crate) certain: Vec<Vec<Evidence>>,
    /// Evidence without which it is impossible.
    #[serde(default)]
    pub(crate) requires: Vec<Evidence>,
    /// Evidence with its weight, in natural logarithms of odds.
    #[serde(default)]
    pub(crate) weights: BTreeMap<Evidence, f64>,
    /// Whether new pods of the changed workload are compared with its old ones. Rules with a weight for the age of pods do
    /// so in any case.
    #[serde(default)]
    pub(crate) compare: bool,
    /// What has to be covered to rule it out.
    #[serde(default)]
    pub(crate) covered_by: Vec<Cover>,
    /// Why the cause has the effect: `a container that is killed does not accept connections`.
    pub(crate) because: String,
    /// What is ruled out where there is no such cause: `another change of {workload}`.
    #[serde(default)]
    pub(crate) absent: Option<String>,
    /// How long such a cause goes on until it is reported, in seconds: before, its absence says nothing.
    #[serde(default)]
    pub(crate) reported_after_s: u64,
}

/// Where a walk begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum From {
    /// At the entity of the effect.
    #[default]
    Entity,
    /// At the other end of the connection.
    Peer,
    /// At who had a hand in it.
    Actor,
}

/// All rules, and what is known of each type of finding.
#[derive(Clone, Debug)]
pub struct Rules {
    pub(crate) kinds: Vec<Kind>,
    pub(crate) rules: Vec<Rule>,
    /// Rules by the type of their effect.
    by_effect: BTreeMap<String, Vec<usize>>,
    /// Kinds by the type of their finding, in order.
    by_type: HashMap<String, Vec<usize>>,
}

impl Rules {
    /// The rules that come with the engine.
    ///
    /// # Errors
    /// Never for a build whose tests passed.
    pub fn embedded() -> Result<Self, Error> {
        Self::with([])
    }

    /// The rules that come with the engine, and own ones beside them.
    ///
    /// # Errors
    /// The first own file that is wrong, with line, column and key.
    pub fn with<'a>(own: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Error> {
        Self::parse(file::EMBEDDED.iter().copied().chain(own))
    }

    /// Reads rule files, each with its name for errors. A rule with the name of an earlier one replaces it.
    ///
    /// # Errors
    /// The first file that is wrong, with line, column and key.
    pub fn parse<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Error> {
        let mut all = Self {
            kinds: Vec::new(),
            rules: Vec::new(),
            by_effect: BTreeMap::new(),
            by_type: HashMap::new(),
        };
        for (name, text) in files {
            let file = file::parse(name, text)?;
            all.kinds.extend(file.kinds);
            for rule in file.rules {
                match all.rules.iter_mut().find(|known| known.rule == rule.rule) {
                    Some(known) => *known = rule,
                    None => all.rules.push(rule),
                }
            }
        }
        for (index, kind) in all.kinds.iter().enumerate() {
            for name in &kind.finding.kinds {
                all.by_type.entry(name.clone()).or_default().push(index);
            }
        }
        for (index, rule) in all.rules.iter().enumerate() {
            for kind in &rule.effect.kinds {
                all.by_effect.entry(kind.clone()).or_default().push(index);
            }
        }
        Ok(all)
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is no rule, which own files cannot bring about.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What is known of a finding: the first kind that fits.
    pub(crate) fn kind_of(&self, finding: &crate::finding::Finding) -> Option<&Kind> {
        let indices = self.by_type.get(&*finding.key.kind).into_iter().flatten();
        indices.filter_map(|index| self.kinds.get(*index)).find(|kind| kind.finding.has(finding))
    }

    /// The rules with an effect of this type.
    pub(crate) fn with_effect(&self, kind: &str) -> impl Iterator<Item = (usize, &Rule)> {
        let indices = self.by_effect.get(kind).into_iter().flatten();
        indices.filter_map(|index| Some((*index, self.rules.get(*index)?)))
    }
}
