//! Container: who died, and of what.
#![no_std]
#![no_main]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key by value is copied, on a stack of 512 bytes"
)]

// cargo takes each file beside this one for a program of its own, hence the folder.
#[path = "container/exit.rs"]
mod exit;
#[path = "container/fate.rs"]
mod fate;
#[path = "container/memory.rs"]
mod memory;
#[path = "container/task.rs"]
mod task;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tapio_common::container as fields;
use tapio_ebpf::object;

object!(fields: fields::FIELDS);

/// Bytes of a page.
#[unsafe(no_mangle)]
static PAGE_BYTES: u64 = 0;

/// `TP_PROTO(int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int result)`,
/// include/trace/events/signal.h. Runs in the task that sends, or in that of whichever interrupt does.
#[btf_tracepoint(function = "signal_generate")]
fn signal_generate(ctx: BtfTracePointContext) -> i32 {
    let signal: u32 = ctx.arg(0);
    if !fate::may_end(signal) {
        return 0;
    }
    fate::signalled(signal, ctx.arg(1), ctx.arg(2), ctx.arg(4));
    0
}

/// `TP_PROTO(int pid)`, since 6.8 and its backports `TP_PROTO(struct task_struct *task, uid_t uid)`,
/// include/trace/events/oom.h. Runs in the task that asked for memory, right after it has sent SIGKILL to the
/// victim. Also for one that was dying already, to which nothing is sent: that is no kill.
#[btf_tracepoint(function = "mark_victim")]
fn mark_victim(ctx: BtfTracePointContext) -> i32 {
    memory::confirmed(ctx.arg(0));
    0
}

/// `TP_PROTO(struct task_struct *p[, bool group_dead])`, include/trace/events/sched.h. Runs in the thread that
/// ends.
#[btf_tracepoint(function = "sched_process_exit")]
fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    exit::ended(ctx.arg(0));
    0
}
