//! Failures that come at a steady pace, as those of health checks do: what has gone on for two minutes becomes expected, is
//! reported once as such, and then only when there is far more of it.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};
use tapio_occurrence::{Occurrence, Peer};

use super::{memory::Memory, owner::Owner};
use crate::{
    metrics::Metrics,
    observer::{Anomaly, Pace},
    snapshot::Contributions,
};

/// What has come at a steady pace for so long is expected.
const STEADY_NS: u64 = 120 * 1_000_000_000;
/// What has not come for so long is news again.
const FORGET_NS: u64 = 3_600 * 1_000_000_000;
/// The pace is not that of before where it is over so many times that, or under one part in so many.
const VARIES: u64 = 3;
/// So many times what is expected is news.
const WORSE: u64 = 10;
const MINUTE_NS: u128 = 60 * 1_000_000_000;
/// The key in the data of what has become expected: how many come in a minute.
const EXPECTED: &str = "expected_per_minute";

/// The patterns of all workloads, and follow-ups at a steady pace until it is known whether that lasts.
#[derive(Debug)]
pub struct Steady(Memory<Key, Pattern>);

/// What an occurrence has for this before it is named.
#[derive(Clone, Copy, Debug)]
pub struct Sign {
    /// `None`: the first in a window.
    pace: Option<Pace>,
    time_ns: u64,
    detail: u32,
}

/// Not the cgroup, nor a pod's address: what is started again has others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Key {
    kind: Cow<'static, str>,
    owner: Owner,
    comm: String,
    /// Service or owner, else node or address.
    peer: [Option<String>; 2],
    detail: u32,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Pattern {
    /// Since when it is steady.
    since_ns: u64,
    last_ns: u64,
    /// How many in a minute, and at most in a second: in one window of folding, so of one of the workload's containers.
    per_minute: u64,
    per_second: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    /// It has to last.
    Learning,
    /// It has lasted; that is reported with the next follow-up.
    Lasted,
    /// That was reported.
    Expected,
}

impl Sign {
    /// `None` for what is not looked at here.
    #[must_use]
    pub const fn of(anomaly: &Anomaly) -> Option<Self> {
        if !anomaly.kind.of_health_checks {
            return None;
        }
        Some(Self { pace: anomaly.pace, time_ns: anomaly.time_ns, detail: anomaly.detail })
    }
}

impl Steady {
    /// Under which it contributes to snapshots.
    pub const NAME: &'static str = "steady";

    /// One that has seen nothing.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self(Memory::new(Self::NAME, metrics))
    }

    /// One that knows what one of an agent before this had noted.
    #[must_use]
    pub fn restored(metrics: Arc<Metrics>, contributions: &Contributions) -> Self {
        Self(Memory::restored(Self::NAME, metrics, contributions))
    }

    /// Contributes what it has learned to the next snapshot.
    pub fn contribute(&self, contributions: &Contributions) {
        self.0.contribute(contributions);
    }

    /// Gives an occurrence back that is to be reported now; with the count of those that have waited.
    pub fn admit(&mut self, sign: Sign, mut occurrence: Occurrence, now_ns: u64) -> Option<Occurrence> {
        let Some(owner) = occurrence.workload.as_deref().and_then(Owner::of) else {
            return Some(occurrence);
        };
        let comm = occurrence.process.as_ref().map_or_else(String::new, |process| process.comm.clone());
        let peer = occurrence.peer.as_ref().map_or_else(Default::default, name);
        let key = Key { kind: occurrence.kind.clone(), owner, comm, peer, detail: sign.detail };
        let pattern = self.0.pattern(&key, || Pattern::new(sign.time_ns));
        let before = pattern.state;
        let state = pattern.take(sign, occurrence.count, now_ns);
        match (before, state, sign.pace) {
            // Known by the first of a workload's other containers, too.
            (State::Expected | State::Lasted, State::Expected | State::Lasted, None) => {
                self.0.metrics.expected(occurrence.count);
                return None;
            }
            (State::Expected, State::Expected, Some(_)) => {
                self.0.metrics.expected(occurrence.count);
                return None;
            }
            (State::Lasted, State::Lasted, Some(_)) => {
                pattern.state = State::Expected;
                let per_minute = pattern.per_minute;
                occurrence.data.push(EXPECTED, per_minute);
                occurrence.message.push_str(&format!(": {per_minute} a minute, expected from now on"));
            }
            (State::Learning, State::Learning | State::Lasted, Some(pace)) if pace.is_even => {
                // The next window is at most twice as long.
                let until_ns =
                    now_ns.saturating_add(pace.window_ns.saturating_mul(2)).saturating_add(STEADY_NS / 2);
                self.0.put_off(&key, until_ns);
                return self.0.wait(key, occurrence, until_ns);
            }
            _ => {}
        }
        if sign.pace.is_some()
            && let Some(waited) = self.0.end(&key)
        {
            occurrence.count = occurrence.count.saturating_add(waited.count);
        }
        Some(occurrence)
    }

    /// What has waited, and has ended before it was expected; all of it at `u64::MAX`. Not what has lasted by then: the next
    /// agent knows it.
    pub fn over(&mut self, now_ns: u64) -> Vec<Occurrence> {
        let metrics = Arc::clone(&self.0.metrics);
        let is_known = |pattern: Option<&Pattern>| {
            now_ns == u64::MAX && pattern.is_some_and(|pattern| pattern.state == State::Lasted)
        };
        let over = self.0.over(now_ns).filter_map(|(pattern, waited)| {
            if is_known(pattern) {
                metrics.expected(waited.count);
                return None;
            }
            Some(waited)
        });
        over.collect()
    }
}

impl Pattern {
    const fn new(time_ns: u64) -> Self {
        Self { since_ns: time_ns, last_ns: time_ns, per_minute: 0, per_second: 0, state: State::Learning }
    }

    /// Takes so many in, which came at this pace. What it is then.
    fn take(&mut self, sign: Sign, count: u64, now_ns: u64) -> State {
        let Sign { pace, time_ns, .. } = sign;
        let idle_ns = now_ns.saturating_sub(self.last_ns);
        self.last_ns = self.last_ns.max(now_ns);
        if idle_ns >= FORGET_NS {
            *self = Self { last_ns: now_ns, ..Self::new(time_ns) };
            return self.state;
        }
        let Some(pace) = pace else {
            // One that begins again, unless it is of another container of the workload.
            if self.state == State::Learning && idle_ns >= STEADY_NS {
                *self = Self { last_ns: now_ns, ..Self::new(time_ns) };
            }
            return self.state;
        };
        let per_minute = pace.per_minute(count);
        if self.state != State::Learning {
            let is_over = |now: u64, expected: u64| now >= expected.max(1).saturating_mul(WORSE);
            if is_over(per_minute, self.per_minute) || is_over(pace.per_second, self.per_second) {
                // Another level, which may become expected in turn.
                *self = Self { last_ns: now_ns, ..Self::new(now_ns) };
            }
            return self.state;
        }
        let is_same = self.per_minute == 0
            || (per_minute <= self.per_minute.saturating_mul(VARIES)
                && per_minute.saturating_mul(VARIES) >= self.per_minute);
        if !pace.is_even || !is_same {
            self.since_ns = now_ns;
        }
        (self.per_minute, self.per_second) =
            if pace.is_even { (per_minute, pace.per_second) } else { (0, 0) };
        if pace.is_even && now_ns.saturating_sub(self.since_ns) >= STEADY_NS {
            self.state = State::Lasted;
        }
        self.state
    }
}

impl Pace {
    /// How many came in a minute of the window.
    fn per_minute(&self, count: u64) -> u64 {
        let per_minute = u128::from(count) * MINUTE_NS / u128::from(self.window_ns.max(1));
        u64::try_from(per_minute).unwrap_or(u64::MAX)
    }
}

/// What a peer is known by that is certain to be the same again.
fn name(peer: &Peer) -> [Option<String>; 2] {
    let names = peer.names();
    let name = names.service.as_ref().or(names.owner.as_ref()).or(names.pod.as_ref()).or(names.node.as_ref());
    [names.namespace.clone(), Some(name.cloned().unwrap_or_else(|| peer.address.to_string()))]
}

#[cfg(test)]
mod tests;
