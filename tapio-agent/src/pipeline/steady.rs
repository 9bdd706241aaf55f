//! Failures that come at a steady pace, as those of health checks do: what has gone on for two minutes becomes usual, is
//! reported once as such, and then only when there is far more of it.

use std::{borrow::Cow, collections::HashMap, hash::RandomState, num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use serde::{Deserialize, Serialize};

use super::owner::Owner;
use crate::{
    learned::Notes,
    metrics::Metrics,
    observer::{Anomaly, Pace},
    occurrence::{Occurrence, Peer},
};

/// Patterns that are told apart; the one not used for longest makes room, and is learned anew.
const MAX_PATTERNS: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// What has come at a steady pace for so long is usual.
const STEADY_NS: u64 = 120 * 1_000_000_000;
/// What has not come for so long is news again.
const FORGET_NS: u64 = 3_600 * 1_000_000_000;
/// The pace is not that of before where it is over so many times that, or under one part in so many.
const VARIES: u64 = 3;
/// So many times what is usual is news.
const WORSE: u64 = 10;
const MINUTE_NS: u128 = 60 * 1_000_000_000;
/// The key in the data of what has become usual: how many come in a minute.
const USUAL: &str = "usual_per_minute";

/// The patterns of all workloads.
#[derive(Debug)]
pub struct Steady {
    metrics: Arc<Metrics>,
    known: LruCache<Key, Pattern, RandomState>,
    /// Follow-ups at a steady pace, until it is known whether that lasts.
    waiting: HashMap<Key, Waiting>,
}

/// What an occurrence has for this before it is named.
#[derive(Clone, Copy, Debug)]
pub struct Sign {
    /// `None`: the first in a window.
    pace: Option<Pace>,
    time_ns: u64,
    detail: u32,
}

/// Not the control group, nor a pod's address: what is started again has others.
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
    Usual,
}

#[derive(Debug)]
struct Waiting {
    until_ns: u64,
    occurrence: Occurrence,
}

impl Sign {
    /// `None` for what is not looked at here.
    #[must_use]
    pub const fn of(anomaly: &Anomaly) -> Option<Self> {
        if !anomaly.only.unless_steady {
            return None;
        }
        Some(Self { pace: anomaly.pace, time_ns: anomaly.time_ns, detail: anomaly.detail })
    }
}

impl Steady {
    /// Under which it notes what it has learned.
    pub const NAME: &'static str = "steady";

    /// One that has seen nothing.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            known: LruCache::with_hasher(MAX_PATTERNS, RandomState::new()),
            waiting: HashMap::new(),
        }
    }

    /// One that knows what one of an agent before this had noted.
    #[must_use]
    pub fn recalled(metrics: Arc<Metrics>, notes: &Notes) -> Self {
        let mut steady = Self::new(metrics);
        let before = notes.before(Self::NAME).map(|noted| serde_json::from_slice::<Vec<_>>(&noted));
        match before.transpose() {
            // The one used last comes last.
            Ok(known) => known.into_iter().flatten().for_each(|(key, pattern)| {
                steady.known.put(key, pattern);
            }),
            Err(error) => {
                tracing::warn!(%error, "what was steady before cannot be used; it is learned anew");
            }
        }
        steady
    }

    /// Notes what it has learned.
    pub fn note(&self, notes: &Notes) {
        let known: Vec<_> = self.known.iter().rev().collect();
        // Nothing in it can fail to be written.
        if let Ok(noted) = serde_json::to_vec(&known) {
            notes.note(Self::NAME, noted);
        }
    }

    /// Gives an occurrence back that is to be reported now; with the count of those that have waited.
    pub fn admit(&mut self, sign: Sign, mut occurrence: Occurrence, now_ns: u64) -> Option<Occurrence> {
        let Some(owner) = occurrence.workload.as_deref().and_then(Owner::of) else {
            return Some(occurrence);
        };
        let comm = occurrence.process.as_ref().map_or_else(String::new, |process| process.comm.clone());
        let peer = occurrence.peer.as_ref().map_or_else(Default::default, name);
        let key = Key { kind: occurrence.kind.into(), owner, comm, peer, detail: sign.detail };
        let pattern = self.known.get_or_insert_mut_ref(&key, || Pattern::new(sign.time_ns));
        let before = pattern.state;
        let state = pattern.take(sign, occurrence.count, now_ns);
        match (before, state, sign.pace) {
            // Known by the first of a workload's other containers, too.
            (State::Usual | State::Lasted, State::Usual | State::Lasted, None) => {
                self.metrics.usual(occurrence.count);
                return None;
            }
            (State::Usual, State::Usual, Some(_)) => {
                self.metrics.usual(occurrence.count);
                return None;
            }
            (State::Lasted, State::Lasted, Some(_)) => {
                pattern.state = State::Usual;
                let per_minute = pattern.per_minute;
                occurrence.data.0.push((USUAL, per_minute.into()));
                occurrence.message.push_str(&format!(": {per_minute} a minute, usual from now on"));
            }
            (State::Learning, State::Learning | State::Lasted, Some(pace)) if pace.is_even => {
                // The next window is at most twice as long.
                let until_ns =
                    now_ns.saturating_add(pace.window_ns.saturating_mul(2)).saturating_add(STEADY_NS / 2);
                return self.wait(key, occurrence, until_ns);
            }
            _ => {}
        }
        if sign.pace.is_some()
            && let Some(waited) = self.waiting.remove(&key)
        {
            occurrence.count = occurrence.count.saturating_add(waited.occurrence.count);
        }
        Some(occurrence)
    }

    fn wait(&mut self, key: Key, occurrence: Occurrence, until_ns: u64) -> Option<Occurrence> {
        let observer = occurrence.kind.split('.').next().unwrap_or_default();
        if let Some(waits) = self.waiting.get_mut(&key) {
            self.metrics.folded(observer, occurrence.count);
            waits.occurrence.count = waits.occurrence.count.saturating_add(occurrence.count);
            waits.until_ns = until_ns;
        } else if self.waiting.len() < MAX_PATTERNS.get() {
            self.waiting.insert(key, Waiting { until_ns, occurrence });
        } else {
            return Some(occurrence);
        }
        None
    }

    /// What has waited, and has ended before it was usual; all of it at `u64::MAX`. Not what has lasted by then: the next
    /// agent knows it.
    pub fn over(&mut self, now_ns: u64) -> Vec<Occurrence> {
        let mut over = Vec::new();
        for (key, waits) in self.waiting.extract_if(|_, waits| now_ns >= waits.until_ns) {
            let state = self.known.peek(&key).map(|pattern| pattern.state);
            if now_ns == u64::MAX && state == Some(State::Lasted) {
                self.metrics.usual(waits.occurrence.count);
            } else {
                over.push(waits.occurrence);
            }
        }
        over
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
            let is_over = |now: u64, usual: u64| now >= usual.max(1).saturating_mul(WORSE);
            if is_over(per_minute, self.per_minute) || is_over(pace.per_second, self.per_second) {
                // Another level, which may become usual in turn.
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
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        learned::Learned,
        occurrence::{Process, Workload, sample},
        pipeline::fold::{Fold, tests::refused},
    };

    const SECOND: u64 = 1_000_000_000;

    /// What comes of the checks of a server, from fold to what is reported.
    struct Line {
        fold: Fold,
        steady: Steady,
        owner: &'static str,
        said: Vec<(u64, Occurrence)>,
    }

    impl Line {
        fn new() -> Self {
            Self::with(Steady::new(Arc::default()))
        }

        fn with(steady: Steady) -> Self {
            Self { fold: Fold::new(30 * SECOND, 600 * SECOND), steady, owner: "shop", said: Vec::new() }
        }

        fn name(&mut self, anomaly: Anomaly, now_ns: u64) {
            let sign = Sign::of(&anomaly).unwrap();
            let workload = Workload {
                owner: Some(self.owner.to_owned()),
                container_id: Some(anomaly.cgroup_id.to_string()),
                ..Workload::default()
            };
            let occurrence = Occurrence {
                kind: anomaly.kind,
                workload: Some(Arc::new(workload)),
                process: Some(Process { pid: 7, comm: "nginx".to_owned() }),
                peer: anomaly.peer.map(|(address, port)| Peer::unnamed(address, port)),
                data: anomaly.data,
                count: anomaly.count,
                ..sample()
            };
            if let Some(now) = self.steady.admit(sign, occurrence, now_ns) {
                self.said.push((now_ns / SECOND, now));
            }
        }

        /// Resets of one container at these times.
        fn resets(&mut self, cgroup_id: u64, times_ns: impl Iterator<Item = u64>) {
            for now_ns in times_ns {
                let only = crate::observer::Only { unless_steady: true, ..crate::observer::Only::ALL };
                let kind = "network.connection_reset";
                let anomaly = Anomaly { kind, only, cgroup_id, time_ns: now_ns, ..refused(80, 1) };
                let at_once = self.fold.admit(anomaly, now_ns);
                at_once.into_iter().for_each(|anomaly| self.name(anomaly, now_ns));
                self.tick(now_ns);
            }
        }

        fn tick(&mut self, now_ns: u64) {
            let mut out = Vec::new();
            self.fold.flush(now_ns, &mut out);
            out.into_iter().for_each(|anomaly| self.name(anomaly, now_ns));
            let over = self.steady.over(now_ns);
            self.said.extend(over.into_iter().map(|late| (now_ns / SECOND, late)));
        }

        fn finish(&mut self, now_ns: u64) {
            let mut out = Vec::new();
            self.fold.finish(&mut out);
            out.into_iter().for_each(|anomaly| self.name(anomaly, now_ns));
            let over = self.steady.over(u64::MAX);
            self.said.extend(over.into_iter().map(|late| (now_ns / SECOND, late)));
        }

        fn count(&self) -> u64 {
            self.said.iter().map(|(_, occurrence)| occurrence.count).sum()
        }

        fn usual(&self) -> u64 {
            self.steady.metrics.anomaly_ledger().usual
        }

        fn when(&self) -> Vec<u64> {
            self.said.iter().map(|(at, _)| *at).collect()
        }
    }

    /// One each half a second.
    fn checks(from_s: u64, to_s: u64) -> impl Iterator<Item = u64> {
        (from_s * 2..to_s * 2).map(|n| n * SECOND / 2)
    }

    #[test]
    fn checks_that_reset_are_reported_once_and_then_as_usual_once() {
        let mut line = Line::new();
        line.resets(1, checks(1000, 3000));
        assert_eq!(line.when(), [1000, 1450], "with the window after two minutes");
        let usual = &line.said[1].1;
        assert_eq!(usual.data.number(USUAL), Some(120));
        assert!(usual.message.ends_with(": 120 a minute, usual from now on"), "{}", usual.message);
        line.finish(3000 * SECOND);
        assert_eq!((line.said.len(), line.count() + line.usual()), (2, 4000), "none is lost");
        // Another container of the same workload.
        line.resets(2, checks(3000, 4000));
        line.finish(4000 * SECOND);
        assert_eq!((line.said.len(), line.count() + line.usual()), (2, 6000));
    }

    #[test]
    fn far_more_than_usual_is_news_at_once_and_may_become_usual() {
        let mut line = Line::new();
        line.resets(1, checks(1000, 2500));
        let before = line.count();
        line.said.clear();
        line.resets(1, (0..100_000).map(|n| 2500 * SECOND + n * SECOND / 40));
        let when = line.when();
        assert_eq!(when[0], 2500, "{when:?}");
        assert!(when.len() <= 4, "{when:?}");
        assert_eq!(line.said.last().unwrap().1.data.number(USUAL), Some(2400));
        line.finish(5000 * SECOND);
        assert_eq!(before + line.count() + line.usual(), 3_000 + 100_000, "none is lost");
    }

    #[test]
    fn what_does_not_last_is_reported_in_full() {
        let mut line = Line::new();
        line.resets(1, checks(1000, 1080));
        assert_eq!(line.when(), [1000]);
        line.tick(1100 * SECOND);
        line.tick(1300 * SECOND);
        line.finish(1300 * SECOND);
        assert_eq!((line.count(), line.usual()), (160, 0));
        // Nor what comes in bursts.
        let mut line = Line::new();
        for burst in 0..8 {
            line.resets(1, (0..9).map(|n| (1000 + burst * 40) * SECOND + n));
        }
        line.finish(2000 * SECOND);
        assert_eq!((line.count(), line.usual()), (72, 0));
        assert!(line.said.iter().all(|(_, occurrence)| occurrence.data.number(USUAL).is_none()));
    }

    #[test]
    fn what_comes_back_after_an_hour_and_what_another_has_is_news() {
        let mut line = Line::new();
        line.resets(1, checks(1000, 2000));
        line.tick(2100 * SECOND);
        line.said.clear();
        line.resets(1, checks(2200, 2210));
        assert!(line.said.is_empty());
        line.owner = "payments";
        line.resets(3, checks(2210, 2211));
        assert_eq!(line.said.len(), 1, "of another workload");
        line.owner = "shop";
        line.tick(4000 * SECOND);
        line.said.clear();
        line.resets(1, checks(8000, 8001));
        assert_eq!(line.when(), [8000]);
    }

    #[test]
    fn what_is_usual_is_known_to_the_next_agent() {
        let notes = |learned: &Learned| Notes::of(learned, &[Steady::NAME], Duration::ZERO);
        let first = notes(&Learned::new().unwrap());
        let mut line = Line::new();
        // Two minutes that are over before that was reported.
        line.resets(1, checks(1000, 1260));
        line.finish(1260 * SECOND);
        assert_eq!((line.when(), line.count() + line.usual()), (vec![1000], 520));
        line.steady.note(&first);

        let learned = Learned::of_note(Steady::NAME, first.now(Steady::NAME));
        let mut line = Line::with(Steady::recalled(Arc::default(), &notes(&learned)));
        line.resets(1, checks(1270, 1400));
        assert_eq!(line.when(), [1300], "as usual, once");
        let learned = Learned::of_note(Steady::NAME, b"[[1]]".to_vec());
        let mut line = Line::with(Steady::recalled(Arc::default(), &notes(&learned)));
        line.resets(1, checks(1400, 1401));
        assert_eq!(line.when(), [1400], "of what is no note nothing is known");
    }

    #[test]
    fn whose_owner_is_not_known_is_news_and_memory_is_bounded() {
        let mut steady = Steady::new(Arc::default());
        let sign = Sign { pace: None, time_ns: 1, detail: 80 };
        for _ in 0..3 {
            assert!(steady.admit(sign, Occurrence { workload: None, ..sample() }, 1).is_some());
        }
        let pace = Some(Pace { window_ns: 30 * SECOND, per_second: 1, is_even: true });
        let mut said = 0;
        for n in 0..20_000_u32 {
            let workload = Workload { owner: Some(n.to_string()), ..Workload::default() };
            let occurrence = Occurrence { workload: Some(Arc::new(workload)), count: 1, ..sample() };
            said += steady.admit(Sign { pace, ..sign }, occurrence, 1).map_or(0, |now| now.count);
        }
        assert!(steady.known.len() <= MAX_PATTERNS.get() && steady.waiting.len() <= MAX_PATTERNS.get());
        assert_eq!(said + steady.over(u64::MAX).iter().map(|late| late.count).sum::<u64>(), 20_000);
    }
}
