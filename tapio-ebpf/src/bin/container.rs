//! Container observer: which processes died, and why.
#![no_std]
#![no_main]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key by value is copied, on a stack of 512 bytes"
)]

// cargo builds every file beside this one as a program of its own, so the modules are in a folder.
#[path = "container/exit.rs"]
mod exit;
#[path = "container/last_signal.rs"]
mod last_signal;
#[path = "container/memory.rs"]
mod memory;
#[path = "container/task.rs"]
mod task;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tapio_common::container as fields;
use tapio_ebpf::object;

object!(fields: fields::FIELDS);

/// Page size in bytes.
#[unsafe(no_mangle)]
static PAGE_BYTES: u64 = 0;

/// `TP_PROTO(int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int result)`,
/// include/trace/events/signal.h. Runs in the sending task, or in whichever task an interrupt that sends runs on.
#[btf_tracepoint(function = "signal_generate")]
#[inline(never)]
fn signal_generate(ctx: BtfTracePointContext) -> i32 {
    let signal: u32 = ctx.arg(0);
    if !last_signal::may_terminate(signal) {
        return 0;
    }
    last_signal::signalled(signal, ctx.arg(1), ctx.arg(2), ctx.arg(4));
    0
}

/// `TP_PROTO(int pid)`, since 6.8 and its backports `TP_PROTO(struct task_struct *task, uid_t uid)`,
/// include/trace/events/oom.h. Runs in the task that requested memory, right after it has sent SIGKILL to the victim.
/// Also runs for a victim that was already dying, to which the kernel sends nothing: that is not a kill.
#[btf_tracepoint(function = "mark_victim")]
#[inline(never)]
fn mark_victim(ctx: BtfTracePointContext) -> i32 {
    memory::confirm_victim(ctx.arg(0));
    0
}

/// `TP_PROTO(struct task_struct *p[, bool group_dead])`, include/trace/events/sched.h. Runs in the exiting thread.
#[btf_tracepoint(function = "sched_process_exit")]
#[inline(never)]
fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    exit::exited(ctx.arg(0));
    0
}
