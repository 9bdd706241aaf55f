//! Attaches a program in slices of time, since its hook is expensive, and turns what it has counted into records, one for each
//! call that failed, and one at the end of each slice.
//!
//! Slices come at random times, so that no work that is done at fixed times hides between them. When something fails that had
//! not failed before, a longer slice follows.

mod limit;

use std::{collections::HashMap, fmt, io, time::Duration};

use bytemuck::bytes_of;
use tapio_common::{Counts, Header, health::Call};
use tapio_service::clock;
use tokio::time::Instant;

use self::limit::Limits;
use crate::{
    config::Config,
    kernel::{Loaded, Slice, Slices},
    observer::health::{Failed, Plan, UNKNOWN},
    source::{Part, Ready, Records, RunTime, Source},
};

/// From something that began to fail to the slice that is to confirm it.
const PAUSE: Duration = Duration::from_secs(1);
/// What has not failed in so many slices begins to fail when it does.
const QUIET_SLICES: u64 = 12;
/// A slice that is to confirm something comes at most once in so many intervals.
const SECOND_SLICES: u32 = 6;

/// A program that is attached in slices of time.
pub(crate) struct Sliced {
    loaded: Loaded,
    plan: Plan,
    limits: Option<Limits>,
}

/// Attaches the program, and creates records once it is detached.
struct Reader {
    slices: Slices,
    plan: Plan,
    limits: Limits,
    /// The slice that has begun, and when, boot clock.
    slice: Option<(Slice, u64)>,
    /// How long attaching took.
    attaching: Duration,
    /// When the next slice begins or the current one ends.
    next: Instant,
    /// Length of the next slice.
    length: Duration,
    /// Before that, none follows that is to confirm something.
    second_at: Instant,
    /// Number of the slice.
    number: u64,
    known: HashMap<Call, Known>,
    /// In reverse order.
    waiting: Vec<Failed>,
}

/// What has failed so far.
struct Known {
    count: u64,
    /// Number of the slice in which it failed last.
    slice: u64,
}

impl Sliced {
    pub(crate) fn new(loaded: Loaded, plan: Plan, config: &Config) -> Self {
        let limits = Limits::new(config.cgroup_root.as_path(), config.proc_root.as_path());
        Self { loaded, plan, limits: Some(limits) }
    }
}

impl fmt::Debug for Sliced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sliced").field(&self.loaded).finish()
    }
}

/// The loaded programs, but for their records.
impl Source for Sliced {
    fn of(&self) -> &'static str {
        self.loaded.of()
    }

    fn parts(&self) -> Vec<Part> {
        self.loaded.parts()
    }

    fn observes(&self) -> bool {
        self.loaded.observes()
    }

    fn degraded(&self) -> Option<&str> {
        self.loaded.degraded()
    }

    fn records(&mut self) -> anyhow::Result<Box<dyn Records>> {
        let Some(slices) = self.loaded.slices()? else {
            return Ok(Box::new(Vec::new()));
        };
        let limits = self.limits.take().ok_or_else(|| anyhow::anyhow!("the records were taken before"))?;
        Ok(Box::new(Reader {
            slices,
            plan: self.plan,
            limits,
            slice: None,
            attaching: Duration::ZERO,
            next: Instant::now() + PAUSE.min(self.plan.interval),
            length: self.plan.slice,
            second_at: Instant::now(),
            number: 0,
            known: HashMap::new(),
            waiting: Vec::new(),
        }))
    }

    fn counts(&self) -> anyhow::Result<Vec<(&'static str, Counts)>> {
        self.loaded.counts()
    }

    fn run_times(&self) -> Vec<(&'static str, RunTime)> {
        self.loaded.run_times()
    }

    fn missed(&self) -> Vec<(&'static str, u64)> {
        self.loaded.missed()
    }

    fn close(&self) {
        self.loaded.close();
    }
}

impl Records for Reader {
    fn ready(&mut self) -> Ready<'_> {
        Box::pin(async {
            while self.waiting.is_empty() {
                tokio::time::sleep_until(self.next).await;
                self.step().map_err(io::Error::other)?;
            }
            Ok(())
        })
    }

    fn next(&mut self, take: &mut dyn FnMut(&[u8])) -> bool {
        let Some(failed) = self.waiting.pop() else { return false };
        take(bytes_of(&failed));
        true
    }
}

impl Reader {
    /// Begins a slice, or ends it.
    fn step(&mut self) -> anyhow::Result<()> {
        let Some((slice, began_ns)) = self.slice.take() else {
            let start = Instant::now();
            self.slice = self.slices.begin()?.map(|slice| (slice, clock::boot_ns()));
            self.attaching = start.elapsed();
            self.next = Instant::now() + self.length;
            return Ok(());
        };
        let start = Instant::now();
        self.slices.end(slice)?;
        let detaching = start.elapsed();
        let now_ns = clock::boot_ns();
        self.number += 1;
        let begins = self.read(now_ns, now_ns.saturating_sub(began_ns))?;
        tracing::debug!(
            slices = self.number,
            failed = self.waiting.len() - 1,
            attaching_us = self.attaching.as_micros(),
            detaching_us = detaching.as_micros(),
            "system calls looked at"
        );
        let now = Instant::now();
        let follows = begins && now >= self.second_at;
        if follows {
            self.second_at = now + self.plan.interval * SECOND_SLICES;
            self.next = now + PAUSE.min(self.plan.interval);
            self.length = self.plan.second_slice;
        } else {
            self.next = now + self.plan.interval.mul_f64(0.5 + fastrand::f64());
            self.length = self.plan.slice;
        }
        Ok(())
    }

    /// Makes records of what has failed since the last slice. Returns whether something began to fail.
    fn read(&mut self, now_ns: u64, slice_ns: u64) -> anyhow::Result<bool> {
        let end = Failed {
            header: Header { time_ns: now_ns, cgroup_id: 0, pid: 0, suppressed: 0, comm: [0; 16].into() },
            number: 0,
            errno: 0,
            count: 0,
            slice_ns,
            limit: UNKNOWN,
            used: UNKNOWN,
        };
        self.waiting.push(end);
        let mut begins = false;
        let all = self.slices.failures()?;
        for (call, failures) in &all {
            let known = self.known.get(call);
            let count = since(known.map_or(0, |known| known.count), failures.count);
            if count == 0 {
                continue;
            }
            begins |= known.is_none_or(|known| self.number - known.slice > QUIET_SLICES);
            self.known.insert(*call, Known { count: failures.count, slice: self.number });
            let (used, limit) = self.limits.of(call, failures.pid);
            self.waiting.push(Failed {
                header: Header {
                    time_ns: failures.time_ns,
                    cgroup_id: call.cgroup_id,
                    pid: failures.pid,
                    suppressed: 0,
                    comm: failures.comm,
                },
                number: call.number,
                errno: call.errno,
                count,
                limit,
                used,
                ..end
            });
        }
        if self.known.len() > all.len() {
            self.known.retain(|call, _| all.iter().any(|(known, _)| known == call));
        }
        Ok(begins)
    }
}

/// How many have been counted since. A call that was evicted from the map, and has failed again, began at 0.
const fn since(before: u64, now: u64) -> u64 {
    match now.checked_sub(before) {
        Some(new) => new,
        None => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_was_evicted_is_counted_from_the_start() {
        assert_eq!([since(0, 3), since(3, 3), since(3, 10), since(10, 3)], [3, 0, 7, 3]);
    }
}
