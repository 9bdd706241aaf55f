//! Faults on established connections: resets, retransmissions, unresponsive peers.

use aya_ebpf::{helpers::generated::bpf_jiffies64, macros::map, maps::LruHashMap};
use tapio_common::{
    baseline::{Baseline, Verdict},
    network::{self as net, Destination, MAX_DESTINATIONS, direction, kind, program},
};
use tapio_ebpf::{Run, load, now_ns, since};

use crate::{
    AGENT, ESTABLISHED, OFFSETS, SETTINGS, SYN_SENT,
    connect::ETIMEDOUT,
    constant,
    event::{Sock, destination, emit, owner_of},
    round_trip::{NORMAL, path_of},
    socket::{Socket, new_socket, slot, socket_id, tcp_sock},
};

/// A peer is unresponsive after this many retransmissions without an acknowledgement. RTOs double from 200 ms
/// (TCP_RTO_MIN, include/net/tcp.h), so that takes at least three seconds.
const UNANSWERED_RETRANSMITS: u8 = 4;

/// After this many windows without a retransmission, the past of a path is forgotten.
const MAX_IDLE_WINDOWS: u64 = 16;

/// Retransmissions per destination.
#[map]
static BURSTS: LruHashMap<Destination, Burst> = LruHashMap::with_max_entries(MAX_DESTINATIONS, 0);

#[repr(C)]
#[derive(Clone, Copy)]
struct Burst {
    /// Share of retransmitted segments in past windows, 1/1024.
    share: Baseline,
    window_ns: u64,
    /// `Path::segments` when the window began.
    segments: u32,
    retransmits: u32,
    reported: u64,
}

pub(crate) fn reset(sk: Sock) {
    // SAFETY: a typed pointer and offsets of its fields.
    let state: u8 = unsafe { load(sk.address, &OFFSETS[net::STATE]) };
    // In SYN_SENT it is a refused connect; after ESTABLISHED, one side was already closing.
    if i32::from(state) != ESTABLISHED {
        return;
    }
    let id = socket_id(sk.address);
    let Some(slot) = slot(id) else { return };
    // The direction may have become known since the slot was filled.
    let socket = if slot.id == id && slot.has_direction() { *slot } else { new_socket(sk, id, 0) };
    if socket.belongs_to_agent() {
        return;
    }
    let Some(run) = Run::begin(program::TCP_RECEIVE_RESET) else { return };
    let Some(tp) = tcp_sock(sk.address) else { return run.normal() };
    // SAFETY: as above.
    let received: u64 = unsafe { load(tp, &OFFSETS[net::BYTES_RECEIVED]) };
    // SAFETY: as above.
    let acked: u64 = unsafe { load(tp, &OFFSETS[net::BYTES_ACKED]) };
    // The SYN counts as one acknowledged byte. A health check may connect and reset.
    if received == 0 && acked <= 1 {
        return run.normal();
    }
    let key = destination(sk, socket.direction());
    let idle_ms = idle_ms(tp);
    emit(run, sk, &key, kind::CONNECTION_RESET, &owner_of(sk, &key), now_ns(), |event| {
        event.bytes_received = received;
        event.bytes_acked = payload(acked, &socket);
        event.idle_ms = idle_ms;
    });
}

/// Acknowledged payload: without the SYN, which counts as a byte at the end that connected.
#[inline(always)]
fn payload(acked: u64, socket: &Socket) -> u64 {
    if u32::from(socket.direction()) == direction::OUTBOUND { acked.saturating_sub(1) } else { acked }
}

/// Milliseconds since the peer's last acknowledgement.
#[inline(always)]
fn idle_ms(tp: *const u8) -> u32 {
    // SAFETY: a typed pointer and an offset of its fields; the helper takes no arguments.
    let (then, now): (u32, u64) = unsafe { (load(tp, &OFFSETS[net::RCV_TSTAMP]), bpf_jiffies64()) };
    let ticks = u64::from((now as u32).wrapping_sub(then));
    (ticks * constant(&AGENT).tick_ns / 1_000_000) as u32
}

/// The peer did not answer [`UNANSWERED_RETRANSMITS`] retransmissions, or the kernel gave up the connection.
#[inline(never)]
fn unresponsive(sk: Sock, tp: *const u8, program: u32, errno: u32) {
    let Some(run) = Run::begin(program) else { return };
    let id = socket_id(sk.address);
    let Some(slot) = slot(id) else { return run.normal() };
    let socket = if slot.id == id && slot.has_direction() { *slot } else { new_socket(sk, id, 0) };
    if socket.belongs_to_agent() {
        return run.normal();
    }
    // SAFETY: typed pointers and offsets of their fields.
    let received: u64 = unsafe { load(tp, &OFFSETS[net::BYTES_RECEIVED]) };
    // SAFETY: as above.
    let acked: u64 = unsafe { load(tp, &OFFSETS[net::BYTES_ACKED]) };
    // SAFETY: as above.
    let retransmits: u8 = unsafe { load(tp, &OFFSETS[net::RETRANSMITS]) };
    let idle_ms = idle_ms(tp);
    let key = destination(sk, socket.direction());
    emit(run, sk, &key, kind::PEER_UNRESPONSIVE, &owner_of(sk, &key), now_ns(), |event| {
        event.bytes_received = received;
        event.bytes_acked = payload(acked, &socket);
        event.idle_ms = idle_ms;
        event.retransmits = u32::from(retransmits);
        event.errno = errno;
    });
}

/// An established connection closes: with ETIMEDOUT if the kernel gave up the peer.
pub(crate) fn ended(sk: Sock) {
    // SAFETY: a typed pointer and an offset of its fields.
    let errno: u32 = unsafe { load(sk.address, &OFFSETS[net::ERR]) };
    if errno != ETIMEDOUT {
        return;
    }
    let Some(tp) = tcp_sock(sk.address) else { return };
    unresponsive(sk, tp, program::INET_SOCK_SET_STATE, errno);
}

pub(crate) fn retransmit(sk: Sock) {
    // SAFETY: a typed pointer and offsets of its fields.
    let state: u8 = unsafe { load(sk.address, &OFFSETS[net::STATE]) };
    // Retransmitted SYNs are reported with the result of the connect.
    if i32::from(state) == SYN_SENT {
        return;
    }
    let Some(tp) = tcp_sock(sk.address) else { return };
    // SAFETY: as above. This run then reports only that; the other retransmissions still count towards a burst.
    if unsafe { load::<u8>(tp, &OFFSETS[net::RETRANSMITS]) } == UNANSWERED_RETRANSMITS
        && i32::from(state) == ESTABLISHED
    {
        return unresponsive(sk, tp, program::TCP_RETRANSMIT_SKB, 0);
    }
    count(sk, tp);
}

/// Counts a retransmission towards a burst.
#[inline(never)]
fn count(sk: Sock, tp: *const u8) {
    let id = socket_id(sk.address);
    let Some(socket) = slot(id) else { return };
    if socket.id != id {
        *socket = new_socket(sk, id, 0);
        // SAFETY: typed pointers and offsets of their fields. `segs_out` already includes the retransmitted segment.
        socket.segs_out = unsafe { load::<u32>(tp, &OFFSETS[net::SEGS_OUT]) }.wrapping_sub(1);
    }
    if socket.belongs_to_agent() {
        return;
    }
    let Some(run) = Run::begin(program::TCP_RETRANSMIT_SKB) else { return };
    // SAFETY: as above.
    let segs_out: u32 = unsafe { load(tp, &OFFSETS[net::SEGS_OUT]) };
    let sent = segs_out.wrapping_sub(socket.segs_out);
    socket.segs_out = segs_out;
    let now = now_ns();
    let Some(path) = path_of(sk, socket, &run) else { return run.normal() };
    path.segments = path.segments.wrapping_add(sent);
    let (key, segments) = (path.key, path.segments);
    let settings = constant(&SETTINGS);
    let Some(burst) = BURSTS.get_ptr_mut(&key) else {
        let share = Baseline::default();
        let segments = segments.wrapping_sub(sent);
        let _ =
            BURSTS.insert(&key, Burst { share, window_ns: now, segments, retransmits: 1, reported: 0 }, 0);
        return run.learning();
    };
    // SAFETY: a map value; CPUs that race here lose a count.
    let burst = unsafe { &mut *burst };
    let length_ns = since(now, burst.window_ns);
    if length_ns >= settings.retransmit_window_ns {
        let begins = segments.wrapping_sub(sent);
        let closed = share(burst.retransmits, begins.wrapping_sub(burst.segments));
        judge_share(&mut burst.share, closed, now);
        let idle = length_ns.checked_div(settings.retransmit_window_ns).unwrap_or(1) - 1;
        if idle >= MAX_IDLE_WINDOWS {
            burst.share = Baseline::default();
        } else if idle > 0 {
            judge_share(&mut burst.share, 0, now);
        }
        *burst = Burst { share: burst.share, window_ns: now, segments: begins, retransmits: 0, reported: 0 };
    }
    burst.retransmits += 1;
    let sent = segments.wrapping_sub(burst.segments);
    if u64::from(burst.retransmits) < settings.retransmit_min_segments {
        return run.normal();
    }
    let now_share = share(burst.retransmits, sent);
    // Judged on a copy: a window trains the baseline once, when it is over. A path without a past counts as clean.
    let mut copy = burst.share;
    let over = now_share > copy.mean() && now_share >= settings.retransmit_min_share;
    if !over || judge_share(&mut copy, now_share, now) == NORMAL {
        return run.normal();
    }
    if burst.reported != 0 {
        return run.suppressed();
    }
    burst.reported = 1;
    emit(run, sk, &key, kind::RETRANSMIT_BURST, &owner_of(sk, &key), now, |event| {
        event.value_us = since(now, burst.window_ns) / 1000;
        event.retransmits = burst.retransmits;
        event.segments = sent;
        event.baseline = burst.share;
    });
}

/// Judges the share of a window, and trains the baseline with it. Like `judge` for round trips, in a function of its
/// own.
#[inline(never)]
fn judge_share(past: &mut Baseline, share: u64, now_ns: u64) -> u32 {
    match past.judge(share, now_ns, &constant(&SETTINGS.retransmit)) {
        Verdict::Normal => NORMAL,
        _ => kind::RETRANSMIT_BURST,
    }
}

/// Share of retransmitted segments, 1/1024. Without a special case, for each of which the verifier would walk what follows.
#[inline(always)]
fn share(retransmits: u32, segments: u32) -> u64 {
    // At most all of them: `segments` is only updated at readings and retransmissions, and lags behind.
    (u64::from(retransmits) << 10) / u64::from(segments.max(retransmits).max(1))
}
