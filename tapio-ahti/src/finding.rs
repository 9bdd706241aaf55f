//! Findings: one claim on one entity, in one episode.

use std::{collections::BTreeMap, net::IpAddr};

use tapio_occurrence::{Name as Text, Severity};
use ulid::Ulid;

use crate::{
    graph::EntityId,
    visible::{self, Places},
};

/// A finding, as a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FindingId(pub(crate) u64);

/// Maximum number of facts that a finding names; further ones are counted.
pub(crate) const MAX_FACTS: usize = 16;
/// Maximum number of values of a field.
pub(crate) const MAX_VALUES: usize = 64;
/// Maximum number of nodes and processes that expect a finding.
const MAX_EXPECTED: usize = 64;
/// Maximum number of pods that a finding names.
const MAX_PODS: usize = 64;

/// What makes two facts the same finding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// The type of the occurrence; for conditions and warnings with their name, as in `kubernetes.condition/Waiting`.
    pub(crate) kind: Text,
    pub(crate) entity: EntityId,
    /// The other end, the container, or what else tells two findings of a type apart.
    pub(crate) detail: String,
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Other {
    /// The service or pod; absent where the address is not known.
    pub(crate) entity: Option<EntityId>,
    /// Absent where applications report it, which name whom they call.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
}

/// How often something occurred, in intervals that are as short as their number allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    /// Length of an interval.
    step_ns: u64,
    /// Count by the number of the interval.
    counts: BTreeMap<u64, u64>,
}

/// The shortest interval.
const STEP_NS: u64 = 5_000_000_000;
/// Intervals of a finding.
const MAX_STEPS: usize = 256;

impl Times {
    pub(crate) fn at(time_ns: u64, count: u64) -> Self {
        Self { step_ns: STEP_NS, counts: BTreeMap::from([(time_ns / STEP_NS, count)]) }
    }

    /// Adds the counts of another one. Steps double, so that the order does not matter.
    fn merge(&mut self, other: &Self) {
        while self.step_ns < other.step_ns {
            self.double();
        }
        let factor = self.step_ns / other.step_ns;
        for (interval, count) in &other.counts {
            let known = self.counts.entry(interval / factor).or_default();
            *known = known.saturating_add(*count);
        }
        while self.counts.len() > MAX_STEPS {
            self.double();
        }
    }

    fn double(&mut self) {
        self.step_ns = self.step_ns.saturating_mul(2);
        let counts = std::mem::take(&mut self.counts);
        for (interval, count) in counts {
            *self.counts.entry(interval / 2).or_default() += count;
        }
    }

    /// How often it occurred from a time on.
    pub(crate) fn count_from(&self, time_ns: u64) -> u64 {
        self.counts.range(time_ns / self.step_ns..).map(|(_, count)| count).sum()
    }

    /// The first time from a time on at which it occurred, and which part of all occurrences came from then on, from 0 to
    /// 1; `None` if none did.
    pub(crate) fn from(&self, time_ns: u64) -> Option<(u64, f64)> {
        let all: u64 = self.counts.values().sum();
        let mut later = self.counts.range(time_ns / self.step_ns..).peekable();
        let first = *later.peek()?.0;
        let count: u64 = later.map(|(_, count)| count).sum();
        Some(((first * self.step_ns).max(time_ns), count as f64 / all.max(1) as f64))
    }
}

/// Failures at a steady pace, which an agent does not report any more until they stop.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Expected {
    /// When it said so last; 0: never.
    pub(crate) since_ns: u64,
    /// When the last one came, as it said when they had stopped; 0: never.
    pub(crate) stopped_ns: u64,
}

impl Expected {
    /// Until when they lasted. An agent that starts anew does not say when what an earlier one expected stops, so that it is
    /// assumed for an hour at most.
    const fn until_ns(self) -> u64 {
        match self.stopped_ns >= self.since_ns {
            true => self.stopped_ns,
            false => self.since_ns.saturating_add(3_600_000_000_000),
        }
    }
}

/// Values of a field, for the conditions of rules.
pub(crate) type Fields = BTreeMap<Text, Vec<String>>;

/// One claim.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) key: Key,
    /// The entity of the fact itself, where `key.entity` is its workload.
    pub(crate) pods: Vec<EntityId>,
    /// When which pod had it, where a workload's fact names several.
    pub(crate) of_pods: BTreeMap<EntityId, Times>,
    pub(crate) peer: Option<Other>,
    /// Who had a hand in it.
    pub(crate) actor: Option<EntityId>,
    pub(crate) node: String,
    /// When it began.
    pub(crate) onset_ns: u64,
    /// When it was last seen.
    pub(crate) seen_ns: u64,
    /// Until when it lasted: of what agents expect and do not report that may be later than it was seen.
    pub(crate) last_ns: u64,
    /// What agents expect, by node and process.
    pub(crate) expected: BTreeMap<String, Expected>,
    /// When a condition ended.
    pub(crate) ended_ns: Option<u64>,
    pub(crate) count: u64,
    /// How often, and when.
    pub(crate) times: Times,
    pub(crate) severity: Severity,
    pub(crate) message: String,
    /// The namespaces that its facts name.
    pub(crate) places: Places,
    pub(crate) fields: Fields,
    /// The first facts, in order of time.
    pub(crate) facts: Vec<(u64, Ulid)>,
    /// Whether the owner is from the kernel or the API server, and not concluded.
    pub(crate) exact: bool,
    /// Changes: the set that it was made with.
    pub(crate) set: Option<String>,
}

impl Finding {
    /// Takes what another fact of the same finding adds. The order of the two does not matter.
    pub(crate) fn merge(&mut self, mut other: Self) {
        if other.onset_ns < self.onset_ns {
            self.onset_ns = other.onset_ns;
            self.message = other.message;
            std::mem::swap(&mut self.fields, &mut other.fields);
            self.peer = other.peer.or(self.peer);
            self.actor = other.actor.or(self.actor);
        }
        for (key, values) in other.fields {
            let known = self.fields.entry(key).or_default();
            for value in values {
                if known.len() < MAX_VALUES && !known.contains(&value) {
                    known.push(value);
                }
            }
        }
        self.seen_ns = self.seen_ns.max(other.seen_ns);
        other.expected.into_iter().for_each(|(who, expected)| self.expect(who, expected));
        self.last_ns = self.until_ns();
        self.ended_ns = match (self.ended_ns, other.ended_ns) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
        // A state of which it was said already when it began: PORTTI says again what lasts.
        let is_again = self.is_state()
            && other.facts.iter().all(|(at, _)| self.facts.iter().any(|(known, _)| known == at));
        if !is_again {
            self.count = self.count.saturating_add(other.count);
            self.times.merge(&other.times);
        }
        visible::join(&mut self.places, other.places);
        self.severity = self.severity.max(other.severity);
        self.exact &= other.exact;
        for pod in other.pods {
            if let Err(at) = self.pods.binary_search(&pod)
                && self.pods.len() < MAX_PODS
            {
                self.pods.insert(at, pod);
            }
        }
        for (pod, times) in other.of_pods {
            let is_full = self.of_pods.len() >= MAX_PODS;
            match self.of_pods.get_mut(&pod) {
                Some(known) => known.merge(&times),
                None if is_full => {}
                None => {
                    self.of_pods.insert(pod, times);
                }
            }
        }
        self.facts.extend(other.facts);
        self.facts.sort_unstable();
        match self.is_state() {
            true => self.facts.dedup_by_key(|(at, _)| *at),
            false => self.facts.dedup(),
        }
        self.facts.truncate(MAX_FACTS);
    }

    /// Takes what an agent says of what it expects.
    pub(crate) fn expect(&mut self, who: String, expected: Expected) {
        let known = self.expected.entry(who).or_default();
        known.since_ns = known.since_ns.max(expected.since_ns);
        known.stopped_ns = known.stopped_ns.max(expected.stopped_ns);
        if self.expected.len() > MAX_EXPECTED {
            self.expected.pop_last();
        }
        self.last_ns = self.until_ns();
    }

    fn until_ns(&self) -> u64 {
        self.expected.values().map(|expected| expected.until_ns()).fold(self.seen_ns, u64::max)
    }

    /// Whether it is still there at a time: a condition until it ends, anything else for a while after it was last seen.
    pub(crate) fn is_active(&self, now_ns: u64, quiet_ns: u64) -> bool {
        match self.ended_ns {
            Some(ended) => ended.max(self.last_ns).saturating_add(quiet_ns) > now_ns,
            None if self.is_state() => true,
            None => self.last_ns.saturating_add(quiet_ns) > now_ns,
        }
    }

    /// Whether it lasts until something says that it ended.
    pub(crate) fn is_state(&self) -> bool {
        self.key.kind.starts_with("kubernetes.condition/")
            && !matches!(&*self.key.kind, "kubernetes.condition/Terminated" | "kubernetes.condition/Evicted")
    }

    /// The first value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.first().map(String::as_str)
    }

    /// The first value of a field that is a number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.field(name)?.parse().ok()
    }
}
