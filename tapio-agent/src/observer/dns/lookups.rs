//! Look-ups: the addresses of a name are asked for by two questions, which a client repeats when they are not answered.

use std::collections::HashMap;

use tapio_common::dns::{DnsEvent, kind};

/// How long a failure waits for others of the same look-up, and for the answer that shows that its client is a resolver.
const SETTLE_NS: u64 = 1_000_000_000;
/// A question that was asked again, and is not answered for this time, is not answered at all: the time after which C
/// libraries and Go give up a query.
const TIMEOUT_NS: u64 = 5_000_000_000;
/// The most look-ups that wait at a time. Further ones are reported at once.
const MAX_WAITING: usize = 1024;

/// Look-ups that wait.
#[derive(Debug, Default)]
pub(super) struct Lookups(HashMap<Key, Lookup>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    cgroup_id: u64,
    pid: u32,
    of: Of,
}

/// What belongs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Of {
    /// Failures of a resolver with one code: it fails for all names of a search list.
    Failure { resolver: [u32; 4], code: u32 },
    /// Unanswered questions for a name, by its hash.
    Unanswered { name: u64 },
    /// Late answers for a name.
    Slow { name: u64 },
}

/// A look-up.
#[derive(Debug)]
pub(super) struct Lookup {
    /// The event that took longest.
    pub(super) event: DnsEvent,
    /// When the first event happened, boot clock.
    pub(super) first_ns: u64,
    /// Number of events that it stands for, including those that the kernel suppressed.
    pub(super) count: u64,
    /// Types of the questions.
    pub(super) types: Vec<u16>,
    due_ns: u64,
}

impl Lookup {
    pub(super) fn new(event: &DnsEvent) -> Self {
        let wait_ns = if event.kind == kind::ASKED_AGAIN { TIMEOUT_NS } else { SETTLE_NS };
        Self {
            event: *event,
            first_ns: event.header.time_ns,
            count: 1 + u64::from(event.header.suppressed),
            types: vec![event.question],
            due_ns: event.header.time_ns.saturating_add(wait_ns),
        }
    }

    /// Adds an event of the same look-up.
    fn add(&mut self, other: Self) {
        self.count += other.count;
        if other.event.kind == kind::ASKED_AGAIN {
            self.due_ns = other.due_ns;
        }
        if other.event.value_us > self.event.value_us {
            self.event = other.event;
        }
        for question in other.types {
            if !self.types.contains(&question) {
                self.types.push(question);
            }
        }
    }
}

impl Lookups {
    /// Adds an event of a look-up. Returns the look-up if there is no room for it to wait.
    pub(super) fn take(&mut self, event: &DnsEvent) -> Option<Lookup> {
        let name = event.name_hash;
        let key = |of| Key { cgroup_id: event.header.cgroup_id, pid: event.header.pid, of };
        let unanswered = key(Of::Unanswered { name });
        let key = match event.kind {
            kind::ASKED_AGAIN => unanswered,
            kind::SLOW => key(Of::Slow { name }),
            _ => key(Of::Failure { resolver: event.resolver, code: event.code }),
        };
        if key != unanswered {
            self.answered(unanswered, event.question);
        }
        let lookup = Lookup::new(event);
        if let Some(waiting) = self.0.get_mut(&key) {
            waiting.add(lookup);
        } else if self.0.len() < MAX_WAITING {
            self.0.insert(key, lookup);
        } else {
            return Some(lookup);
        }
        None
    }

    /// A question that had to be asked again is answered.
    fn answered(&mut self, key: Key, question: u16) {
        let Some(waiting) = self.0.get_mut(&key) else { return };
        waiting.types.retain(|kind| *kind != question);
        if waiting.types.is_empty() {
            self.0.remove(&key);
        }
    }

    /// Returns the look-ups that have waited long enough, the earliest first.
    pub(super) fn over(&mut self, now_ns: u64) -> Vec<Lookup> {
        let mut over: Vec<_> =
            self.0.extract_if(|_, lookup| lookup.due_ns <= now_ns).map(|(_, lookup)| lookup).collect();
        over.sort_by_key(|lookup| lookup.first_ns);
        for Lookup { event, .. } in &mut over {
            // When the agent ends, the wait is not over.
            if event.kind == kind::ASKED_AGAIN && now_ns != u64::MAX {
                event.value_us += TIMEOUT_NS / 1_000;
            }
        }
        over
    }

    /// When the first look-up has waited long enough.
    pub(super) fn wake_at(&self) -> Option<u64> {
        self.0.values().map(|lookup| lookup.due_ns).min()
    }

    pub(super) fn pending(&self) -> u64 {
        self.0.values().map(|lookup| lookup.count).sum()
    }
}
