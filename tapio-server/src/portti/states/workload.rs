//! Workloads, jobs, autoscalers, quotas and claims.

use serde_json::Value;
use tapio_occurrence::kubernetes::condition;

use super::{Rule, START_NS, Seen, States};
use crate::portti::read::{self, text, time};

const WORKLOAD: &[Rule] = &[
    Rule {
        kind: "Progressing",
        status: "False",
        state: condition::PROGRESS_DEADLINE_EXCEEDED,
        reason: Some("ProgressDeadlineExceeded"),
    },
    Rule { kind: "ReplicaFailure", status: "True", state: condition::REPLICA_FAILURE, reason: None },
];
const JOB: &[Rule] = &[Rule { kind: "Failed", status: "True", state: condition::FAILED, reason: None }];
const AUTOSCALER: &[Rule] = &[
    Rule {
        kind: "ScalingLimited",
        status: "True",
        state: condition::AT_MAXIMUM,
        reason: Some("TooManyReplicas"),
    },
    Rule { kind: "AbleToScale", status: "False", state: condition::UNABLE_TO_SCALE, reason: None },
];

/// The states of a Deployment or a ReplicaSet.
pub(in crate::portti) fn workload(seen: &Seen<'_>, states: &mut States) {
    states.by(seen, WORKLOAD);
}

/// The states of a Job.
pub(in crate::portti) fn job(seen: &Seen<'_>, states: &mut States) {
    states.by(seen, JOB);
}

/// The states of an autoscaler. It is unable to scale if either of two conditions says so; one with a target of no pods
/// is disabled on purpose.
pub(in crate::portti) fn autoscaler(seen: &Seen<'_>, states: &mut States) {
    states.by(seen, AUTOSCALER);
    let is_unable = states.now.iter().any(|state| state.condition.condition == condition::UNABLE_TO_SCALE);
    let Some(active) = read::condition(seen.data, "ScalingActive").filter(|_| !is_unable) else { return };
    let reason = text(active, "/reason");
    if text(active, "/status") == Some("False") && reason != Some("ScalingDisabled") {
        let since = time(active, "/lastTransitionTime").unwrap_or(seen.written_unix_ns);
        states.over.retain(|(state, ..)| *state != condition::UNABLE_TO_SCALE);
        states.begin(condition::UNABLE_TO_SCALE, reason, text(active, "/message"), since);
    }
}

/// The states of a quota: it is used up if nothing is left of a resource. Nothing says since when.
pub(in crate::portti) fn quota(seen: &Seen<'_>, states: &mut States) {
    let amounts = |path| seen.data.pointer(path).and_then(Value::as_object).into_iter().flatten();
    let used: Vec<String> = amounts("/status/hard")
        .filter_map(|(resource, hard)| {
            let hard = hard.as_str()?;
            let used = seen.data.pointer("/status/used")?.get(resource)?.as_str()?;
            let is_used_up = read::thousandths(used)? >= read::thousandths(hard)?;
            is_used_up.then(|| format!("{resource}: {used} of {hard} used"))
        })
        .collect();
    if used.is_empty() {
        states.over.push((condition::USED_UP, None, seen.written_unix_ns));
    } else {
        states.begin(condition::USED_UP, None, Some(&used.join(", ")), seen.written_unix_ns);
    }
}

/// The states of a claim. Binding takes a moment, and with some classes until the first pod comes.
pub(in crate::portti) fn claim(seen: &Seen<'_>, states: &mut States) {
    match text(seen.data, "/status/phase") {
        Some("Pending") if seen.deleting_unix_ns.is_none() => {
            let state = states.begin(condition::PENDING, None, None, seen.created_unix_ns);
            state.due_unix_ns = seen.created_unix_ns.saturating_add(START_NS);
        }
        Some("Lost") => {
            states.begin(condition::LOST, None, None, seen.written_unix_ns);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{
        Look,
        tests::{brief, of},
    };
    use super::*;

    fn with(look: Look, conditions: &[(&str, &str, &str)]) -> Vec<(String, String)> {
        let conditions: Vec<Value> = conditions
            .iter()
            .map(|(kind, status, reason)| json!({ "type": kind, "status": status, "reason": reason }))
            .collect();
        let states = of(look, &json!({ "status": { "conditions": conditions } }));
        brief(&states).into_iter().map(|(state, reason, ..)| (state, reason)).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn a_quota_with_nothing_left_is_used_up() {
        let of_quota = |used: &str| {
            let status = json!({ "hard": { "pods": "10", "services": "5" }, "used": { "pods": used, "services": "1" } });
            of(quota, &json!({ "status": status }))
        };
        let used_up = of_quota("10");
        assert_eq!(used_up.now[0].condition.text.as_deref(), Some("pods: 10 of 10 used"));
        let left = of_quota("9");
        assert!(left.now.is_empty());
        assert_eq!(left.over[0].0, condition::USED_UP);
    }

    #[test]
    fn what_a_controller_says() {
        let late = ("Progressing", "False", "ProgressDeadlineExceeded");
        assert_eq!(
            with(workload, &[late, ("ReplicaFailure", "True", "FailedCreate")]),
            pairs(&[
                ("ProgressDeadlineExceeded", "ProgressDeadlineExceeded"),
                ("ReplicaFailure", "FailedCreate"),
            ])
        );
        assert_eq!(with(workload, &[("Progressing", "True", "NewReplicaSetAvailable")]), []);
        let failed = ("Failed", "True", "BackoffLimitExceeded");
        assert_eq!(with(job, &[failed]), pairs(&[("Failed", "BackoffLimitExceeded")]));
        let (able, active) = (("AbleToScale", "True", "ReadyForNewScale"), "ScalingActive");
        let limited = ("ScalingLimited", "True", "TooManyReplicas");
        assert_eq!(with(autoscaler, &[able, limited]), pairs(&[("AtMaximum", "TooManyReplicas")]));
        let unable = (active, "False", "FailedGetResourceMetric");
        let expected = pairs(&[("UnableToScale", "FailedGetResourceMetric")]);
        assert_eq!(with(autoscaler, &[able, unable]), expected);
        assert_eq!(with(autoscaler, &[able, (active, "False", "ScalingDisabled")]), []);
        let few = ("ScalingLimited", "True", "TooFewReplicas");
        assert_eq!(with(autoscaler, &[few]), []);
    }

    #[test]
    fn claims() {
        let of = |phase: &str| brief(&of(claim, &json!({ "status": { "phase": phase } })));
        assert_eq!(of("Bound"), []);
        assert_eq!(of("Pending").len(), 1);
        assert!(of("Pending")[0].4, "it waits for its time");
        assert_eq!(of("Lost")[0].0, "Lost");
    }
}
