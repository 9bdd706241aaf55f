//! Node observer: cycles and instructions of each cgroup, and of the node.
#![no_std]
#![no_main]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key by value is copied, on a stack of 512 bytes"
)]

// cargo builds every file beside this one as a program of its own, so the modules are in a folder.
#[path = "node/cgroup.rs"]
mod cgroup;
#[path = "node/counters.rs"]
mod counters;
#[path = "node/sampling.rs"]
mod sampling;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tapio_common::node::cycles::{self, Settings};
use tapio_ebpf::{load, object};

object!(fields: cycles::FIELDS, settings: Settings, counters: 3);

/// `TP_PROTO(bool preempt, struct task_struct *prev, struct task_struct *next[, unsigned int prev_state])`,
/// include/trace/events/sched.h. Runs with interrupts off, in the task that is switched out.
#[btf_tracepoint(function = "sched_switch")]
fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let prev: *const u8 = ctx.arg(1);
    let next: *const u8 = ctx.arg(2);
    let Some(cpu) = sampling::this_cpu() else { return 0 };
    // SAFETY: a typed pointer and an offset of its fields. The idle task is not measured.
    let is_idle = unsafe { load::<i32>(next, &OFFSETS[cycles::PID]) } == 0;
    let (was_measured, weight_shift) = (cpu.is_measuring != 0, cpu.shift);
    let measure = cpu.should_measure() && !is_idle;
    cpu.is_measuring = u32::from(measure);
    if !was_measured && !measure {
        return 0;
    }
    if !counters::read(&mut cpu.now) {
        cpu.is_measuring = 0;
        return 0;
    }
    if was_measured {
        cgroup::account(prev, cpu, weight_shift);
    }
    cpu.begin();
    0
}
