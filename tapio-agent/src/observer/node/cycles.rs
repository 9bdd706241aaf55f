//! Cycles per instruction: turns the kernel program's verdict into an anomaly, and finds the noisy neighbour.

use std::collections::VecDeque;

use tapio_common::{
    baseline::Baseline,
    node::{
        Sample, UNKNOWN,
        cycles::{CyclesEvent, extra},
        kind,
    },
};
use tapio_occurrence::{Data, Normal};

use super::{CPI_OUTLIER, IPC_DEGRADED, percent, put};
use crate::observer::{Anomaly, Counter, Counters, Quantity};

/// The counters that the program reads, in the order of the object's `COUNTERS`.
pub const COUNTERS: Counters = Counters {
    program: "sched_switch",
    all: &[
        Counter { name: "cycles", map: "CYCLES", of: &[Quantity::Cycles], needed: true },
        Counter { name: "instructions", map: "INSTRUCTIONS", of: &[Quantity::Instructions], needed: true },
        // In the order of `tapio_common::node::cycles::extra`.
        Counter {
            name: "stalled cycles or cache misses",
            map: "EXTRA",
            of: &[Quantity::StalledCycles, Quantity::CacheMisses],
            needed: false,
        },
    ],
};

/// The most samples kept of a cgroup.
const MAX_SAMPLES: usize = 16;
/// The least time between two of them.
const APART_NS: u64 = 5_000_000_000;
/// The least time before a rise from which the earlier use is computed.
const LEAST_BEFORE_NS: u64 = 10_000_000_000;
/// A smaller rise is ignored: a tenth of a CPU, in thousandths of a CPU.
const LEAST_RISE: u64 = 100;

/// The recent CPU time of one cgroup.
#[derive(Debug, Default)]
pub(super) struct Used {
    /// Boot time, nanoseconds, and CPU time used until then, microseconds.
    samples: VecDeque<(u64, u64)>,
}

impl Used {
    pub(super) fn look(&mut self, sample: &Sample) {
        let (now_ns, used_us) = (sample.header.time_ns, sample.cpu_us);
        if used_us == UNKNOWN || self.samples.back().is_some_and(|(_, before_us)| used_us < *before_us) {
            self.samples.clear();
            return;
        }
        // The latest sample is always kept; the earlier ones have the least distance.
        let len = self.samples.len();
        if len >= 2 && self.samples[len - 1].0.saturating_sub(self.samples[len - 2].0) < APART_NS {
            self.samples.pop_back();
        }
        if self.samples.len() >= MAX_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((now_ns, used_us));
    }

    /// How much CPU it used from `since_ns` on, and by how much more than before. `None` unless its use was
    /// higher in both halves of that time: it has to have risen together with the cycles, and to have lasted.
    pub(super) fn rise(&self, since_ns: u64, born_later: bool) -> Option<Rise> {
        let at = self.samples.partition_point(|(time_ns, _)| *time_ns <= since_ns);
        let (last, first) = (self.samples.back()?, self.samples.front()?);
        // The last sample before the rise. A cgroup created later had used nothing.
        let (start, before) = match at.checked_sub(1).and_then(|at| self.samples.get(at)) {
            Some(start) if start.0.saturating_sub(first.0) >= LEAST_BEFORE_NS => {
                (*start, rate(*first, *start)?)
            }
            None if born_later => (*first, 0),
            _ => return None,
        };
        // If there are two samples since then, take the first, because scans may be far apart.
        let middle = *self.samples.get((at + self.samples.len() - 1) / 2)?;
        let (early, late) = (rate(start, middle)?, rate(middle, *last)?);
        let least = before + LEAST_RISE.max(before / 4);
        if early < least || late < least {
            return None;
        }
        let now = rate(start, *last)?;
        Some(Rise { rise: now.checked_sub(before)?, now })
    }
}

/// A rise in CPU use, in thousandths of a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rise {
    pub(super) rise: u64,
    pub(super) now: u64,
}

fn rate(from: (u64, u64), to: (u64, u64)) -> Option<u64> {
    let us = u128::from(to.1.checked_sub(from.1)?);
    let rate = (us * 1_000_000).checked_div(u128::from(to.0.checked_sub(from.0)?))?;
    u64::try_from(rate).ok()
}

/// The likely noisy neighbour: the cgroup whose use rose by more than that of all others together.
pub(super) fn likeliest(rises: impl Iterator<Item = (u64, Rise)>) -> Option<(u64, Rise)> {
    let (mut most, mut all): (Option<(u64, Rise)>, u64) = (None, 0);
    for (id, rise) in rises {
        all = all.saturating_add(rise.rise);
        if most.is_none_or(|(_, most)| most.rise < rise.rise) {
            most = Some((id, rise));
        }
    }
    most.filter(|(_, most)| most.rise.saturating_mul(2) > all)
}

/// Converts an event into an anomaly.
pub(super) fn judge(event: &CyclesEvent, noisy_neighbour: Option<(u64, Rise)>) -> Anomaly {
    let is_node = event.kind == kind::IPC_DEGRADED;
    let usage = &event.usage;
    let cpi = usage.cpi().unwrap_or_default();
    let mut data = Data::from([("of", if is_node { "node" } else { "cgroup" }.into())]);
    if is_node {
        data.push("ipc", hundredths(1024.0 / cpi.max(1) as f64));
    } else {
        data.push("cpi", hundredths(cpi as f64 / 1024.0));
    }
    put(&mut data, "window_ms", event.window_ns / 1_000_000);
    put(&mut data, "since_ms", event.header.time_ns.saturating_sub(event.since_ns) / 1_000_000);
    put(&mut data, "used_millicores", thousandths(usage.ns, event.window_ns));
    let per_1000 = (u128::from(usage.extra) * 1000).checked_div(u128::from(match event.extra_kind {
        extra::STALLED => usage.cycles,
        extra::MISSES => usage.instructions,
        _ => 0,
    }));
    if let Some(per_1000) = per_1000.and_then(|number| u64::try_from(number).ok()) {
        if event.extra_kind == extra::STALLED {
            put(&mut data, "stalled_percent", (per_1000 + 5) / 10);
        } else {
            put(&mut data, "misses_per_1000_instructions", per_1000);
        }
    }
    let counted = usage.counted_share();
    if counted < 1014 {
        put(&mut data, "counted_percent", percent(counted));
    }
    if let Some((_, rise)) = noisy_neighbour {
        put(&mut data, "noisy_neighbour_millicores", rise.now);
        put(&mut data, "noisy_neighbour_rise_millicores", rise.rise);
    }
    let kind = if is_node { &IPC_DEGRADED } else { &CPI_OUTLIER };
    Anomaly {
        data,
        noisy_neighbour: noisy_neighbour.map(|(id, _)| id),
        baseline: Some(normal(&event.cpi, cpi)),
        magnitude: cpi,
        ..Anomaly::new(kind, &event.header)
    }
}

/// The baseline, in 1/1024 of a cycle per instruction.
fn normal(baseline: &Baseline, cpi: u64) -> Normal {
    Normal { unit: "cycles/1024 instructions".into(), ..super::normal(baseline, cpi) }
}

fn hundredths(value: f64) -> tapio_occurrence::Value {
    tapio_occurrence::Value::Real((value * 100.0).round() / 100.0)
}

fn thousandths(ns: u64, of_ns: u64) -> u64 {
    let number = (u128::from(ns) * 1000).checked_div(u128::from(of_ns)).unwrap_or_default();
    u64::try_from(number).unwrap_or(u64::MAX - 1)
}

#[cfg(test)]
mod tests;
