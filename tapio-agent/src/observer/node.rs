//! Node: memory, processors and waiting, of each container and unit, and of the node itself.
//!
//! Watches no hooks; judges what is read from the files of control groups and from `/proc`, a
//! [`Sample`](tapio_common::node::Sample) a group and pass.
//! Says `node.memory_pressure`, `node.oom_predicted`, `node.cpu_throttled` and `node.io_pressure`.
//!
//! One fault is one anomaly: growth that was predicted to end badly is not told again as pressure; the node's waiting
//! is told only where no group's explains it; and of groups in groups, waiting is that of the innermost.

mod cpu;
mod gauge;
mod memory;
mod message;
mod settings;
mod trend;
mod waiting;

use std::collections::HashMap;

pub use settings::Settings;
use tapio_common::{
    WHOLE_NODE,
    node::{Sample, UNKNOWN, kind},
};

use self::{cpu::Cpu, memory::Memory, settings::Limits, waiting::Waiting};
use super::{Anomaly, Hook, Malformed, Observer, Only, Reads};
use crate::occurrence::{Data, Normal, Outcome, Severity, Value};

/// A group that was not seen for so long is gone, or the passes are that far apart.
const FORGET_NS: u64 = 15 * 60 * 1_000_000_000;
/// Groups that are known at a time. As many as a reader looks at.
const MAX_GROUPS: usize = 20_000;
/// What a group's waiting explains of the node's: for so long, since the two are judged one after another.
const EXPLAINS_NS: u64 = 30 * 1_000_000_000;

/// The node observer.
#[derive(Debug)]
pub struct Node {
    limits: Limits,
    groups: HashMap<u64, Group>,
    /// When some group waited for memory more than is normal for it, and when for input or output.
    waited: [Option<u64>; 2],
}

/// What is known of a group, or of the node.
#[derive(Debug, Default)]
struct Group {
    seen_ns: u64,
    memory: Memory,
    memory_waiting: Waiting,
    io_waiting: Waiting,
    cpu: Cpu,
}

impl Observer for Node {
    const NAME: &'static str = "node";
    const FIELDS: &'static [&'static str] = &[];
    const HOOKS: &'static [Hook] = &[];
    type Settings = Settings;

    fn new(settings: &Settings) -> Self {
        Self { limits: settings.limits(), groups: HashMap::new(), waited: [None; 2] }
    }

    fn kernel_settings(_: &Settings) -> Vec<u8> {
        Vec::new()
    }

    fn reads(settings: &Settings) -> Option<Reads> {
        Some(Reads { interval: settings.interval.get() })
    }

    fn observe(&mut self, record: &[u8], out: &mut Vec<Anomaly>) -> Result<(), Malformed> {
        let sample: Sample =
            bytemuck::try_pod_read_unaligned(record).map_err(|_| Malformed::Size(record.len()))?;
        let is_node = sample.header.cgroup_id == WHOLE_NODE;
        match sample.kind {
            kind::GROUP if !is_node => {}
            kind::NODE if is_node => {}
            other => return Err(Malformed::Kind(other)),
        }
        let (id, now_ns) = (sample.header.cgroup_id, sample.header.time_ns);
        if self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&id) {
            return Ok(());
        }
        let group = self.groups.entry(id).or_default();
        if now_ns < group.seen_ns {
            return Ok(());
        }
        group.seen_ns = now_ns;
        out.extend(group.memory.judge(&sample, &self.limits));
        out.extend(group.cpu.judge(&sample, &self.limits.cpu));
        if sample.inner != 0 {
            return Ok(());
        }
        let waits = [
            group.memory_waiting.judge(
                &sample,
                [sample.memory_some_us, sample.memory_full_us],
                &self.limits.memory,
            ),
            group.io_waiting.judge(&sample, [sample.io_some_us, sample.io_full_us], &self.limits.io),
        ];
        // What grows towards its end waits for memory before it: that is told.
        let is_told = [group.memory.is_predicted(), false];
        for (at, found) in waits.into_iter().enumerate() {
            let Some(waited) = found else { continue };
            if is_node && self.waited[at].is_some_and(|then| now_ns.saturating_sub(then) < EXPLAINS_NS) {
                continue;
            }
            if !is_node {
                self.waited[at] = Some(now_ns);
            }
            if let Some(wait) = waited.filter(|_| !is_told[at]) {
                out.push(if at == 0 { wait.of_memory(&sample) } else { wait.of_io(&sample) });
            }
        }
        Ok(())
    }

    fn tick(&mut self, now_ns: u64, _: &mut Vec<Anomaly>) {
        self.groups.retain(|_, group| now_ns.saturating_sub(group.seen_ns) < FORGET_NS);
    }
}

/// What anomalies of this observer have in common.
fn anomaly(sample: &Sample, kind: &'static str, severity: Severity, message: message::Message) -> Anomaly {
    Anomaly {
        kind,
        severity,
        outcome: Outcome::Unknown,
        time_ns: sample.header.time_ns,
        cgroup_id: sample.header.cgroup_id,
        pid: 0,
        comm: [0; 16],
        actor: None,
        full: None,
        only: Only::ALL,
        peer: None,
        detail: 0,
        data: Data(vec![("of", if sample.kind == kind::NODE { "node" } else { "group" }.into())]),
        baseline: None,
        magnitude: 0,
        count: 1,
        message,
    }
}

/// Adds what is known.
fn put(data: &mut Data, key: &'static str, value: u64) {
    if value != UNKNOWN {
        data.0.push((key, Value::Number(value)));
    }
}

/// What was normal, of a share in 1/1024.
fn normal(baseline: &tapio_common::baseline::Baseline, share: u64) -> Normal {
    let mean = baseline.mean();
    Normal {
        mean,
        deviation: baseline.deviation(),
        unit: "1/1024",
        samples: baseline.samples(),
        ratio: (mean > 0).then(|| (share as f64 / mean as f64 * 10.0).round() / 10.0),
    }
}

/// A share as people read it.
const fn percent(share_1024: u64) -> u64 {
    (share_1024 * 100 + 512) / 1024
}

#[cfg(test)]
mod tests;
