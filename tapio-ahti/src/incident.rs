//! Incidents: facts that belong together, with the cause that explains them. This is what an answer consists of, and its
//! JSON is the same wherever it is shown.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tapio_occurrence::{Name as Text, feedback::Verdict};

use crate::visible::Place;
pub use crate::{
    attention::{Ack, Mute},
    calibration::Lead,
    coverage::Coverage,
    explain::Certainty,
    graph::Name,
    visible::Prose,
};

/// Where an incident is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It lasts.
    Open,
    /// It is over.
    Resolved,
    /// It came back.
    Regressed,
}

/// Whether the owner of a fact is known or concluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Evidence {
    /// The kernel or the API server says so.
    Exact,
    /// It was concluded.
    Inferred,
}

/// One line of an answer, with the facts that it rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Line {
    /// When it began, nanoseconds since 1970 UTC.
    pub since_unix_ns: u64,
    /// When it was last seen.
    pub last_unix_ns: u64,
    /// What it is about.
    pub entity: Name,
    /// Its workload: the outermost owner of a pod, anything else itself.
    pub workload: Name,
    /// Type of the fact.
    #[serde(rename = "type")]
    pub kind: String,
    /// What happened.
    pub text: Prose,
    /// How often.
    pub count: u64,
    /// In how many pods; 0 if it is about none.
    pub pods: usize,
    /// Who says so: `kernel`, `scheduler` or `kubernetes`.
    pub source: Text,
    /// Whether the owner is known.
    pub owner: Evidence,
    /// Ids of the first facts.
    pub facts: Vec<String>,
}

/// One link of the chain: which line explains which, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// The cause's index among the lines.
    pub cause: usize,
    /// The effect's index among the lines.
    pub effect: usize,
    /// The rule.
    pub rule: String,
    /// Why.
    pub because: String,
    /// Seconds from one to the other.
    pub lag_s: f64,
    /// Whether the mechanism is proved.
    pub certain: bool,
}

/// A possible cause with its score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Considered {
    /// What it is about.
    pub entity: Name,
    /// Its workload: the outermost owner of a pod, anything else itself.
    pub workload: Name,
    /// What the cause is about, in a word: `rollout`, `memory`.
    pub kind: String,
    /// Ids of its first facts.
    pub facts: Vec<String>,
    /// What it explains, the nearest first.
    pub explains: Vec<Explained>,
    /// What happened.
    pub text: Prose,
    /// Natural logarithm of odds.
    pub score: f64,
    /// What that is the sum of.
    pub terms: Vec<(Prose, f64)>,
}

/// What a possible cause explains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Explained {
    /// Type of the facts.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whose they are: the outermost owner of a pod, anything else itself.
    pub workload: Name,
    /// The rule that leads to it.
    pub rule: String,
    /// Ids of the first facts.
    pub facts: Vec<String>,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Advice {
    /// What.
    pub text: Prose,
    /// The command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Prose>,
    /// How to undo it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Prose>,
}

/// An incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Incident {
    /// `TAP-` and a number.
    pub id: String,
    /// The same for incidents of the same cause class and workload; empty if the caller may not read where that is.
    pub fingerprint: String,
    /// Rises with every change of the answer.
    pub revision: u64,
    /// Where it is in its life.
    pub status: Status,
    /// One sentence.
    pub title: Prose,
    /// How sure the cause is.
    pub certainty: Certainty,
    /// When the first symptom began.
    pub since_unix_ns: u64,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_unix_ns: Option<u64>,
    /// The cause: the first of `lines`; `false` if it is not known.
    pub has_cause: bool,
    /// The root's entity; absent if the cause is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Name>,
    /// What the cause is about, in a word: `rollout`, `memory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_kind: Option<String>,
    /// How far the cause is ahead of others; absent if there is none. Without `has_cause` it is too unlikely to be named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lead: Option<Lead>,
    /// The cause, then what it led to, in order of time; what is a few seconds older than its own cause comes after that.
    pub lines: Vec<Line>,
    /// Which line explains which.
    pub chain: Vec<Step>,
    /// Workloads with symptoms.
    pub hits: Vec<Name>,
    /// Workloads that depend on them and have none yet.
    pub at_risk: Vec<Name>,
    /// What was checked and is not the cause.
    pub ruled_out: Vec<Prose>,
    /// What could not be checked.
    pub missing: Vec<Prose>,
    /// What to do, in order.
    pub advice: Vec<Advice>,
    /// All causes that were considered, the best first.
    pub considered: Vec<Considered>,
    /// How often the same was seen before.
    pub seen_before: u64,
    /// What somebody said last of such an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback: Option<Verdict>,
    /// Who takes care of it; absent if nobody said so since it opened or came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack: Option<Ack>,
    /// Until when nobody is notified of it; absent if that is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mute: Option<Mute>,
    /// What the caller may not read.
    #[serde(default, skip_serializing_if = "Hidden::is_nothing")]
    pub hidden: Hidden,
}

/// What of an incident is not shown, as the caller may not read where it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hidden {
    /// Whether the cause is known, and not shown.
    pub cause: bool,
    /// How many lines.
    pub steps: usize,
    /// How many workloads with symptoms.
    pub hits: usize,
}

impl Incident {
    /// Where its cause is, or where it began: its fingerprint ends with the object that it is about.
    #[must_use]
    pub fn place(&self) -> Place {
        Place::of_text(self.fingerprint.splitn(3, ':').nth(2).unwrap_or_default())
    }
}

impl Hidden {
    /// Whether all is shown.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}
