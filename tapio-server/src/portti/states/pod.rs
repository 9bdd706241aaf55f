//! A pod and its containers.

use serde_json::Value;
use tapio_occurrence::kubernetes::condition;

use super::{START_NS, Seen, States};
use crate::portti::read::{self, SECOND_NS, list, number, text, time};

/// Reasons of a normal start.
const STARTING: &[&str] = &["ContainerCreating", "PodInitializing"];
/// The time by which the clocks of a kubelet and of the API server may differ in a pod's first status.
const GRAIN_NS: u64 = SECOND_NS;

/// The states of a pod. One that is being deleted has none that follow from that.
pub(in crate::portti) fn pod(seen: &Seen<'_>, states: &mut States) {
    let status = seen.data;
    let phase = text(status, "/status/phase").unwrap_or_default();
    let started = time(status, "/status/startTime").unwrap_or(seen.created_unix_ns);
    if phase == "Failed" && text(status, "/status/reason") == Some("Evicted") {
        let condition = read::condition(status, "DisruptionTarget");
        let since = condition.and_then(|condition| time(condition, "/lastTransitionTime"));
        let since = since.unwrap_or(seen.written_unix_ns);
        states.begin(condition::EVICTED, Some("Evicted"), text(status, "/status/message"), since);
    }
    containers(seen, started, states);
    states.remains = seen.deleting_unix_ns.is_some() || phase == "Failed";
    if states.remains || phase == "Succeeded" {
        return;
    }
    if let Some(scheduled) = read::condition(status, "PodScheduled") {
        let since = time(scheduled, "/lastTransitionTime").unwrap_or(seen.written_unix_ns);
        let reason = text(scheduled, "/reason");
        if text(scheduled, "/status") == Some("False") && reason == Some("Unschedulable") {
            states.begin(condition::UNSCHEDULABLE, reason, text(scheduled, "/message"), since);
        } else {
            states.over.push((condition::UNSCHEDULABLE, None, since));
        }
    }
    if let Some(ready) = read::condition(status, "Ready") {
        let changed = time(ready, "/lastTransitionTime").unwrap_or(seen.written_unix_ns);
        if text(ready, "/status") == Some("True") {
            states.over.push((condition::NOT_READY, None, changed));
        } else if text(status, "/spec/nodeName").is_some() {
            // The first status is "not ready" as of the start. A later change means that it was ready.
            let was_ready = changed > started.saturating_add(GRAIN_NS);
            let since = if was_ready { changed } else { started };
            let state =
                states.begin(condition::NOT_READY, text(ready, "/reason"), text(ready, "/message"), since);
            state.due_unix_ns = if was_ready { 0 } else { started.saturating_add(START_NS) };
        }
    }
}

fn containers(seen: &Seen<'_>, started: u64, states: &mut States) {
    // What runs to its end and then is started again is not expected to end.
    let goes_on = text(seen.data, "/spec/restartPolicy").is_none_or(|policy| policy == "Always");
    for (path, goes_on) in [("/status/initContainerStatuses", false), ("/status/containerStatuses", goes_on)]
    {
        for container in list(seen.data, path) {
            let Some(name) = text(container, "/name") else { continue };
            if seen.deleting_unix_ns.is_none() {
                waiting(seen, started, container, name, states);
            }
            for path in ["/lastState/terminated", "/state/terminated"] {
                let ended = container.pointer(path);
                if let Some(ended) = ended.filter(|ended| matters(ended, goes_on, seen.deleting_unix_ns)) {
                    terminated(seen, container, ended, name, states);
                }
            }
        }
    }
}

fn waiting(seen: &Seen<'_>, started: u64, container: &Value, name: &str, states: &mut States) {
    if let Some(reason) = text(container, "/state/waiting/reason") {
        let is_starting = STARTING.contains(&reason);
        let since = match time(container, "/lastState/terminated/finishedAt") {
            _ if is_starting => started,
            Some(finished) => finished,
            None => seen.written_unix_ns,
        };
        let message = text(container, "/state/waiting/message");
        let state = states.begin(condition::WAITING, Some(reason), message, since);
        state.due_unix_ns = if is_starting { started.saturating_add(START_NS) } else { 0 };
        state.condition.container = Some(name.to_owned());
        state.condition.restarts = number(container, "/restartCount");
    } else if let Some(since) = time(container, "/state/running/startedAt") {
        states.over.push((condition::WAITING, Some(name.to_owned()), since));
    }
}

/// Whether the end of a container is worth a fact: not a success that was expected, nor one that deletion asked for.
fn matters(ended: &Value, goes_on: bool, deleting: Option<u64>) -> bool {
    let code = ended.pointer("/exitCode").and_then(Value::as_i64).unwrap_or_default();
    let was_asked_for = deleting.is_some() && [0, 143, 137].contains(&code);
    let is_oom = text(ended, "/reason") == Some("OOMKilled");
    is_oom || (!was_asked_for && (code != 0 || goes_on))
}

fn terminated(seen: &Seen<'_>, container: &Value, ended: &Value, name: &str, states: &mut States) {
    let since = time(ended, "/finishedAt").unwrap_or(seen.written_unix_ns);
    let state = states.begin(condition::TERMINATED, text(ended, "/reason"), text(ended, "/message"), since);
    state.condition.container = Some(name.to_owned());
    state.condition.exit_code = ended.pointer("/exitCode").and_then(Value::as_i64);
    state.condition.signal = number(ended, "/signal").filter(|signal| *signal != 0);
    state.condition.restarts = number(container, "/restartCount");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{brief, of};
    use super::*;

    fn at(second: u32) -> String {
        format!("2026-11-20T01:46:{second:02}Z")
    }

    fn row(
        condition: &str,
        reason: &str,
        container: &str,
        second: i64,
        waits: bool,
    ) -> (String, String, String, i64, bool) {
        (condition.to_owned(), reason.to_owned(), container.to_owned(), second, waits)
    }

    #[test]
    fn containers_that_wait_and_those_that_ended() {
        let status = json!({ "status": { "phase": "Running", "startTime": at(41), "containerStatuses": [
            { "name": "app", "restartCount": 3, "state": { "waiting": { "reason": "CrashLoopBackOff" } },
              "lastState": { "terminated": { "exitCode": 137, "reason": "OOMKilled", "finishedAt": at(50) } } },
            { "name": "side", "restartCount": 0, "state": { "waiting": { "reason": "ContainerCreating" } } },
            { "name": "fine", "restartCount": 0, "state": { "running": { "startedAt": at(45) } } },
        ] } });
        let states = of(pod, &status);
        assert_eq!(
            brief(&states),
            [
                row("Waiting", "CrashLoopBackOff", "app", 10, false),
                row("Terminated", "OOMKilled", "app", 10, false),
                row("Waiting", "ContainerCreating", "side", 1, true),
            ]
        );
        assert_eq!(states.now[1].condition.exit_code, Some(137));
        assert_eq!(states.over[0].1.as_deref(), Some("fine"));
    }

    #[test]
    fn ready_or_not() {
        let with = |status: &str, changed: u32| {
            of(
                pod,
                &json!({
                    "spec": { "nodeName": "node-a" },
                    "status": { "phase": "Running", "startTime": at(41), "conditions": [{
                        "type": "Ready", "status": status, "reason": "ContainersNotReady",
                        "lastTransitionTime": at(changed),
                    }] },
                }),
            )
        };
        assert_eq!(brief(&with("False", 41)), [row("NotReady", "ContainersNotReady", "", 1, true)]);
        assert_eq!(brief(&with("False", 55)), [row("NotReady", "ContainersNotReady", "", 15, false)]);
        let ready = with("True", 50);
        assert_eq!((brief(&ready), ready.over[0].0), (vec![], "NotReady"));
    }

    #[test]
    fn ends_that_were_expected_are_none() {
        let with = |policy: &str, code: i64, deleting: bool| {
            let data = json!({ "spec": { "restartPolicy": policy }, "status": { "containerStatuses": [
                { "name": "app", "state": { "terminated": { "exitCode": code, "finishedAt": at(50) } } },
            ] } });
            let mut states = States::default();
            let deleting_unix_ns = deleting.then_some(1);
            let (created_unix_ns, written_unix_ns) = (1, 1);
            let seen = Seen { data: &data, created_unix_ns, written_unix_ns, deleting_unix_ns };
            pod(&seen, &mut states);
            states.now.len()
        };
        assert_eq!([with("Never", 0, false), with("Always", 0, false), with("Never", 1, false)], [0, 1, 1]);
        assert_eq!([with("Always", 143, true), with("Always", 1, true)], [0, 1]);
    }

    #[test]
    fn without_a_node_and_evicted_from_one() {
        let status = json!({ "status": { "phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/3 nodes are available", "lastTransitionTime": at(42),
        }] } });
        assert_eq!(brief(&of(pod, &status)), [row("Unschedulable", "Unschedulable", "", 2, false)]);
        let status = json!({ "status": { "phase": "Failed", "reason": "Evicted", "message": "low on memory",
            "conditions": [{ "type": "DisruptionTarget", "status": "True", "lastTransitionTime": at(44) }] } });
        assert_eq!(brief(&of(pod, &status)), [row("Evicted", "Evicted", "", 4, false)]);
    }
}
