//! A node.

use tapio_occurrence::kubernetes::condition;

use super::{Rule, Seen, States};
use crate::portti::read::{self, text, time};

const RULES: &[Rule] = &[
    Rule { kind: "MemoryPressure", status: "True", state: condition::MEMORY_PRESSURE, reason: None },
    Rule { kind: "DiskPressure", status: "True", state: condition::DISK_PRESSURE, reason: None },
    Rule { kind: "PIDPressure", status: "True", state: condition::PID_PRESSURE, reason: None },
    Rule { kind: "NetworkUnavailable", status: "True", state: condition::NETWORK_UNAVAILABLE, reason: None },
];

/// The states of a node.
pub(in crate::portti) fn node(seen: &Seen<'_>, states: &mut States) {
    if let Some(ready) = read::condition(seen.data, "Ready") {
        let since = time(ready, "/lastTransitionTime").unwrap_or(seen.written_unix_ns);
        if text(ready, "/status") == Some("True") {
            states.over.push((condition::NODE_NOT_READY, None, since));
        } else {
            states.begin(condition::NODE_NOT_READY, text(ready, "/reason"), text(ready, "/message"), since);
        }
    }
    states.by(seen, RULES);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{brief, of};
    use super::*;

    #[test]
    fn a_node_that_is_silent_and_short_of_memory() {
        let condition = |kind: &str, status: &str| json!({ "type": kind, "status": status, "reason": "R", "lastTransitionTime": "2026-11-20T01:46:45Z" });
        let conditions = [
            condition("MemoryPressure", "True"),
            condition("DiskPressure", "False"),
            condition("Ready", "Unknown"),
        ];
        let states = of(node, &json!({ "status": { "conditions": conditions } }));
        let names: Vec<_> = brief(&states).into_iter().map(|(name, .., second, _)| (name, second)).collect();
        assert_eq!(names, [("NodeNotReady".to_owned(), 5), ("MemoryPressure".to_owned(), 5)]);
        assert_eq!(states.over, [(condition::DISK_PRESSURE, None, states.now[0].since_unix_ns)]);
    }
}
