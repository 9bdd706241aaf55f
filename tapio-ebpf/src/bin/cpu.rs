//! CPU observer: how long the tasks of each cgroup wait for a CPU, and who runs instead.
#![no_std]
#![no_main]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key by value is copied, on a stack of 512 bytes"
)]

// cargo builds every file beside this one as a program of its own, so the modules are in a folder.
#[path = "cpu/cgroup.rs"]
mod cgroup;
#[path = "cpu/task.rs"]
mod task;

use aya_ebpf::{
    macros::{btf_tracepoint, map},
    maps::PerCpuArray,
    programs::BtfTracePointContext,
};
use tapio_common::cpu::{self, Settings, Slices};
use tapio_ebpf::object;

use task::Task;

object!(fields: cpu::FIELDS, settings: Settings);

#[map]
static SLICES: PerCpuArray<Slices> = PerCpuArray::with_max_entries(1, 0);

/// One in so many slices is accounted whether or not it had to wait, so that a cgroup that never has to is known as such.
/// A prime number: tasks that take turns all have theirs.
const SAMPLE: u32 = 61;

/// `TP_PROTO(bool preempt, struct task_struct *prev, struct task_struct *next[, unsigned int prev_state])`,
/// include/trace/events/sched.h. Runs with interrupts off, in the task that is switched out. The wait of `next` is not yet
/// in its `run_delay`; that of `prev` is since its slice began.
#[btf_tracepoint(function = "sched_switch")]
fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let (prev, next) = (Task(ctx.arg(1)), Task(ctx.arg(2)));
    let Some(slices) = SLICES.get_ptr_mut(0) else { return 0 };
    // SAFETY: a per-CPU map value; the hook runs with interrupts off, and nothing else uses the map.
    let slices = unsafe { &mut *slices };
    let (prev_pid, next_pid) = (prev.pid(), next.pid());
    if prev_pid == 0 {
        slices.idle();
    } else if slices.pid == prev_pid {
        let waited_ns = prev.run_delay_ns().wrapping_sub(slices.run_delay_ns);
        slices.since_accounted = slices.since_accounted.wrapping_add(1);
        if waited_ns >= constant(&SETTINGS.min_wait_ns) {
            cgroup::account(prev, waited_ns, slices.instead(waited_ns));
        } else if slices.since_accounted >= SAMPLE {
            slices.since_accounted = 0;
            cgroup::account(prev, 0, 0);
        }
        slices.end(prev.cgroup(), prev.ran_ns().wrapping_sub(slices.ran_ns));
    }
    slices.pid = next_pid;
    if next_pid != 0 {
        slices.run_delay_ns = next.run_delay_ns();
        slices.ran_ns = next.ran_ns();
    }
    0
}
