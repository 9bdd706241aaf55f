//! Programs for benchmarks and tests: empty ones, to measure the cost of a run alone, one that floods the agent with
//! events, and one for each way to attach a program.
#![no_std]
#![no_main]

use core::ffi::c_void;

use aya_ebpf::{
    macros::{btf_tracepoint, cgroup_skb, fentry, perf_event, tracepoint},
    programs::{BtfTracePointContext, FEntryContext, PerfEventContext, SkBuffContext, TracePointContext},
};
use tapio_common::network::{self as net, NetworkEvent, Settings, kind};
use tapio_ebpf::{Run, now_ns, object};

object!(fields: net::FIELDS, settings: Settings);

/// Empty program on the hook of round trips.
#[btf_tracepoint(function = "tcp_probe")]
fn empty(_: BtfTracePointContext) -> i32 {
    0
}

/// Empty program on the hook of signals.
#[btf_tracepoint(function = "signal_generate")]
fn empty_signal(_: BtfTracePointContext) -> i32 {
    0
}

/// Empty program on the hook of process exits.
#[btf_tracepoint(function = "sched_process_exit")]
fn empty_exit(_: BtfTracePointContext) -> i32 {
    0
}

/// Empty program on the hook of context switches.
#[btf_tracepoint(function = "sched_switch")]
fn empty_switch(_: BtfTracePointContext) -> i32 {
    0
}

/// Empty program on the hook of packets that are sent.
#[btf_tracepoint(function = "net_dev_queue")]
fn empty_sent(_: BtfTracePointContext) -> i32 {
    0
}

/// Empty program on the hook of packets that are received.
#[btf_tracepoint(function = "netif_receive_skb")]
fn empty_received(_: BtfTracePointContext) -> i32 {
    0
}

/// Empty program on the hook of block requests that are done.
#[btf_tracepoint(function = "block_rq_complete")]
fn empty_done(_: BtfTracePointContext) -> i32 {
    0
}

/// Empty program on the hook of results of system calls.
#[btf_tracepoint(function = "sys_exit")]
fn empty_call(_: BtfTracePointContext) -> i32 {
    0
}

/// Emits an event for each segment received.
#[btf_tracepoint(function = "tcp_probe")]
fn flood(_: BtfTracePointContext) -> i32 {
    let Some(run) = Run::begin(0) else { return 0 };
    run.emit(|event: &mut NetworkEvent| {
        event.header.time_ns = now_ns();
        event.header.pid = 1;
        event.kind = kind::CONNECTION_REFUSED;
        // Uses the constants, so that the compiler keeps them in the object.
        event.value_us =
            constant(&SETTINGS.cooldown_ns) + u64::from(constant(&OFFSETS[0])) + constant(&AGENT.pid);
    });
    0
}

/// Counts forks, by the fields of a tracepoint's format file.
#[tracepoint]
fn by_tracepoint(_: TracePointContext) -> u32 {
    count(0);
    0
}

/// Counts starts of a function.
#[fentry(function = "tcp_v4_connect")]
fn by_function(_: FEntryContext) -> i32 {
    count(1);
    0
}

/// Counts packets that are sent, and lets each pass.
#[cgroup_skb]
fn by_cgroup(_: SkBuffContext) -> i32 {
    count(2);
    1
}

/// Counts ticks of a clock.
#[perf_event]
fn by_clock(_: PerfEventContext) -> u32 {
    count(3);
    0
}

/// Counts the tasks that there are.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
fn by_iterator(_: *mut c_void) -> i32 {
    count(4);
    0
}

/// Counts context switches, in the place of a program for a tracepoint that no kernel has.
#[btf_tracepoint(function = "sched_switch")]
fn in_its_place(_: BtfTracePointContext) -> i32 {
    count(5);
    0
}

#[inline(always)]
fn count(program: u32) {
    if let Some(run) = Run::begin(program) {
        run.normal();
    }
}
