//! DNS observer: questions of this host's processes, and their answers.
#![no_std]
#![no_main]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key by value is copied, on a stack of 512 bytes"
)]

// cargo builds every file beside this one as a program of its own, so the modules are in a folder.
#[path = "dns/answer.rs"]
mod answer;
#[path = "dns/names.rs"]
mod names;
#[path = "dns/packet.rs"]
mod packet;
#[path = "dns/query.rs"]
mod query;
#[path = "dns/work.rs"]
mod work;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tapio_common::dns::{self, MAX_PORTS, Settings};
use tapio_ebpf::object;

object!(fields: dns::FIELDS, settings: Settings);

/// Seed of the hashes of names.
#[unsafe(no_mangle)]
static SEED: u64 = 0;

/// `TP_PROTO(struct sk_buff *skb)`, include/trace/events/net.h. Runs for each packet that is handed to a device, mostly
/// in the task that sends it.
#[btf_tracepoint(function = "net_dev_queue")]
#[inline(never)]
fn net_dev_queue(ctx: BtfTracePointContext) -> i32 {
    query::sent(ctx.arg(0));
    0
}

/// `TP_PROTO(struct sk_buff *skb)`, include/trace/events/net.h. Runs in a softirq for each packet that a device
/// received, virtual devices included. The data starts at the network header.
#[btf_tracepoint(function = "netif_receive_skb")]
#[inline(never)]
fn netif_receive_skb(ctx: BtfTracePointContext) -> i32 {
    answer::received(ctx.arg(0));
    0
}

/// Whether it is the port of a resolver, network order.
#[inline(always)]
fn is_observed(port: u16) -> bool {
    // The verifier knows which ports there are, and removes the comparisons with others.
    for at in 0..MAX_PORTS {
        let observed = constant(&SETTINGS.ports[at]);
        if observed == 0 {
            return false;
        }
        if port == observed {
            return true;
        }
    }
    false
}
