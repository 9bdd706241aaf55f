//! Health observer: system calls that fail since something is used up.
#![no_std]
#![no_main]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key by value is copied, on a stack of 512 bytes"
)]

// cargo builds every file beside this one as a program of its own, so the modules are in a folder.
#[path = "health/registers.rs"]
mod registers;

use aya_ebpf::{
    macros::{btf_tracepoint, map},
    maps::LruHashMap,
    programs::BtfTracePointContext,
};
use tapio_common::health::{self, CALLS, Call, Failures, Settings, program};
use tapio_ebpf::{Current, Run, now_ns, object};

use registers::Registers;

object!(fields: health::FIELDS, settings: Settings);

/// Maximum number of calls that are counted apart; the one that failed longest ago is evicted.
const MAX_CALLS: u32 = 4096;

#[map]
static FAILURES: LruHashMap<Call, Failures> = LruHashMap::with_max_entries(MAX_CALLS, 0);

/// `TP_PROTO(struct pt_regs *regs, long ret)`, include/trace/events/syscalls.h. Runs in the task that called. Attached in
/// slices of time only: as long as it is, each system call of the machine takes a longer way.
#[btf_tracepoint(function = "sys_exit")]
fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let result: i64 = ctx.arg(1);
    if result >= 0 {
        return 0;
    }
    let errno = result.unsigned_abs();
    let bit = health::bit(errno);
    if bit != 0 {
        failed(Registers(ctx.arg(0)), errno as u32, bit);
    }
    0
}

#[inline(never)]
fn failed(registers: Registers, errno: u32, bit: u8) {
    let number = registers.call();
    if number >= CALLS as u64 {
        return;
    }
    // Masked, since the verifier need not have kept what it knows of the number.
    if constant(&SETTINGS.calls[number as usize & (CALLS - 1)]) & bit == 0 {
        return;
    }
    let current = Current::get(&constant(&AGENT), &OFFSETS[health::LEADER], &OFFSETS[health::COMM]);
    if current.is_agent {
        return;
    }
    let Some(run) = Run::begin(program::SYS_EXIT) else { return };
    let call = Call { cgroup_id: current.cgroup_id, number: number as u32, errno };
    let mut failures =
        Failures { count: 1, time_ns: now_ns(), pid: current.pid, padding: 0, comm: current.comm };
    if let Some(known) = FAILURES.get_ptr_mut(&call) {
        // SAFETY: a map value. If two CPUs count at the same time, one of the failures may be lost.
        let known = unsafe { &mut *known };
        failures.count = known.count.wrapping_add(1);
        *known = failures;
    } else {
        run.new_key();
        // If the map has no room, this failure is lost.
        let _ = FAILURES.insert(&call, &failures, 0);
    }
    run.normal();
}
