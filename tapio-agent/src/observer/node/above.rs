//! Limits of a cgroup above containers and units. They are reported for the cgroup below that uses most of
//! the limited resource.

use tapio_common::{WHOLE_NODE, node::Ancestor};
use tapio_occurrence::ANCESTOR;

use super::{cpu::Cpu, memory::Memory, settings::Limits};
use crate::observer::Anomaly;

/// A cgroup below explains the shortage if it is as full of its own limit, up to this difference: 5 %, in
/// 1/1024.
const NEARER: u64 = 51;
/// Keeps such an anomaly from being folded as a repeat of one about the container's own limit.
const DETAIL: u32 = 16;

/// The anomaly of its memory, if any.
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

/// The anomaly of its quota, if any.
pub(super) fn cpu(cpu: &mut Cpu, above: &Ancestor, is_new: bool, limits: &Limits) -> Option<Anomaly> {
    let reported = cpu.judge(&above.sample, above.throttled, is_new, &limits.cpu)?;
    Some(of(reported, above, above.cpu_cgroup, above.cpu_levels))
}

/// Attributes the anomaly to the cgroup below that contributes most, if one is known.
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
