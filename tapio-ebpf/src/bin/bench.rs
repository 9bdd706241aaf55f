//! Programs for the benchmarks: empty ones, to measure the cost of a run alone, and one that floods the agent with
//! events.
#![no_std]
#![no_main]

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
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
