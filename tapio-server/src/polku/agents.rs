//! Who has sent facts: a bounded table for `/status`.

use std::{
    hash::RandomState,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use lru::LruCache;
use serde_json::{Value, json};
use tapio_occurrence::event::v1::Event;

/// Senders that are remembered; of more, those that were heard last.
const MOST: NonZeroUsize = NonZeroUsize::new(8_192).expect("not zero");
/// Senders that `/status` lists.
const LISTED: usize = 1_000;
/// Longer names are not remembered. That is the limit of a DNS name.
const NAME_BYTES: usize = 253;
/// The type of the agents' heartbeats.
const HEARTBEAT: &str = "tapio.heartbeat";

/// The table.
#[derive(Debug)]
pub(super) struct Agents(Mutex<LruCache<Name, Heard, RandomState>>);

/// A sender, as its events name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Name {
    cluster: String,
    node: String,
    source: String,
}

#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    last_unix_s: u64,
    facts: u64,
    heartbeats: u64,
    last_heartbeat_unix_s: Option<u64>,
}

impl Agents {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::with_hasher(MOST, RandomState::new())))
    }

    /// Notes the senders of these events.
    pub(super) fn hear(&self, events: &[Event]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let of = |event: &Event, key: &str| event.metadata.get(key).cloned().unwrap_or_default();
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            let name = Name {
                cluster: of(event, "cluster"),
                node: of(event, "node_name"),
                source: event.source.clone(),
            };
            if [&name.cluster, &name.node, &name.source].into_iter().any(|name| name.len() > NAME_BYTES) {
                continue;
            }
            let heard = table.get_or_insert_mut(name, Heard::default);
            heard.last_unix_s = now;
            heard.facts += 1;
            if event.event_type == HEARTBEAT {
                heard.heartbeats += 1;
                heard.last_heartbeat_unix_s = Some(now);
            }
        }
    }

    /// Number of senders in the table.
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The senders that were heard last, by name.
    pub(super) fn status(&self) -> Value {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut listed: Vec<_> =
            table.iter().take(LISTED).map(|(name, heard)| (name.clone(), *heard)).collect();
        let known = table.len();
        drop(table);
        listed.sort_by(|(one, _), (other, _)| one.cmp(other));
        let listed: Vec<_> = listed
            .into_iter()
            .map(|(Name { cluster, node, source }, heard)| {
                json!({
                    "cluster": cluster,
                    "node": node,
                    "source": source,
                    "last_heard_unix_s": heard.last_unix_s,
                    "facts": heard.facts,
                    "heartbeats": heard.heartbeats,
                    "last_heartbeat_unix_s": heard.last_heartbeat_unix_s,
                })
            })
            .collect();
        json!({ "known": known, "listed": listed })
    }
}

#[cfg(test)]
mod tests {
    use tapio_occurrence::{event::event, samples};

    use super::*;

    #[test]
    fn heartbeats_are_counted_and_the_table_is_bounded() {
        let agents = Agents::new();
        let mut events = vec![event(&samples::occurrence()); 2];
        events[1].event_type = HEARTBEAT.to_owned();
        agents.hear(&events);
        let status = agents.status();
        let one = &status["listed"][0];
        assert_eq!((&one["node"], &one["cluster"]), (&"node-a".into(), &"prod".into()));
        assert_eq!((&one["facts"], &one["heartbeats"]), (&2.into(), &1.into()));
        for node in 0..2 * MOST.get() {
            events[0].metadata.insert("node_name".to_owned(), node.to_string());
            agents.hear(&events[..1]);
        }
        events[0].source = "x".repeat(NAME_BYTES + 1);
        agents.hear(&events[..1]);
        assert_eq!(agents.len(), MOST.get());
        assert_eq!(agents.status()["listed"].as_array().unwrap().len(), LISTED);
    }
}
