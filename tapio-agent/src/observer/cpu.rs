//! CPU: tasks that wait for a CPU far longer than before, because others run.
//!
//! Watches `sched_switch` (tp_btf): its program sums the waits of each cgroup, and judges them in the kernel, once a window.
//! Reports `cpu.scheduling_delay`. docs/observers.md has the cost of a run.
//!
//! One fault is one anomaly. Waits for a cgroup's own quota are not counted here: they are `node.cpu_throttled`.

mod message;
mod settings;

use std::mem::offset_of;

pub use settings::Settings;

use tapio_common::{
    ROOT_CGROUP,
    cpu::{self as fields, CpuEvent, Track, kind},
};
use tapio_occurrence::{Data, Outcome, Severity};
use tapio_service::setting::Wrong;

use super::{Anomaly, Attach, Hook, Kind, Malformed, Observer, Only, Scope, SnapshotMap, gauge};

/// The CPU observer.
#[derive(Debug)]
pub struct Cpu;

static SCHEDULING_DELAY: Kind =
    Kind::new("cpu.scheduling_delay", Severity::Warning, Outcome::Unknown, message::delayed);

/// From this share of the time on that its tasks waited, a cgroup has run instead of them.
const LEAST_PERCENT: u64 = 50;

impl Observer for Cpu {
    const NAME: &'static str = "cpu";
    const FIELDS: &'static [&'static str] = fields::FIELDS;
    // In the order of `tapio_common::cpu::program`.
    const HOOKS: &'static [Hook] = &[Hook {
        program: "sched_switch",
        attach: Attach::BtfTracepoint("sched_switch"),
        needs: &[
            fields::PID,
            fields::RUN_DELAY,
            fields::RAN,
            fields::STATIC_PRIO,
            fields::POLICY,
            fields::CGROUPS,
            fields::CGROUP,
            fields::CGROUP_KN,
            fields::KN_ID,
        ],
        gives: "cpu.scheduling_delay",
        or: &[],
    }];
    const KINDS: &'static [&'static Kind] = &[&SCHEDULING_DELAY];
    const SNAPSHOT_MAPS: &'static [SnapshotMap] = &[SnapshotMap {
        map: "CGROUPS",
        key: Some(size_of::<u64>()),
        value: size_of::<Track>(),
        // The current window, and what came before it.
        transient: &[(0, offset_of!(Track, baseline)), (offset_of!(Track, since_ns), size_of::<Track>())],
        baselines: &[offset_of!(Track, baseline)],
        used: None,
    }];
    type Settings = Settings;

    fn check(settings: &Settings) -> Result<(), (&'static str, Wrong)> {
        settings.check()
    }

    fn new(_: &Settings) -> Self {
        Self
    }

    fn kernel_settings(settings: &Settings) -> Vec<u8> {
        bytemuck::bytes_of(&settings.kernel()).to_vec()
    }

    fn observe(&mut self, record: &[u8], out: &mut Vec<Anomaly>) -> Result<(), Malformed> {
        let event: CpuEvent =
            bytemuck::try_pod_read_unaligned(record).map_err(|_| Malformed::Size(record.len()))?;
        if event.kind != kind::SCHEDULING_DELAY {
            return Err(Malformed::Kind(event.kind));
        }
        out.push(judge(&event));
        Ok(())
    }
}

fn judge(event: &CpuEvent) -> Anomaly {
    let waits = &event.waits;
    let us_per_second = waits.us_per_second(event.window_ns);
    let mut data = Data::default();
    data.push("waited_per_second_us", us_per_second);
    data.push("waits", waits.count);
    data.push("longest_us", waits.longest_ns / 1_000);
    data.push("window_ms", event.window_ns / 1_000_000);
    data.push("since_ms", event.header.time_ns.saturating_sub(event.since_ns) / 1_000_000);
    if waits.quota_ns > 0 {
        data.push("waited_for_quota_us", waits.quota_ns / 1_000);
    }
    // Kernel threads, and what has no cgroup of its own, are nobody that can be named.
    let instead = waits.instead.most(LEAST_PERCENT).filter(|(cgroup_id, _)| *cgroup_id > ROOT_CGROUP);
    if let Some((_, percent)) = instead {
        data.push("noisy_neighbour_percent", percent);
    }
    Anomaly {
        data,
        noisy_neighbour: instead.map(|(cgroup_id, _)| cgroup_id),
        // What a user starts by hand has nobody who waits for it but the user.
        only: Only { scope: Scope::Services, ..Only::ALL },
        baseline: Some(gauge::normal(&event.baseline, us_per_second, "us")),
        magnitude: us_per_second,
        ..Anomaly::new(&SCHEDULING_DELAY, &event.header)
    }
}

#[cfg(test)]
mod tests;
