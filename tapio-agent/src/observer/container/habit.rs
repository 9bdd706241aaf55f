//! Ends that are usual: how often processes of a name end with a status is learned, and where an end is within that,
//! one stands for all.

use std::{collections::HashMap, num::NonZeroUsize};

use lru::LruCache;
use tapio_common::baseline::{Baseline, Limits, Verdict};

use crate::observer::Anomaly;

/// Names and statuses that are told apart; the one not used for longest makes room, and is learned anew.
const MAX_HABITS: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// Windows without an end after which the habit is over: a job that fails once a week is no habit.
const MAX_IDLE_WINDOWS: u64 = 144;

/// Ends in a window. One more or less is never abnormal.
const LIMITS: Limits = Limits { floor: 1, min_samples: 6, ..Limits::DEFAULT };

/// What is usual.
#[derive(Debug)]
pub(super) struct Habits {
    window_ns: u64,
    known: LruCache<Key, Habit>,
    /// Usual ends that wait for the end of their window.
    waiting: HashMap<Key, Anomaly>,
}

/// Not the control group: a job that runs again has another.
type Key = ([u8; 16], u32);

#[derive(Debug)]
struct Habit {
    /// Ends a window.
    past: Baseline,
    window_ns: u64,
    ends: u64,
}

impl Habits {
    pub(super) fn new(window_ns: u64) -> Self {
        Self { window_ns, known: LruCache::new(MAX_HABITS), waiting: HashMap::new() }
    }

    /// Tells an end that is not usual, and keeps one that is until its window is over.
    pub(super) fn admit(&mut self, anomaly: Anomaly, out: &mut Vec<Anomaly>) {
        let key = (anomaly.comm, anomaly.detail);
        let habit = self.known.get_or_insert_mut(key, || Habit {
            past: Baseline::default(),
            window_ns: anomaly.time_ns,
            ends: 0,
        });
        habit.close(anomaly.time_ns, self.window_ns);
        habit.ends += 1;
        // Judged on a copy: a window teaches once, when it is over.
        let verdict = { habit.past }.observe(habit.ends, anomaly.time_ns, &LIMITS);
        if verdict != Verdict::Normal {
            return out.push(anomaly);
        }
        if let Some(waits) = self.waiting.get_mut(&key) {
            waits.absorb(anomaly);
        } else if self.waiting.len() < MAX_HABITS.get() {
            self.waiting.insert(key, anomaly);
        } else {
            out.push(anomaly);
        }
    }

    /// Tells what waits, when its window is over.
    pub(super) fn tick(&mut self, now_ns: u64, out: &mut Vec<Anomaly>) {
        let window_ns = self.window_ns;
        let over = self.waiting.extract_if(|_, first| now_ns.saturating_sub(first.time_ns) >= window_ns);
        out.extend(over.map(|(_, anomaly)| anomaly));
    }
}

impl Habit {
    /// Learns from the windows that are over.
    fn close(&mut self, now_ns: u64, window_ns: u64) {
        let over = now_ns.saturating_sub(self.window_ns) / window_ns.max(1);
        if over == 0 {
            return;
        }
        if over > MAX_IDLE_WINDOWS {
            *self = Self { past: Baseline::default(), window_ns: now_ns, ends: 0 };
            return;
        }
        self.past.observe(self.ends, self.window_ns, &LIMITS);
        for _ in 1..over {
            self.past.observe(0, self.window_ns, &LIMITS);
        }
        self.window_ns = self.window_ns.saturating_add(over.saturating_mul(window_ns));
        self.ends = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        observer::Only,
        occurrence::{Data, Outcome, Severity},
    };

    const SECOND: u64 = 1_000_000_000;
    const WINDOW: u64 = 600 * SECOND;

    fn exit(time_ns: u64, status: u32) -> Anomaly {
        Anomaly {
            kind: "container.exit_error",
            severity: Severity::Error,
            outcome: Outcome::Failure,
            time_ns,
            cgroup_id: time_ns,
            pid: 7,
            comm: *b"batch-job\0\0\0\0\0\0\0",
            actor: None,
            only: Only::ALL,
            peer: None,
            detail: status,
            data: Data::default(),
            baseline: None,
            magnitude: 0,
            count: 1,
            message: |_| String::new(),
        }
    }

    /// One end a minute for so many minutes; how many were told at once, and how many in all.
    fn a_day(habits: &mut Habits, from: u64, minutes: u64) -> (usize, u64) {
        let (mut told, mut late) = (Vec::new(), Vec::new());
        for minute in 0..minutes {
            let now = (from + minute) * 60 * SECOND;
            habits.admit(exit(now, 1), &mut told);
            habits.tick(now, &mut late);
        }
        let count = told.iter().chain(&late).map(|anomaly| anomaly.count).sum();
        (told.len(), count)
    }

    #[test]
    fn a_job_that_fails_all_day_is_told_until_that_is_usual_and_each_is_counted() {
        let mut habits = Habits::new(WINDOW);
        let (told, count) = a_day(&mut habits, 1, 60);
        assert_eq!((told, count), (60, 60), "the first hour is news");
        let (told, count) = a_day(&mut habits, 61, 600);
        let mut rest = Vec::new();
        habits.tick(u64::MAX, &mut rest);
        assert_eq!(told, 0);
        assert_eq!(count + rest.iter().map(|anomaly| anomaly.count).sum::<u64>(), 600, "none is lost");
    }

    #[test]
    fn far_more_than_usual_and_another_status_are_news() {
        let mut habits = Habits::new(WINDOW);
        a_day(&mut habits, 1, 200);
        let mut told = Vec::new();
        habits.admit(exit(201 * 60 * SECOND, 2), &mut told);
        assert_eq!(told.len(), 1, "another status");
        for n in 0..100 {
            habits.admit(exit(202 * 60 * SECOND + n, 1), &mut told);
        }
        assert!(told.len() > 50, "a storm: {}", told.len());
    }

    #[test]
    fn a_habit_ends() {
        let mut habits = Habits::new(WINDOW);
        a_day(&mut habits, 1, 200);
        assert_eq!(a_day(&mut habits, 10_000, 1).0, 1);
    }

    #[test]
    fn memory_is_bounded_whoever_comes() {
        let mut habits = Habits::new(WINDOW);
        let mut out = Vec::new();
        for n in 0..20_000u32 {
            let mut anomaly = exit(1, n);
            anomaly.comm[..4].copy_from_slice(&n.to_le_bytes());
            habits.admit(anomaly, &mut out);
        }
        assert!(habits.known.len() <= MAX_HABITS.get() && habits.waiting.len() <= MAX_HABITS.get());
        assert_eq!(out.len(), 20_000);
    }
}
