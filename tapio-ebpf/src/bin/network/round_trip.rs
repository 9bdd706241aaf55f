//! Round trips: combines samples into readings, and judges the readings.

use aya_ebpf::{macros::map, maps::Array};
use tapio_common::{
    baseline::{Baseline, Verdict},
    network::{self as net, MAX_DESTINATIONS, Path, WAYS, direction, kind, program},
};
use tapio_ebpf::{Run, load, now_ns, word};

use crate::{
    OFFSETS, SEED, SETTINGS, constant,
    event::{Sock, destination, emit, owner_of},
    socket::{Socket, established_id, new_socket, slot, tcp_sock},
};

/// Minimum number of samples in a block. A reading is the lowest sample of a block and the one before it. The segments
/// of a block were sent over at least the floor, so a flight that waited for a CPU does not look like a slow network;
/// and most segments cost only a comparison.
const BLOCK: u16 = 4;

/// Shortest time for which a peer delays an acknowledgement that it has no data to send with. TCP_DELACK_MIN,
/// include/net/tcp.h, is 40 ms, and a timer at 100 Hz may fire 10 ms early.
const MIN_DELAYED_ACK_US: u32 = 25_000;

/// Longest time for which a peer delays an acknowledgement, unless a round trip takes longer (tcp_send_delayed_ack,
/// net/ipv4/tcp_output.c).
const MAX_DELAYED_ACK_US: u32 = 50_000;

/// From microseconds to the unit of a baseline's time, of which a run lasts less than 2^32.
const STAMP_SHIFT: u32 = 10;

/// Round trips per destination: a set-associative table with sets of [`WAYS`], indexed by hash. Not a hash map: a
/// socket remembers the index of its path, and an array lookup takes a few instructions where a hash lookup takes a
/// call.
#[map]
static PATHS: Array<Path> = Array::with_max_entries(MAX_DESTINATIONS, 0);

/// 1 for each part of [`PATHS`] that was ever used, so that a reader of the whole table can skip the rest.
#[map]
static USED_PATHS: Array<u32> = Array::with_max_entries(PARTS, 0);
const PARTS: u32 = 4096;

/// Runs for each segment. What is rare is in functions of their own: the code of the common way is a few cache lines.
pub(crate) fn round_trip(sk: *const u8, skb: *const u8) {
    let Some(tp) = tcp_sock(sk) else { return };
    let id = established_id(sk);
    let Some(socket) = slot(id) else { return };
    if socket.id != id {
        begin(sk, tp, socket, id);
    }
    // SAFETY: typed pointers and fields of their structs. The lower half of the time tells it from the last sample's.
    let stamp = unsafe { word::<{ net::RACK_MSTAMP }>(tp) };
    if u64::from(socket.stamp) != stamp {
        socket.stamp = stamp as u32;
        add_sample(tp, socket);
        // Segments that were sent together were delayed together, whatever the reason.
        let took = u64::from((stamp as u32).wrapping_sub(socket.since));
        if took >= constant(&SETTINGS.rtt.floor) && socket.samples >= BLOCK {
            end_block(sk, tp, socket);
        }
    }
    socket.record_segment(skb);
}

#[cold]
#[inline(never)]
fn begin(sk: *const u8, tp: *const u8, socket: &mut Socket, id: u64) {
    // SAFETY: typed pointers and fields of their structs.
    unsafe {
        *socket = new_socket(Sock::read(sk), id, word::<{ net::RACK_MSTAMP }>(tp) as u32);
        socket.segs_out = load(tp, &OFFSETS[net::SEGS_OUT]);
    }
}

/// Adds a sample to the block. It came with the last segment that was recorded.
#[inline(always)]
fn add_sample(tp: *const u8, socket: &mut Socket) {
    socket.samples = socket.samples.wrapping_add(1);
    // SAFETY: a typed pointer and a field of its struct.
    let rtt_us = unsafe { word::<{ net::RACK_RTT }>(tp) };
    if rtt_us >= u64::from(MIN_DELAYED_ACK_US) {
        return add_long_sample(tp, socket, rtt_us as u32);
    }
    lower(&mut socket.lowest_ever, rtt_us);
    lower(&mut socket.lowest, rtt_us);
    // As `certain_part` has it for so short a time.
    let certain_us = if socket.carried_data() { u64::from(socket.lowest_ever) } else { rtt_us };
    lower(&mut socket.certain_lowest, certain_us);
}

/// Mostly there is nothing to store.
#[inline(always)]
fn lower(lowest: &mut u32, us: u64) {
    if us < u64::from(*lowest) {
        *lowest = us as u32;
    }
}

/// Adds a sample that may be due to a delayed acknowledgement.
#[cold]
#[inline(never)]
fn add_long_sample(tp: *const u8, socket: &mut Socket, rtt_us: u32) {
    let certain_us = certain_part(tp, socket, rtt_us);
    // A delayed acknowledgement without data is not a problem; a slow response may be.
    let value_us = if socket.carried_data() { rtt_us } else { certain_us };
    socket.lowest = min(value_us, socket.lowest);
    socket.certain_lowest = min(certain_us, socket.certain_lowest);
}

/// Ends a block, which makes a reading with the one before it, and judges that.
#[cold]
#[inline(never)]
fn end_block(sk: *const u8, tp: *const u8, socket: &mut Socket) {
    socket.since = socket.stamp;
    if socket.belongs_to_agent() {
        return;
    }
    let before = socket.before;
    // SAFETY: typed pointers and offsets of their fields.
    let stamp_us: u64 = unsafe { load(tp, &OFFSETS[net::RACK_MSTAMP]) };
    let mut reading = Reading {
        value_us: u64::from(min(socket.lowest, before)),
        certain_us: u64::from(min(socket.certain_lowest, socket.certain_before)),
        // The time of a sample is when its segment was sent, by TCP's clock, which is already known.
        stamp: stamp_us >> STAMP_SHIFT,
        normal: Baseline::default(),
        kind: NORMAL,
    };
    (socket.before, socket.certain_before) = (socket.lowest, socket.certain_lowest);
    (socket.lowest, socket.certain_lowest) = (u32::MAX, u32::MAX);
    socket.samples = 0;
    if before == u32::MAX {
        return;
    }

    let Some(run) = Run::begin(program::TCP_PROBE) else { return };
    let sk = Sock::read(sk);
    let Some(path) = path_of(sk, socket, &run) else { return run.learning() };
    // SAFETY: as above.
    let segs_out: u32 = unsafe { load(tp, &OFFSETS[net::SEGS_OUT]) };
    path.segments = path.segments.wrapping_add(segs_out.wrapping_sub(socket.segs_out));
    socket.segs_out = segs_out;
    if path.rtt.learn_if_normal(reading.value_us, &constant(&SETTINGS.rtt)) {
        return run.normal();
    }
    reading.normal = path.rtt;
    // Not in `abnormal`: on the oldest kernels the stack of all functions that call each other has 512 bytes.
    reading.kind = judge(&mut path.rtt, reading.value_us, reading.stamp);
    match reading.kind {
        LEARNING => run.learning(),
        NORMAL => run.normal(),
        _ => abnormal(sk, path, &reading, run),
    }
}

/// A reading: two blocks of samples.
struct Reading {
    /// Lowest sample.
    value_us: u64,
    /// Lowest certain part of a sample.
    certain_us: u64,
    /// When the last sample was sent, in units of 1.024 ms.
    stamp: u64,
    /// What was normal before it.
    normal: Baseline,
    /// As [`judge`] has it.
    kind: u32,
}

const LEARNING: u32 = 0;

pub(crate) const NORMAL: u32 = u32::MAX;

/// Judges a round trip: [`LEARNING`], [`NORMAL`] or the kind of the event. In a function of its own: inlined, the
/// verifier would walk each path through it combined with each path after it.
#[inline(never)]
fn judge(rtt: &mut Baseline, value_us: u64, stamp: u64) -> u32 {
    match rtt.judge(value_us, stamp, &constant(&SETTINGS.rtt)) {
        Verdict::Learning => LEARNING,
        Verdict::Normal => NORMAL,
        Verdict::Spike => kind::RTT_SPIKE,
        Verdict::Shift => kind::RTT_SHIFT,
    }
}

/// Reports a round trip that is not normal, if it is to be.
#[inline(never)]
fn abnormal(sk: Sock, path: &mut Path, reading: &Reading, run: Run) {
    if !is_reportable(reading, u32::from(path.key.direction)) {
        return run.normal();
    }
    let now = now_ns();
    let ago = reading.stamp.wrapping_sub(path.rtt.since(reading.stamp));
    let since_ns = now.wrapping_sub((ago << STAMP_SHIFT).wrapping_mul(1000));
    let key = path.key;
    emit(run, sk, &key, reading.kind, &owner_of(sk, &key), now, |event| {
        event.value_us = reading.value_us;
        event.certain_us = reading.certain_us;
        event.since_ns = since_ns;
        event.baseline = reading.normal;
    });
}

/// Decides whether a verdict is reported. A spike must be the network's, not a slow response. A rise towards a server
/// may be either, and its event gives the certain part; a client acknowledges with its next request, and may pause
/// before that as long as it likes. A fall is reported if it cannot be due to the peer.
#[inline(always)]
fn is_reportable(reading: &Reading, direction: u32) -> bool {
    let limits = constant(&SETTINGS.rtt);
    let mean = reading.normal.mean();
    let is_certain = reading.certain_us > mean.wrapping_add(limits.floor);
    if is_certain || (limits.ceiling != 0 && reading.certain_us > limits.ceiling) {
        return true;
    }
    if reading.kind == kind::RTT_SPIKE {
        return false;
    }
    if reading.value_us > mean {
        if direction != direction::OUTBOUND {
            return false;
        }
        reading.value_us * 100 > mean * u64::from(limits.ratio_percent)
    } else {
        mean - reading.value_us > u64::from(MAX_DELAYED_ACK_US)
    }
}

#[inline(always)]
const fn min(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}

/// Path of a socket, at the index that the socket remembers, or looked up again.
#[inline(always)]
pub(crate) fn path_of(sk: Sock, socket: &mut Socket, run: &Run) -> Option<&'static mut Path> {
    let path = path_at(u32::from(socket.path))?;
    if path.tag == socket.tag && socket.tag != 0 {
        return Some(path);
    }
    let key = destination(sk, socket.direction());
    let (set, tag) = key.place(constant(&SEED));
    // If all places are taken, the clock chooses which one is evicted.
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
        mark_used(place);
        run.new_key();
    }
    socket.tag = tag;
    socket.path = place as u16;
    Some(path)
}

#[inline(always)]
fn mark_used(place: u32) {
    if let Some(used) = USED_PATHS.get_ptr_mut(place / (MAX_DESTINATIONS / PARTS)) {
        // SAFETY: a map value that is only ever set to 1.
        unsafe { *used = 1 };
    }
}

#[inline(always)]
fn path_at(place: u32) -> Option<&'static mut Path> {
    // SAFETY: a map value. CPUs that race here can lose a sample or a count; if two destinations take the place
    // simultaneously, the tag tells them apart.
    PATHS.get_ptr_mut(place).map(|path| unsafe { &mut *path })
}

/// The part of a sample that the network must have taken, in microseconds. A peer may delay an acknowledgement until it
/// has a response to send with it, or until a timer expires, but not for two full segments (RFC 9293, 3.8.6.3). The
/// possible delay is subtracted, but not below the lowest sample of the connection, which the network took. Measured in
/// docs/decisions/0004-rtt-sample.md.
#[inline(always)]
fn certain_part(tp: *const u8, socket: &mut Socket, rtt_us: u32) -> u32 {
    if rtt_us <= socket.lowest_ever {
        socket.lowest_ever = rtt_us;
        return rtt_us;
    }
    if !socket.carried_data() {
        // SAFETY: a typed pointer and an offset of its fields.
        let mss: u32 = unsafe { load(tp, &OFFSETS[net::MSS]) };
        if socket.acked() >= 2 * mss {
            return rtt_us;
        }
    }
    let lowest_ever = socket.lowest_ever;
    let delayed_us = if lowest_ever > MAX_DELAYED_ACK_US { lowest_ever } else { MAX_DELAYED_ACK_US };
    let rest = rtt_us.saturating_sub(delayed_us);
    if rest > lowest_ever { rest } else { lowest_ever }
}
