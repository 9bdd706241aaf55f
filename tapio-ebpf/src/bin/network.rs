//! Network observer: round trips, handshakes, failed connects, resets, retransmitted segments.
#![no_std]
#![no_main]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key by value is copied, on a stack of 512 bytes"
)]

// cargo builds every file beside this one as a program of its own, so the modules are in a folder.
#[path = "network/connect.rs"]
mod connect;
#[path = "network/edge.rs"]
mod edge;
#[path = "network/event.rs"]
mod event;
#[path = "network/loss.rs"]
mod loss;
#[path = "network/no_route.rs"]
mod no_route;
#[path = "network/round_trip.rs"]
mod round_trip;
#[path = "network/socket.rs"]
mod socket;

use aya_ebpf::{
    macros::{btf_tracepoint, fexit},
    programs::{BtfTracePointContext, FExitContext},
};
use tapio_common::network::{self as net, Settings, program};
use tapio_ebpf::{load, object};

use self::event::Sock;

object!(fields: net::FIELDS, settings: Settings);

/// Seed of [`net::Destination::hash`].
#[unsafe(no_mangle)]
static SEED: u64 = 0;

// include/net/tcp_states.h
const ESTABLISHED: i32 = 1;
const SYN_SENT: i32 = 2;
const SYN_RECV: i32 = 3;
const CLOSE: i32 = 7;
const LISTEN: i32 = 10;
/// include/uapi/linux/in.h
const IPPROTO_TCP: u16 = 6;

/// `TP_PROTO(struct sock *sk, struct sk_buff *skb)`, include/trace/events/tcp.h. Runs for each segment received in
/// ESTABLISHED, before its acknowledgement is processed: the RTT sample that is read here is the previous one.
#[btf_tracepoint(function = "tcp_probe")]
fn tcp_probe(ctx: BtfTracePointContext) -> i32 {
    round_trip::round_trip(ctx.arg(0), ctx.arg(1));
    0
}

/// `TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)`, include/trace/events/sock.h.
/// CLOSE -> SYN_SENT and CLOSE -> LISTEN run in the calling task; the others in any context.
#[btf_tracepoint(function = "inet_sock_set_state")]
#[inline(never)]
fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let address: *const u8 = ctx.arg(0);
    let old: i32 = ctx.arg(1);
    let new: i32 = ctx.arg(2);
    // SAFETY: a typed pointer and an offset of its fields.
    if unsafe { load::<u16>(address, &OFFSETS[net::PROTOCOL]) } != IPPROTO_TCP {
        return 0;
    }
    let sk = Sock::read(address);
    match (old, new) {
        (CLOSE, SYN_SENT) => connect::connecting(address),
        (SYN_SENT, ESTABLISHED) => connect::connected(sk),
        (SYN_RECV, ESTABLISHED) => connect::accepted(sk),
        (_, ESTABLISHED) => socket::forget_samples(address),
        (SYN_SENT, SYN_RECV) => connect::simultaneous_open(address),
        (SYN_SENT, CLOSE) => connect::connect_failed(sk),
        (_, LISTEN) => connect::listening(sk),
        (LISTEN, CLOSE) => connect::stopped_listening(sk),
        (ESTABLISHED, CLOSE) => {
            loss::ended(sk);
            connect::closed(address);
        }
        (_, CLOSE) => connect::closed(address),
        _ => {}
    }
    0
}

/// `TP_PROTO(const struct sock *sk, const struct sk_buff *skb[, int err])`, include/trace/events/tcp.h.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
#[inline(never)]
fn tcp_retransmit_skb(ctx: BtfTracePointContext) -> i32 {
    loss::retransmit(Sock::read(ctx.arg(0)));
    0
}

/// `TP_PROTO(struct sock *sk)`, include/trace/events/tcp.h. Runs before the reset is processed.
#[btf_tracepoint(function = "tcp_receive_reset")]
#[inline(never)]
fn tcp_receive_reset(ctx: BtfTracePointContext) -> i32 {
    loss::reset(Sock::read(ctx.arg(0)));
    0
}

/// `int tcp_v4_connect(struct sock *sk, struct sockaddr *uaddr, int addr_len)`, net/ipv4/tcp_ipv4.c.
#[fexit(function = "tcp_v4_connect")]
#[inline(never)]
fn tcp_v4_connect(ctx: FExitContext) -> i32 {
    no_route::returned(ctx.arg(0), ctx.arg(1), ctx.arg(3), program::TCP_V4_CONNECT);
    0
}

/// `int tcp_v6_connect(struct sock *sk, struct sockaddr *uaddr, int addr_len)`, net/ipv6/tcp_ipv6.c.
#[fexit(function = "tcp_v6_connect")]
#[inline(never)]
fn tcp_v6_connect(ctx: FExitContext) -> i32 {
    no_route::returned(ctx.arg(0), ctx.arg(1), ctx.arg(3), program::TCP_V6_CONNECT);
    0
}
