//! Storage observer: requests of block devices that fail or take long.
#![no_std]
#![no_main]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key by value is copied, on a stack of 512 bytes"
)]

// cargo builds every file beside this one as a program of its own, so the modules are in a folder.
#[path = "storage/latency.rs"]
mod latency;
#[path = "storage/request.rs"]
mod request;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tapio_common::storage::{self, Settings, kind, operation, program};
use tapio_ebpf::{Run, is_absent, object};

use request::Request;

object!(fields: storage::FIELDS, settings: Settings);

/// Answers that are no fault of the device: it cannot do this, or not without waiting. include/uapi/asm-generic/errno.h.
const EOPNOTSUPP: u32 = 95;
const EAGAIN: u32 = 11;

/// `TP_PROTO(struct request *rq, blk_status_t error, unsigned int nr_bytes)`, include/trace/events/block.h; before 5.16
/// the error is a negative errno. Runs in an interrupt, on top of any task.
#[btf_tracepoint(function = "block_rq_complete")]
#[inline(never)]
fn block_rq_complete(ctx: BtfTracePointContext) -> i32 {
    let request = Request(ctx.arg(0));
    let error: u32 = ctx.arg(1);
    let done: u32 = ctx.arg(2);
    let operation = request.operation();
    // Commands of drivers, discards and zones are not what anybody waits for.
    if operation > operation::FLUSH {
        return 0;
    }
    let Some(run) = Run::begin(program::BLOCK_RQ_COMPLETE) else { return 0 };
    if error == 0 {
        return latency::judge(request, operation, done, run);
    }
    let errno =
        if is_absent(&OFFSETS[storage::STATUS]) { error.wrapping_neg() } else { storage::errno(error) };
    if errno == EOPNOTSUPP || errno == EAGAIN {
        run.normal();
        return 0;
    }
    fail(request, operation, errno, done, run);
    0
}

/// In a function of its own, for its place on the stack.
#[inline(never)]
fn fail(request: Request, operation: u32, errno: u32, done: u32, run: Run) {
    request.emit(run, kind::IO_ERROR, operation, |event| {
        event.errno = errno;
        event.bytes = done.into();
    });
}
