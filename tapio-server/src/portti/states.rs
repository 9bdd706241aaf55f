//! The states of objects that matter, from their status. One function a kind; the table of kinds names it.

mod node;
mod pod;
mod workload;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tapio_occurrence::kubernetes::{Condition, condition};

pub(super) use node::node;
pub(super) use pod::pod;
pub(super) use workload::{autoscaler, claim, job, quota, workload};

use super::read::{capped, list, text, time};
use crate::portti::read::SECOND_NS;

/// How long a normal start takes at most.
pub(super) const START_NS: u64 = 60 * SECOND_NS;

/// A state that an object's status has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// Its condition, without the object.
    pub(super) condition: Condition,
    /// Since when.
    pub(super) since_unix_ns: u64,
    /// When it begins to matter; 0 for at once.
    #[serde(default)]
    pub(super) due_unix_ns: u64,
}

/// The states of an object, and when others ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct States {
    /// Those that it has.
    pub(super) now: Vec<State>,
    /// Conditions (and containers) that it has not, and since when, where the status says that.
    pub(super) over: Vec<(&'static str, Option<String>, u64)>,
    /// Whether states that it had do not end though it has them no longer: it is being deleted, or has failed for good.
    pub(super) remains: bool,
}

/// What the functions of this module read.
pub(super) struct Seen<'a> {
    /// The object, without its metadata.
    pub(super) data: &'a Value,
    /// When it was created.
    pub(super) created_unix_ns: u64,
    /// When anything in it was written last.
    pub(super) written_unix_ns: u64,
    /// When somebody asked for its deletion.
    pub(super) deleting_unix_ns: Option<u64>,
}

/// Reads the states of an object.
pub(super) type Look = fn(&Seen<'_>, &mut States);

/// An object whose status says nothing that matters.
pub(super) fn nothing(_: &Seen<'_>, _: &mut States) {}

impl State {
    /// What distinguishes it from the other states of the object.
    pub(super) fn key(&self) -> (&str, Option<&str>) {
        (&self.condition.condition, self.condition.container.as_deref())
    }

    /// Whether it never ends.
    pub(super) fn is_final(&self) -> bool {
        [condition::TERMINATED, condition::EVICTED].contains(&self.condition.condition.as_str())
    }

    /// Whether this is the same state as before: it was reported already.
    pub(super) fn is(&self, before: &Self) -> bool {
        self.key() == before.key()
            && if self.is_final() {
                self.since_unix_ns == before.since_unix_ns
            } else {
                reason(self) == reason(before)
            }
    }
}

/// The reason; those that a kubelet alternates between while it retries are one.
fn reason(state: &State) -> Option<&str> {
    match state.condition.reason.as_deref() {
        Some("ErrImagePull") => Some("ImagePullBackOff"),
        // Its reasons name the same trouble at different points: ContainersNotReady, KubeletNotReady, NodeStatusUnknown.
        _ if state.condition.condition.ends_with("NotReady") => None,
        _ if state.condition.condition == condition::UNSCHEDULABLE => None,
        reason => reason,
    }
}

/// A condition of the API that is a state of ours where it has this status.
struct Rule {
    /// Type of the API's condition.
    kind: &'static str,
    /// The status that is the state.
    status: &'static str,
    /// The state.
    state: &'static str,
    /// The only reason that makes it the state, if there is one.
    reason: Option<&'static str>,
}

impl States {
    /// Reads the API's conditions by rules.
    fn by(&mut self, seen: &Seen<'_>, rules: &[Rule]) {
        for rule in rules {
            let Some(found) =
                list(seen.data, "/status/conditions").find(|c| text(c, "/type") == Some(rule.kind))
            else {
                continue;
            };
            let since = time(found, "/lastTransitionTime").unwrap_or(seen.written_unix_ns);
            let reason = text(found, "/reason");
            let is = text(found, "/status") == Some(rule.status)
                && rule.reason.is_none_or(|only| reason == Some(only));
            if is {
                self.begin(rule.state, reason, text(found, "/message"), since);
            } else {
                self.over.push((rule.state, None, since));
            }
        }
    }

    /// Adds a state.
    fn begin(
        &mut self,
        state: &str,
        reason: Option<&str>,
        message: Option<&str>,
        since_unix_ns: u64,
    ) -> &mut State {
        let condition = Condition {
            condition: state.to_owned(),
            status: "true".to_owned(),
            reason: reason.map(capped),
            text: message.map(capped),
            ..Condition::default()
        };
        self.now.push(State { condition, since_unix_ns, due_unix_ns: 0 });
        let last = self.now.len() - 1;
        &mut self.now[last]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const CREATED: &str = "2026-11-20T01:46:40Z";

    /// The states of an object with this spec and status, created at [`CREATED`] and written a minute later.
    pub(super) fn of(look: Look, data: &Value) -> States {
        let created_unix_ns = time(&serde_json::json!({ "t": CREATED }), "/t").unwrap();
        let written_unix_ns = created_unix_ns + 60 * SECOND_NS;
        let mut states = States::default();
        let seen = Seen { data, created_unix_ns, written_unix_ns, deleting_unix_ns: None };
        look(&seen, &mut states);
        states
    }

    /// Condition, reason, container, seconds since the creation, and whether it waits for its time.
    pub(super) fn brief(states: &States) -> Vec<(String, String, String, i64, bool)> {
        let created = time(&serde_json::json!({ "t": CREATED }), "/t").unwrap();
        let brief = |state: &State| {
            let c = state.condition.clone();
            let second = (state.since_unix_ns as i64 - created as i64) / SECOND_NS as i64;
            let waits = state.due_unix_ns != 0;
            (c.condition, c.reason.unwrap_or_default(), c.container.unwrap_or_default(), second, waits)
        };
        states.now.iter().map(brief).collect()
    }

    #[test]
    fn a_state_is_told_again_only_if_it_says_something_else() {
        let state = |condition: &str, reason: &str, since_unix_ns| State {
            condition: Condition {
                condition: condition.to_owned(),
                reason: Some(reason.to_owned()),
                ..Condition::default()
            },
            since_unix_ns,
            due_unix_ns: 0,
        };
        let pull = state("Waiting", "ErrImagePull", 1);
        assert!(pull.is(&state("Waiting", "ImagePullBackOff", 2)));
        assert!(!pull.is(&state("Waiting", "CrashLoopBackOff", 1)));
        assert!(!pull.is(&state("NotReady", "ErrImagePull", 1)));
        let ended = state("Terminated", "Error", 1);
        assert!(ended.is(&ended) && !ended.is(&state("Terminated", "Error", 2)));
        assert!(state("NotReady", "A", 1).is(&state("NotReady", "B", 1)));
    }
}
