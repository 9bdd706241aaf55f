//! Who takes care of an incident, and what nobody wants to hear of until a time.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tapio_occurrence::attention::{Act, Attention};

use crate::{
    incident::{Incident, Name},
    visible::Place,
};

/// The kind of a mute's object that means all that is in a namespace.
pub const NAMESPACE: &str = "Namespace";
/// Most objects that are muted.
const MAX: usize = 1_000;

/// Somebody takes care of an incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ack {
    /// The user's name; absent if it is not known, or not to be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Since when, nanoseconds since 1970 UTC.
    pub at_unix_ns: u64,
    /// Why, in the person's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Nobody is notified until a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Mute {
    /// The object or the namespace that is muted; absent if it is the incident.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Name>,
    /// Until when, nanoseconds since 1970 UTC.
    pub until_unix_ns: u64,
    /// The user's name; absent if it is not known, or not to be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Since when, nanoseconds since 1970 UTC.
    pub at_unix_ns: u64,
    /// Why, in the person's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Mute {
    /// The mute that somebody asked for; `None` if it has no end.
    pub(crate) fn of(said: &Attention, at_ns: u64) -> Option<Self> {
        Some(Self {
            of: object(said),
            until_unix_ns: said.until_unix_ns?,
            by: said.by.clone(),
            at_unix_ns: at_ns,
            reason: said.reason.clone(),
        })
    }

    /// Whether it goes on at a time.
    #[must_use]
    pub const fn is_on(&self, now_ns: u64) -> bool {
        now_ns < self.until_unix_ns
    }

    /// Whether an incident is its object's: the cause is, or else everything that is hit.
    fn covers(&self, incident: &Incident) -> bool {
        let Some(of) = &self.of else { return false };
        let is_of = |name: &Name| {
            of == name || of.kind == NAMESPACE && name.place() == Place::Namespace(of.name.clone())
        };
        let cause = incident.lines.first().filter(|_| incident.has_cause);
        incident.root.as_ref().is_some_and(is_of)
            || cause.is_some_and(|line| is_of(&line.workload))
            || !incident.hits.is_empty() && incident.hits.iter().all(is_of)
    }
}

/// Where something that is muted is.
#[must_use]
pub fn place(of: &Name) -> Place {
    match of.kind == NAMESPACE {
        true => Place::Namespace(of.name.clone()),
        false => of.place(),
    }
}

/// The object that somebody spoke of.
fn object(said: &Attention) -> Option<Name> {
    Some(Name::new(said.kind.as_deref()?, said.namespace.as_deref(), said.name.as_deref()?))
}

/// The objects that are muted.
#[derive(Debug, Default)]
pub(crate) struct Mutes {
    all: BTreeMap<Name, Mute>,
    /// Those that were not taken since there are too many.
    pub(crate) refused: u64,
}

impl Mutes {
    pub(crate) fn take(&mut self, said: &Attention, at_ns: u64) {
        let Some(of) = object(said) else { return };
        self.all.retain(|_, mute| mute.is_on(at_ns));
        match (said.act, Mute::of(said, at_ns)) {
            (Act::Mute, Some(mute)) if self.all.len() < MAX || self.all.contains_key(&of) => {
                self.all.insert(of, mute);
            }
            (Act::Mute, Some(_)) => self.refused += 1,
            (Act::Unmute, _) => {
                self.all.remove(&of);
            }
            (Act::Mute | Act::Ack | Act::Unack, _) => {}
        }
    }

    /// Those that go on.
    pub(crate) fn on(&self, now_ns: u64) -> impl Iterator<Item = &Mute> {
        self.all.values().filter(move |mute| mute.is_on(now_ns))
    }

    /// The one that covers an incident for longest.
    pub(crate) fn longest(&self, incident: &Incident, now_ns: u64) -> Option<&Mute> {
        self.on(now_ns).filter(|mute| mute.covers(incident)).max_by_key(|mute| mute.until_unix_ns)
    }
}
