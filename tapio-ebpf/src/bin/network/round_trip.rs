//! Round trips: samples to readings, readings to verdicts.

use core::ptr::read_volatile;

use aya_ebpf::{macros::map, maps::Array};
use tapio_common::{
    baseline::{Baseline, Verdict},
    network::{self as net, Destination, direction, kind, program},
};
use tapio_ebpf::{Run, load, now_ns};

use crate::{
    OFFSETS, SEED, SETTINGS, constant,
    event::{destination, emit, owner_of},
    socket::{Segment, Socket, meet, slot, socket_id, tcp_sock},
};

/// Destinations with a baseline; a power of two.
pub(crate) const MAX_DESTINATIONS: u32 = 65_536;

/// Places where the path of a destination can be; a power of two. With all of them taken, one makes room.
const WAYS: u32 = 4;

/// Fewest samples of a socket that make a reading: the least of these and of the block before. Their segments were
/// sent over at least the floor, so that one flight that had to wait for a CPU is not a slow network; and
/// most segments cost a comparison only.
const BLOCK: u8 = 4;

/// No peer holds an acknowledgement back for less without data of its own to send it with: TCP_DELACK_MIN,
/// include/net/tcp.h, is 40 ms, and a timer of 100 Hz may be 10 ms early.
const SOONEST_DELAYED_US: u32 = 25_000;

/// Nor for longer than this, or than a round trip where that takes longer (tcp_send_delayed_ack,
/// net/ipv4/tcp_output.c).
const LATEST_DELAYED_US: u32 = 50_000;

/// Round trips per destination: sets of [`WAYS`], found by hash. Not a hash map: a socket remembers the place of
/// its path, and the lookup of a place is a few instructions where that of a key is a call.
#[map]
static PATHS: Array<Path> = Array::with_max_entries(MAX_DESTINATIONS, 0);

/// Which of its parts have been used, 1 for each: who reads all that is there need not read what never was.
#[map]
static USED_PATHS: Array<u32> = Array::with_max_entries(PARTS, 0);
const PARTS: u32 = 4096;

/// One cache line.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Path {
    pub(crate) key: Destination,
    /// Upper half of the key's hash; 0 is free. Written last, read by sockets that were here before.
    pub(crate) tag: u32,
    /// Segments sent to it, as far as samples reported; wraps.
    pub(crate) segments: u32,
    pub(crate) rtt: Baseline,
}

pub(crate) fn round_trip(sk: *const u8, skb: *const u8) {
    let Some(tp) = tcp_sock(sk) else { return };
    // SAFETY: typed pointers and offsets of their fields.
    let stamp_us: u64 = unsafe { load(tp, &OFFSETS[net::RACK_MSTAMP]) };
    let id = socket_id(sk);
    let Some(socket) = slot(id) else { return };
    if socket.id != id {
        *socket = meet(sk, id, stamp_us as u32);
        // SAFETY: as above.
        socket.segs_out = unsafe { load(tp, &OFFSETS[net::SEGS_OUT]) };
    }
    // The sample that is there now came with the segment before this one.
    let (is_answer, acked) = (socket.is_answer(), socket.acked);
    socket.note(&segment(skb));
    if socket.stamp == stamp_us as u32 || socket.is_own() {
        return;
    }
    socket.stamp = stamp_us as u32;
    // SAFETY: as above.
    let rtt_us: u32 = unsafe { load(tp, &OFFSETS[net::RACK_RTT]) };
    let certain_us = certain(tp, socket, rtt_us, is_answer, acked);
    // A timer that suppressed a bare acknowledgement is nobody's trouble; an answer that took long may be.
    let value_us = if is_answer { rtt_us } else { certain_us };
    socket.least = min(value_us, socket.least);
    socket.certain_least = min(certain_us, socket.certain_least);
    if socket.samples < BLOCK - 1 {
        socket.samples += 1;
        return;
    }
    // What was sent together waited together, for whatever made it wait.
    if u64::from((stamp_us as u32).wrapping_sub(socket.since)) < constant(&SETTINGS.rtt).floor {
        return;
    }
    socket.since = stamp_us as u32;
    let before = socket.before;
    let reading = Reading {
        value_us: u64::from(min(socket.least, before)),
        certain_us: u64::from(min(socket.certain_least, socket.certain_before)),
        stamp_us,
    };
    (socket.before, socket.certain_before) = (socket.least, socket.certain_least);
    (socket.least, socket.certain_least) = (u32::MAX, u32::MAX);
    socket.samples = 0;
    if before == u32::MAX {
        return;
    }

    let Some(run) = Run::begin(program::TCP_PROBE) else { return };
    let Some(path) = path_of(sk, socket, &run) else { return run.learning() };
    // SAFETY: as above.
    let segs_out: u32 = unsafe { load(tp, &OFFSETS[net::SEGS_OUT]) };
    path.segments = path.segments.wrapping_add(segs_out.wrapping_sub(socket.segs_out));
    socket.segs_out = segs_out;
    if path.rtt.learn_if_calm(reading.value_us, &constant(&SETTINGS.rtt)) {
        return run.normal();
    }
    abnormal(sk, path, &reading, run);
}

/// What TCP has noted of a segment before it takes it in.
#[inline(always)]
fn segment(skb: *const u8) -> Segment {
    // SAFETY: a typed pointer, and offsets within its member of 48 bytes.
    unsafe {
        let noted = skb.add(read_volatile(&OFFSETS[net::SEGMENT]) as usize);
        Segment {
            seq: load(noted, &OFFSETS[net::SEGMENT_SEQ]),
            end: load(noted, &OFFSETS[net::SEGMENT_END]),
            ack: load(noted, &OFFSETS[net::SEGMENT_ACK]),
        }
    }
}

/// What a block of samples says.
struct Reading {
    /// Least sample.
    value_us: u64,
    /// Least certain part of one.
    certain_us: u64,
    /// `rack.mstamp` of the last.
    stamp_us: u64,
}

const LEARNING: u32 = 0;

pub(crate) const NORMAL: u32 = u32::MAX;

/// A verdict on a round trip as a number: [`LEARNING`], [`NORMAL`] or the kind of the event. A function of its
/// own, since the verifier walks each way through it with each way that follows.
#[inline(never)]
fn judge(rtt: &mut Baseline, value_us: u64, stamp_us: u64) -> u32 {
    match rtt.judge(value_us, stamp_us, &constant(&SETTINGS.rtt)) {
        Verdict::Learning => LEARNING,
        Verdict::Normal => NORMAL,
        Verdict::Spike => kind::RTT_SPIKE,
        Verdict::Shift => kind::RTT_SHIFT,
    }
}

/// Judges a round trip that is not plainly normal. Apart, so that the common way has the registers to itself.
#[inline(never)]
fn abnormal(sk: *const u8, path: &mut Path, reading: &Reading, run: Run) {
    let before = path.rtt;
    let &Reading { value_us, certain_us, stamp_us } = reading;
    // The time of a sample is when its segment was sent, by the clock of TCP: it costs nothing.
    let kind = match judge(&mut path.rtt, value_us, stamp_us) {
        LEARNING => return run.learning(),
        NORMAL => return run.normal(),
        kind => kind,
    };
    if !is_reported(kind, u32::from(path.key.direction), &before, reading) {
        return run.normal();
    }
    let now = now_ns();
    let since_ns = now.wrapping_sub(stamp_us.wrapping_sub(path.rtt.since()).wrapping_mul(1000));
    let key = path.key;
    emit(run, sk, &key, kind, &owner_of(sk, &key), now, |event| {
        event.value_us = value_us;
        event.certain_us = certain_us;
        event.since_ns = since_ns;
        event.baseline = before;
    });
}

/// Whether a verdict is worth an event. A spike must be one of the network, not of the peer's answers. A level
/// that went up to a server may be either, and says so; a client acknowledges with its next request, and may pause before
/// that as long as it likes. One that went down is reported where the peer cannot be why.
#[inline(always)]
fn is_reported(kind: u32, direction: u32, before: &Baseline, reading: &Reading) -> bool {
    let limits = constant(&SETTINGS.rtt);
    let mean = before.mean();
    let is_certain = reading.certain_us > mean.wrapping_add(limits.floor);
    if is_certain || (limits.ceiling != 0 && reading.certain_us > limits.ceiling) {
        return true;
    }
    if kind == kind::RTT_SPIKE {
        return false;
    }
    if reading.value_us > mean {
        if direction != direction::OUTBOUND {
            return false;
        }
        reading.value_us * 100 > mean * u64::from(limits.ratio_percent)
    } else {
        mean - reading.value_us > u64::from(LATEST_DELAYED_US)
    }
}

#[inline(always)]
const fn min(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}

/// The path of a socket: where it was, or found again.
#[inline(always)]
pub(crate) fn path_of(sk: *const u8, socket: &mut Socket, run: &Run) -> Option<&'static mut Path> {
    let path = path_at(u32::from(socket.path))?;
    if path.tag == socket.tag && socket.tag != 0 {
        return Some(path);
    }
    let key = destination(sk, socket.direction());
    let hash = key.hash(constant(&SEED));
    let tag = (hash >> 32) as u32 | 1;
    let set = hash as u32 & (MAX_DESTINATIONS - WAYS);
    // Which makes room if all are taken is left to the clock.
    let mut place = set + (socket.stamp & (WAYS - 1));
    let mut free = true;
    for way in 0..WAYS {
        let way = set | way;
        let path = path_at(way)?;
        if path.tag == tag && path.key == key {
            place = way;
            free = false;
            break;
        }
        if path.tag == 0 {
            place = way;
        }
    }
    let path = path_at(place)?;
    if free {
        *path = Path { key, tag, segments: 0, rtt: Baseline::default() };
        note_used(place);
        run.new_key();
    }
    socket.tag = tag;
    socket.path = place as u16;
    Some(path)
}

#[inline(always)]
fn note_used(place: u32) {
    if let Some(used) = USED_PATHS.get_ptr_mut(place / (MAX_DESTINATIONS / PARTS)) {
        // SAFETY: a map value, which is written with one value only.
        unsafe { *used = 1 };
    }
}

#[inline(always)]
fn path_at(place: u32) -> Option<&'static mut Path> {
    // SAFETY: a map value. CPUs that race for it lose a sample or a count; two destinations that take it at
    // once are distinguished by the tag.
    PATHS.get_ptr_mut(place).map(|path| unsafe { &mut *path })
}

/// The part of a sample that the network must have taken. A peer may hold an acknowledgement back, until it has
/// an answer to send with it or until a timer ends, but not for two full segments (RFC 9293, 3.8.6.3). What it
/// may have suppressed is taken off, down to the least sample of the connection, whose network it is.
/// Measured in docs/decisions/0004-rtt-sample.md.
#[inline(always)]
fn certain(tp: *const u8, socket: &mut Socket, rtt_us: u32, is_answer: bool, acked: u32) -> u32 {
    if rtt_us <= socket.ever {
        socket.ever = rtt_us;
        return rtt_us;
    }
    if !is_answer {
        if rtt_us < SOONEST_DELAYED_US {
            return rtt_us;
        }
        // SAFETY: a typed pointer and an offset of its fields.
        let full: u32 = unsafe { load(tp, &OFFSETS[net::MSS]) };
        if acked >= 2 * full {
            return rtt_us;
        }
    }
    let ever = socket.ever;
    let suppressed = if ever > LATEST_DELAYED_US { ever } else { LATEST_DELAYED_US };
    let rest = rtt_us.saturating_sub(suppressed);
    if rest > ever { rest } else { ever }
}
