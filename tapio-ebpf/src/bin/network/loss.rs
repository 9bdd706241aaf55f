//! What went wrong on connections that were open: resets, and retransmitted segments.

use aya_ebpf::{helpers::generated::bpf_jiffies64, macros::map, maps::LruHashMap};
use tapio_common::{
    baseline::{Baseline, Verdict},
    network::{self as net, Destination, direction, kind, program},
};
use tapio_ebpf::{Run, load, now_ns};

use crate::{
    AGENT, ESTABLISHED, OFFSETS, SETTINGS, SYN_SENT,
    connect::ETIMEDOUT,
    constant,
    event::{destination, emit, owner_of},
    round_trip::{MAX_DESTINATIONS, NORMAL, path_of},
    socket::{Socket, meet, slot, socket_id, tcp_sock},
};

/// After so many repeats without an answer a peer is unresponsive: by RTOs that double from 200 ms (TCP_RTO_MIN,
/// include/net/tcp.h) that is after three seconds at least.
const UNANSWERED: u8 = 4;

/// After so many windows without a retransmitted segment a path counts as clean.
const MAX_IDLE_WINDOWS: u64 = 16;

/// Retransmitted segments per destination.
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
    said: u64,
}

pub(crate) fn reset(sk: *const u8) {
    // SAFETY: a typed pointer and offsets of its fields.
    let state: u8 = unsafe { load(sk, &OFFSETS[net::STATE]) };
    // In SYN_SENT it is a refused connect; later than ESTABLISHED one side was closing anyway.
    if i32::from(state) != ESTABLISHED {
        return;
    }
    let id = socket_id(sk);
    let Some(slot) = slot(id) else { return };
    // Who opened it may have come out since.
    let socket = if slot.id == id && slot.is_known() { *slot } else { meet(sk, id, 0) };
    if socket.is_own() {
        return;
    }
    let Some(run) = Run::begin(program::TCP_RECEIVE_RESET) else { return };
    let Some(tp) = tcp_sock(sk) else { return run.normal() };
    // SAFETY: as above.
    let received: u64 = unsafe { load(tp, &OFFSETS[net::BYTES_RECEIVED]) };
    // SAFETY: as above.
    let acked: u64 = unsafe { load(tp, &OFFSETS[net::BYTES_ACKED]) };
    // A SYN counts as one byte acknowledged. Connect, then reset, is how health checks look.
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

/// Without the SYN of who connected.
#[inline(always)]
fn payload(acked: u64, socket: &Socket) -> u64 {
    if u32::from(socket.direction()) == direction::OUTBOUND { acked.saturating_sub(1) } else { acked }
}

/// Since the peer's last acknowledgement.
#[inline(always)]
fn idle_ms(tp: *const u8) -> u32 {
    // SAFETY: a typed pointer and an offset of its fields; the helper takes nothing.
    let (then, now): (u32, u64) = unsafe { (load(tp, &OFFSETS[net::RCV_TSTAMP]), bpf_jiffies64()) };
    let ticks = u64::from((now as u32).wrapping_sub(then));
    (ticks * constant(&AGENT).tick_ns / 1_000_000) as u32
}

/// The peer has not answered for [`UNANSWERED`] times, or the kernel has given it up.
#[inline(never)]
fn unresponsive(sk: *const u8, tp: *const u8, program: u32, errno: u32) {
    let Some(run) = Run::begin(program) else { return };
    let id = socket_id(sk);
    let Some(slot) = slot(id) else { return run.normal() };
    let socket = if slot.id == id && slot.is_known() { *slot } else { meet(sk, id, 0) };
    if socket.is_own() {
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

/// An established connection ends: by the kernel, where it has given up the peer.
pub(crate) fn ended(sk: *const u8) {
    // SAFETY: a typed pointer and an offset of its fields.
    let errno: u32 = unsafe { load(sk, &OFFSETS[net::ERR]) };
    if errno != ETIMEDOUT {
        return;
    }
    let Some(tp) = tcp_sock(sk) else { return };
    unresponsive(sk, tp, program::INET_SOCK_SET_STATE, errno);
}

pub(crate) fn retransmit(sk: *const u8) {
    // SAFETY: a typed pointer and offsets of its fields.
    let state: u8 = unsafe { load(sk, &OFFSETS[net::STATE]) };
    // A retransmitted SYN is reported by how the connect ends.
    if i32::from(state) == SYN_SENT {
        return;
    }
    let Some(tp) = tcp_sock(sk) else { return };
    // SAFETY: as above. In this program alone: a burst is reported as one, whatever it comes to.
    if unsafe { load::<u8>(tp, &OFFSETS[net::RETRANSMITS]) } == UNANSWERED && i32::from(state) == ESTABLISHED
    {
        return unresponsive(sk, tp, program::TCP_RETRANSMIT_SKB, 0);
    }
    let id = socket_id(sk);
    let Some(socket) = slot(id) else { return };
    if socket.id != id {
        *socket = meet(sk, id, 0);
        // SAFETY: as above. The one that is sent again counts already.
        socket.segs_out = unsafe { load::<u32>(tp, &OFFSETS[net::SEGS_OUT]) }.wrapping_sub(1);
    }
    if socket.is_own() {
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
        let _ = BURSTS.insert(&key, Burst { share, window_ns: now, segments, retransmits: 1, said: 0 }, 0);
        return run.learning();
    };
    // SAFETY: a map value; CPUs that race here lose a count.
    let burst = unsafe { &mut *burst };
    let since = now.wrapping_sub(burst.window_ns);
    if since >= settings.retransmit_window_ns {
        let begins = segments.wrapping_sub(sent);
        let closed = share(burst.retransmits, begins.wrapping_sub(burst.segments));
        teach_share(&mut burst.share, closed, now);
        let idle = since.checked_div(settings.retransmit_window_ns).unwrap_or(1) - 1;
        if idle >= MAX_IDLE_WINDOWS {
            burst.share = Baseline::default();
        } else if idle > 0 {
            teach_share(&mut burst.share, 0, now);
        }
        *burst = Burst { share: burst.share, window_ns: now, segments: begins, retransmits: 0, said: 0 };
    }
    burst.retransmits += 1;
    let sent = segments.wrapping_sub(burst.segments);
    if u64::from(burst.retransmits) < settings.retransmit_min_segments {
        return run.normal();
    }
    let now_share = share(burst.retransmits, sent);
    // Judged on a copy: a window teaches once, when it is over. A path without a past is clean.
    let mut copy = burst.share;
    let over = now_share > copy.mean() && now_share >= settings.retransmit_min_share;
    if !over || teach_share(&mut copy, now_share, now) == NORMAL {
        return run.normal();
    }
    if burst.said != 0 {
        return run.suppressed();
    }
    burst.said = 1;
    emit(run, sk, &key, kind::RETRANSMIT_BURST, &owner_of(sk, &key), now, |event| {
        event.value_us = now.wrapping_sub(burst.window_ns) / 1000;
        event.retransmits = burst.retransmits;
        event.segments = sent;
        event.baseline = burst.share;
    });
}

/// As [`judge`], for the share of a window.
#[inline(never)]
fn teach_share(past: &mut Baseline, share: u64, now_ns: u64) -> u32 {
    match past.judge(share, now_ns, &constant(&SETTINGS.retransmit)) {
        Verdict::Normal => NORMAL,
        _ => kind::RETRANSMIT_BURST,
    }
}

/// Part of `segments` that were sent again, 1/1024.
#[inline(always)]
fn share(retransmits: u32, segments: u32) -> u64 {
    // More than all of them: the samples that count segments lag behind.
    (u64::from(retransmits) << 10).checked_div(u64::from(segments)).unwrap_or(1024).min(1024)
}
