//! Fields of a task.

use tapio_common::cpu;
use tapio_ebpf::{cgroup_of, is_absent, load};

use crate::OFFSETS;

/// `SCHED_BATCH` and `SCHED_IDLE`, include/uapi/linux/sched.h.
const SCHED_BATCH: u32 = 3;
const SCHED_IDLE: u32 = 5;
/// `DEFAULT_PRIO`, include/linux/sched/prio.h: the priority of a task with nice value 0. Higher ones are nicer.
const DEFAULT_PRIO: i32 = 120;
/// The most levels of cgroups above a task whose quotas are looked at: kubepods, the class, the pod, the container, and those
/// in it.
const MAX_LEVELS: u32 = 8;

/// A typed pointer to a task. Fields behind a null pointer read as zero.
#[derive(Clone, Copy)]
pub(crate) struct Task(pub(crate) *const u8);

impl Task {
    #[inline(always)]
    fn load<T: Copy>(self, field: usize) -> T {
        // SAFETY: a typed pointer and an offset of its fields.
        unsafe { load(self.0, &OFFSETS[field]) }
    }

    /// Thread id; 0 for the idle task.
    #[inline(always)]
    pub(crate) fn pid(self) -> u32 {
        self.load(cpu::PID)
    }

    /// How long it has waited on run queues so far.
    #[inline(always)]
    pub(crate) fn run_delay_ns(self) -> u64 {
        self.load(cpu::RUN_DELAY)
    }

    /// How long it has run so far.
    #[inline(always)]
    pub(crate) fn ran_ns(self) -> u64 {
        self.load(cpu::RAN)
    }

    /// Id of its cgroup v2.
    #[inline(always)]
    pub(crate) fn cgroup(self) -> u64 {
        let path =
            [&OFFSETS[cpu::CGROUPS], &OFFSETS[cpu::CGROUP], &OFFSETS[cpu::CGROUP_KN], &OFFSETS[cpu::KN_ID]];
        // SAFETY: a typed pointer and offsets of its fields.
        unsafe { cgroup_of(self.0, path) }
    }

    /// Whether it asked to have others run first.
    #[inline(always)]
    pub(crate) fn is_nice(self) -> bool {
        let policy: u32 = self.load(cpu::POLICY);
        if policy == SCHED_BATCH || policy == SCHED_IDLE {
            return true;
        }
        self.load::<i32>(cpu::STATIC_PRIO) > DEFAULT_PRIO
    }

    /// How long quotas have throttled its cgroup and those above it. 0 on a kernel without quotas.
    #[inline(always)]
    pub(crate) fn throttled_ns(self) -> u64 {
        if is_absent(&OFFSETS[cpu::TASK_GROUP]) {
            return 0;
        }
        if is_absent(&OFFSETS[cpu::PARENT]) {
            return 0;
        }
        if is_absent(&OFFSETS[cpu::THROTTLED]) {
            return 0;
        }
        let mut sum = 0_u64;
        let mut group: *const u8 = self.load(cpu::TASK_GROUP);
        for _ in 0..MAX_LEVELS {
            if group.is_null() {
                break;
            }
            // SAFETY: a typed pointer and offsets of its fields.
            unsafe {
                sum = sum.wrapping_add(load(group, &OFFSETS[cpu::THROTTLED]));
                group = load(group, &OFFSETS[cpu::PARENT]);
            }
        }
        sum
    }
}
