//! Failures at a steady rate, such as those of health checks. After two minutes they become expected: that is
//! reported once, and from then on only a much higher rate is, and that they have stopped.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};
use tapio_occurrence::{Occurrence, Outcome, Peer, Severity};
use ulid::Ulid;

use super::{
    fold::UNTIL,
    memory::{MAX, Memory},
    owner::Owner,
};
use crate::{
    metrics::Metrics,
    observer::{Anomaly, Pace},
    snapshot::Contributions,
};

/// Failures at a steady rate for this long become expected.
const STEADY_NS: u64 = 120 * 1_000_000_000;
/// A pattern that has not occurred for this long is news again. Follow-ups are at most ten minutes apart.
const FORGET_NS: u64 = 900 * 1_000_000_000;
/// The rate counts as changed if it is more than this many times the earlier one, or less than one part in
/// this many.
const VARIES: u64 = 3;
/// A rate this many times the expected one is reported.
const WORSE: u64 = 10;
const MINUTE_NS: u128 = 60 * 1_000_000_000;
/// Health checks end connections by a reset, so that follow-ups wait until it is known whether the rate lasts. Of other
/// failures they do not: somebody may not be served.
const HELD: &str = "network.connection_reset";
/// The data key of an occurrence that has become expected: failures per minute.
const EXPECTED: &str = "expected_per_minute";
/// The data key of an occurrence that reports that expected failures have stopped: for how long there was none.
const STOPPED: &str = "stopped_ms";
/// And how many came since they were expected, in no occurrence.
const UNREPORTED: &str = "expected_count";

/// The patterns of all workloads, and steady follow-ups that wait until it is known whether the rate lasts.
#[derive(Debug)]
pub struct Steady {
    patterns: Memory<Key, Pattern>,
    /// What this agent has reported as expected, until it stops.
    expected: HashMap<Key, Expected>,
}

/// Expected failures that go on.
#[derive(Debug)]
struct Expected {
    /// The occurrence that reported them as expected.
    reported: Occurrence,
    /// How many came since, in no occurrence.
    count: u64,
    /// When the last of them came, Unix time.
    last_unix_ns: u64,
    /// When the last follow-up of them arrived, and when they have stopped if no further one does.
    heard_ns: u64,
    stopped_ns: u64,
}

/// The part of an anomaly that is taken before its names are resolved.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// `None` for the first anomaly in a window.
    pace: Option<Pace>,
    time_ns: u64,
    detail: u32,
}

/// Identifies a pattern without the cgroup or a pod's address, because both change on a restart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Key {
    kind: Cow<'static, str>,
    owner: Owner,
    comm: String,
    /// Namespace, and the service or owner, else node or address.
    peer: [Option<String>; 2],
    detail: u32,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Pattern {
    /// Since when the rate has been steady.
    since_ns: u64,
    last_ns: u64,
    /// The rate per minute, and the highest rate per second, both within one fold window and therefore of one
    /// of the workload's containers.
    per_minute: u64,
    per_second: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    /// The rate has not lasted long enough.
    Learning,
    /// The rate has lasted; the next follow-up reports that.
    Lasted,
    /// A follow-up has reported it as expected.
    Expected,
}

/// Whether an occurrence reports that expected failures have stopped.
pub(super) fn has_stopped(occurrence: &Occurrence) -> bool {
    occurrence.data.number(STOPPED).is_some()
}

impl Sample {
    /// `None` for types that health checks do not cause.
    #[must_use]
    pub const fn of(anomaly: &Anomaly) -> Option<Self> {
        if !anomaly.kind.of_health_checks {
            return None;
        }
        Some(Self { pace: anomaly.pace, time_ns: anomaly.time_ns, detail: anomaly.detail })
    }
}

impl Steady {
    /// The name under which snapshots store it.
    pub const NAME: &'static str = "steady";

    fn with(patterns: Memory<Key, Pattern>) -> Self {
        Self { patterns, expected: HashMap::new() }
    }

    /// Knows no patterns.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self::with(Memory::new(Self::NAME, metrics))
    }

    /// Restores the patterns that an earlier agent stored.
    #[must_use]
    pub fn restored(metrics: Arc<Metrics>, contributions: &Contributions) -> Self {
        Self::with(Memory::restored(Self::NAME, metrics, contributions))
    }

    /// Stores the patterns for the next snapshot.
    pub fn contribute(&self, contributions: &Contributions) {
        self.patterns.contribute(contributions);
    }

    /// Returns the occurrence if it has to be reported now, with the count of those that waited for it.
    pub fn admit(&mut self, sample: Sample, mut occurrence: Occurrence, now_ns: u64) -> Option<Occurrence> {
        let Some(owner) = occurrence.workload.as_deref().and_then(Owner::of) else {
            return Some(occurrence);
        };
        let comm = occurrence.process.as_ref().map_or_else(String::new, |process| process.comm.clone());
        let peer = occurrence.peer.as_ref().map_or_else(Default::default, name);
        let key = Key { kind: occurrence.kind.clone(), owner, comm, peer, detail: sample.detail };
        let pattern = self.patterns.pattern(&key, || Pattern::new(sample.time_ns));
        let before = pattern.state;
        let state = pattern.take(sample, occurrence.count, now_ns);
        let is_held = occurrence.kind == HELD;
        match (before, state, sample.pace) {
            // The first anomaly of another container of the same workload is expected, too.
            (State::Expected | State::Lasted, State::Expected | State::Lasted, None)
            | (State::Expected, State::Expected, Some(_)) => {
                self.patterns.metrics.expected(occurrence.count);
                if let Some(expected) = self.expected.get_mut(&key) {
                    expected.take(&occurrence, sample.pace, now_ns);
                }
                return None;
            }
            (before, State::Lasted, Some(_)) if before == State::Lasted || !is_held => {
                pattern.state = State::Expected;
                let per_minute = pattern.per_minute;
                occurrence.data.push(EXPECTED, per_minute);
                occurrence.message.push_str(&format!(": {per_minute} a minute, expected from now on"));
                if self.expected.len() < MAX.get() {
                    let expected = Expected::new(&occurrence, sample.pace, now_ns);
                    self.expected.insert(key.clone(), expected);
                }
            }
            // It has become much worse, and is reported again.
            (State::Expected, State::Learning, _) => {
                self.expected.remove(&key);
            }
            (State::Learning, State::Learning | State::Lasted, Some(pace)) if is_held && pace.is_even => {
                // The next fold window is at most twice as long.
                let until_ns =
                    now_ns.saturating_add(pace.window_ns.saturating_mul(2)).saturating_add(STEADY_NS / 2);
                self.patterns.put_off(&key, until_ns);
                return self.patterns.wait(key, occurrence, until_ns);
            }
            _ => {}
        }
        if sample.pace.is_some()
            && let Some(waited) = self.patterns.end(&key)
        {
            occurrence.count = occurrence.count.saturating_add(waited.count);
        }
        Some(occurrence)
    }

    /// Occurrences whose rate ended before it became expected; all of them at `u64::MAX`. A rate that has
    /// lasted by then is left out, because the next agent restores it.
    pub fn over(&mut self, now_ns: u64) -> Vec<Occurrence> {
        let metrics = Arc::clone(&self.patterns.metrics);
        let is_known = |pattern: Option<&Pattern>| {
            now_ns == u64::MAX && pattern.is_some_and(|pattern| pattern.state == State::Lasted)
        };
        let over = self.patterns.over(now_ns).filter_map(|(pattern, waited)| {
            if is_known(pattern) {
                metrics.expected(waited.count);
                return None;
            }
            Some(waited)
        });
        over.collect()
    }

    /// Reports what was expected and has stopped. It is news if it comes again.
    pub fn stopped(&mut self, now_ns: u64) -> Vec<Occurrence> {
        let Self { patterns, expected } = self;
        let over = expected.extract_if(|_, expected| now_ns >= expected.stopped_ns);
        over.map(|(key, expected)| {
            patterns.forget(&key);
            expected.stopped(now_ns)
        })
        .collect()
    }
}

impl Expected {
    fn new(reported: &Occurrence, pace: Option<Pace>, now_ns: u64) -> Self {
        let mut expected =
            Self { reported: reported.clone(), count: 0, last_unix_ns: 0, heard_ns: now_ns, stopped_ns: 0 };
        expected.take(reported, pace, now_ns);
        expected.count = 0;
        expected
    }

    fn take(&mut self, occurrence: &Occurrence, pace: Option<Pace>, now_ns: u64) {
        let until_ns = occurrence.data.number(UNTIL).unwrap_or_default().saturating_mul(1_000_000);
        self.count = self.count.saturating_add(occurrence.count);
        self.last_unix_ns = self.last_unix_ns.max(occurrence.time_unix_ns.saturating_add(until_ns));
        self.heard_ns = now_ns;
        // The next fold window is at most twice as long.
        let longest_ns =
            pace.map_or(0, |pace| pace.window_ns.saturating_mul(2)).saturating_add(STEADY_NS / 2);
        self.stopped_ns = self.stopped_ns.max(now_ns.saturating_add(longest_ns.min(FORGET_NS)));
    }

    /// The occurrence that reports that it has stopped.
    fn stopped(self, now_ns: u64) -> Occurrence {
        let Self { reported, count, last_unix_ns, heard_ns, .. } = self;
        let quiet_ms = now_ns.saturating_sub(heard_ns) / 1_000_000;
        let what = reported.kind.rsplit('.').next().unwrap_or_default().replace('_', " ");
        let peer = reported.peer.as_ref().map(|peer| format!(" ({peer})")).unwrap_or_default();
        let minutes = quiet_ms.div_ceil(60_000);
        let message = format!(
            "{}: {what}{peer} has stopped: none for {minutes} min, {count} since it was expected",
            reported.subject()
        );
        let mut data = reported.data;
        data.0.retain(|(key, _)| key != EXPECTED && key != UNTIL);
        data.push(STOPPED, quiet_ms);
        data.push(UNREPORTED, count);
        Occurrence {
            id: Ulid::from_parts(last_unix_ns / 1_000_000, fastrand::u128(..)),
            time_unix_ns: last_unix_ns,
            severity: Severity::Info,
            outcome: Outcome::Success,
            message,
            data,
            baseline: None,
            count: 1,
            ..reported
        }
    }
}

impl Pattern {
    const fn new(time_ns: u64) -> Self {
        Self { since_ns: time_ns, last_ns: time_ns, per_minute: 0, per_second: 0, state: State::Learning }
    }

    /// Adds this many failures at this rate, and returns the resulting state.
    fn take(&mut self, sample: Sample, count: u64, now_ns: u64) -> State {
        let Sample { pace, time_ns, .. } = sample;
        let idle_ns = now_ns.saturating_sub(self.last_ns);
        self.last_ns = self.last_ns.max(now_ns);
        let Some(pace) = pace else {
            // It starts over, unless this is the first anomaly of another container of the workload.
            if idle_ns >= if self.state == State::Learning { STEADY_NS } else { FORGET_NS } {
                *self = Self { last_ns: now_ns, ..Self::new(time_ns) };
            }
            return self.state;
        };
        let per_minute = pace.per_minute(count);
        if self.state != State::Learning {
            let is_over = |now: u64, expected: u64| now >= expected.max(1).saturating_mul(WORSE);
            if is_over(per_minute, self.per_minute) || is_over(pace.per_second, self.per_second) {
                // The rate has changed to another level, which may become expected in turn.
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
    /// Failures per minute over the window.
    fn per_minute(&self, count: u64) -> u64 {
        let per_minute = u128::from(count) * MINUTE_NS / u128::from(self.window_ns.max(1));
        u64::try_from(per_minute).unwrap_or(u64::MAX)
    }
}

/// Namespace and name that identify a peer across restarts.
fn name(peer: &Peer) -> [Option<String>; 2] {
    let names = peer.names();
    let name = names.service.as_ref().or(names.owner.as_ref()).or(names.pod.as_ref()).or(names.node.as_ref());
    [names.namespace.clone(), Some(name.cloned().unwrap_or_else(|| peer.address.to_string()))]
}

#[cfg(test)]
mod tests;
