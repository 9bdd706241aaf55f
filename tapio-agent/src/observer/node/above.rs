//! Limits of a group above those of containers and units: reported for the one below it that uses most of what is limited.

use tapio_common::{WHOLE_NODE, node::Ancestor};
use tapio_occurrence::ANCESTOR;

use super::{cpu::Cpu, memory::Memory, settings::Limits};
use crate::observer::Anomaly;

/// A group below that is as full of a limit of its own, but for this, in 1/1024, explains it: 5 %.
const NEARER: u64 = 51;
/// What it is about is not a repeat of what is of the container's own limit.
const DETAIL: u32 = 16;

/// What there is to tell of its memory.
pub(super) fn memory(memory: &mut Memory, above: &Ancestor, limits: &Limits) -> Option<Anomaly> {
    let sample = &above.sample;
    let reported = memory.judge(sample, limits);
    let share = u128::from(sample.held_bytes) * 1024 / u128::from(sample.limit_bytes.max(1));
    if share <= u128::from(above.filled.saturating_add(NEARER)) {
        memory.forget_reported();
        return None;
    }
    reported.map(|reported| of(reported, above, above.memory_cgroup, above.memory_levels))
}

/// What there is to tell of its quota.
pub(super) fn cpu(cpu: &mut Cpu, above: &Ancestor, limits: &Limits) -> Option<Anomaly> {
    let reported = cpu.judge(&above.sample, above.throttled, &limits.cpu)?;
    Some(of(reported, above, above.cpu_cgroup, above.cpu_levels))
}

/// The same of the group below it that has most to do with it, where one is known.
fn of(mut reported: Anomaly, above: &Ancestor, group: u64, levels: u32) -> Anomaly {
    if !matches!(group, 0 | WHOLE_NODE) {
        reported.cgroup_id = group;
    }
    reported.detail = DETAIL.saturating_add(levels);
    let name: String = above
        .name
        .iter()
        .take_while(|byte| **byte != 0)
        .map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { char::REPLACEMENT_CHARACTER })
        .collect();
    reported.data.push("levels_up", u64::from(levels));
    if !name.is_empty() {
        reported.data.push(ANCESTOR, name);
    }
    reported
}
