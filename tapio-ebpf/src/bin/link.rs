//! Link observer: neighbours that do not answer, and devices that lose their carrier.
#![no_std]
#![no_main]

// cargo builds every file beside this one as a program of its own, so the modules are in a folder.
#[path = "link/carrier.rs"]
mod carrier;
#[path = "link/device.rs"]
mod device;
#[path = "link/neighbor.rs"]
mod neighbor;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tapio_common::link::{self, Settings};
use tapio_ebpf::object;

use device::Device;
use neighbor::Neighbor;

object!(fields: link::FIELDS, settings: Settings);

/// `TP_PROTO(struct neighbour *n, int err)`, include/trace/events/neigh.h. Runs in a soft interrupt, on top of any task.
#[btf_tracepoint(function = "neigh_timer_handler")]
#[inline(never)]
fn neigh_timer_handler(ctx: BtfTracePointContext) -> i32 {
    let neighbor = Neighbor(ctx.arg(0));
    if neighbor.has_failed() {
        neighbor.emit();
    }
    0
}

/// `TP_PROTO(struct Qdisc *q)`, include/trace/events/qdisc.h. Runs for each queue of a device that is taken out of use: in a
/// worker of the kernel soon after its carrier is lost.
#[btf_tracepoint(function = "qdisc_reset")]
#[inline(never)]
fn qdisc_reset(ctx: BtfTracePointContext) -> i32 {
    let device = Device::of_queue(ctx.arg(0));
    if device.has_lost_its_carrier() {
        carrier::emit(device);
    }
    0
}
