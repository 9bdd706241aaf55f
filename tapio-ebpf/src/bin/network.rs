//! Network: round trips, handshakes, failed connects, resets, segments sent again.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    helpers::generated::bpf_skc_to_tcp_sock,
    macros::{btf_tracepoint, map},
    maps::{Array, HashMap, LruHashMap},
    programs::BtfTracePointContext,
};
use tapio_common::{
    CooldownKey, Header,
    baseline::{Baseline, Verdict},
    network::{
        self as net, Destination, Listener, NetworkEvent, Owner, Port, Settings, direction, kind, program,
    },
};
use tapio_ebpf::{Current, Run, load, now_ns, object, probe};

object!(fields: net::FIELDS, settings: Settings);

// include/net/tcp_states.h
const ESTABLISHED: i32 = 1;
const SYN_SENT: i32 = 2;
const CLOSE: i32 = 7;
const LISTEN: i32 = 10;
// include/linux/socket.h, include/uapi/linux/in.h
const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;
// include/uapi/asm-generic/errno.h
const ETIMEDOUT: u32 = 110;
const ECONNREFUSED: u32 = 111;
const EHOSTUNREACH: u32 = 113;
const ENETUNREACH: u32 = 101;

/// Destinations with a baseline; a power of two.
const MAX_DESTINATIONS: u32 = 65_536;
/// Places where the path of a destination can be; a power of two. With all of them taken, one makes room.
const WAYS: u32 = 4;
/// Ports with a listener, over all network namespaces; one more counts as not listening.
const MAX_LISTENERS: u32 = 65_536;
/// Connections whose owner is known.
const MAX_CONNECTIONS: u32 = 65_536;
/// Slots for the last round trip of a socket; a power of two.
const SOCKETS_LEN: u32 = 65_536;
/// Samples of a socket that make a reading: the least of these and of the block before. One segment that had to
/// wait for a processor is not a slow network, and most segments cost a comparison only.
const BLOCK: u8 = 4;
/// No peer holds an acknowledgement back for less without data of its own to send it with: TCP_DELACK_MIN,
/// include/net/tcp.h, is 40 ms, and a timer of 100 Hz may be 10 ms early.
const SOONEST_DELAYED_US: u32 = 25_000;
/// Nor for longer than this, or than a round trip where that takes longer (tcp_send_delayed_ack,
/// net/ipv4/tcp_output.c).
const LATEST_DELAYED_US: u32 = 50_000;

/// After so many windows without a segment sent again a path counts as clean.
const MAX_IDLE_WINDOWS: u64 = 16;

/// Round trips per destination: sets of [`WAYS`], found by hash. Not a hash map: a socket remembers the place of
/// its path, and the lookup of a place is three instructions where that of a key is a call of 40 ns.
#[map]
static PATHS: Array<Path> = Array::with_max_entries(MAX_DESTINATIONS, 0);
/// Handshakes per destination.
#[map]
static HANDSHAKES: LruHashMap<Destination, Baseline> = LruHashMap::with_max_entries(MAX_DESTINATIONS, 0);
/// Segments sent again per destination.
#[map]
static BURSTS: LruHashMap<Destination, Burst> = LruHashMap::with_max_entries(MAX_DESTINATIONS, 0);
/// Who connected, by address of the socket.
#[map]
static CONNECTIONS: LruHashMap<u64, Connection> = LruHashMap::with_max_entries(MAX_CONNECTIONS, 0);
/// Who listens.
#[map]
static LISTENERS: HashMap<Port, Listener> = HashMap::with_max_entries(MAX_LISTENERS, BPF_F_NO_PREALLOC);
/// The last round trips of each socket, by a hash of its address: a cache, where two sockets that meet in a
/// slot forget each other.
#[map]
static SOCKETS: Array<Socket> = Array::with_max_entries(SOCKETS_LEN, 0);

/// One cache line.
#[repr(C)]
#[derive(Clone, Copy)]
struct Path {
    key: Destination,
    /// Upper half of the key's hash; 0 is free. Written last, read by sockets that were here before.
    tag: u32,
    /// Segments sent to it, as far as samples told; wraps.
    segments: u32,
    rtt: Baseline,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Burst {
    /// Share of segments sent again in past windows, 1/1024.
    share: Baseline,
    window_ns: u64,
    /// `Path::segments` when the window began.
    segments: u32,
    retransmits: u32,
    said: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Connection {
    owner: Owner,
    started_ns: u64,
}

/// Less than a cache line.
#[repr(C)]
#[derive(Clone, Copy)]
struct Socket {
    /// See [`socket_id`]; another one's is a miss, 0 is free.
    id: u64,
    /// Lower half of `rack.mstamp` at the last sample.
    stamp: u32,
    /// Least sample of the block before.
    before: u32,
    /// Least sample of this block.
    least: u32,
    /// Least [`certain`] part of a sample of the block before.
    certain_before: u32,
    /// The same of this block.
    certain_least: u32,
    /// Least sample ever.
    ever: u32,
    /// Lower half of `bytes_received` at the last segment.
    received: u32,
    /// Lower half of `bytes_acked` at the last segment.
    acked: u32,
    /// `segs_out` at the last sample.
    segs_out: u32,
    /// [`Path::tag`] of its path; another one's there: the path has made room.
    tag: u32,
    /// Where its path is.
    path: u16,
    /// Samples in this block.
    samples: u8,
    /// A [`direction`], and [`OWN`].
    flags: u8,
}

impl Socket {
    #[inline(always)]
    const fn direction(&self) -> u8 {
        self.flags & !OWN
    }

    #[inline(always)]
    const fn is_own(&self) -> bool {
        self.flags & OWN != 0
    }
}

/// A socket of the agent itself.
const OWN: u8 = 0x80;

/// `TP_PROTO(struct sock *sk, struct sk_buff *skb)`, include/trace/events/tcp.h. Runs for each segment
/// received in ESTABLISHED, before its acknowledgement is taken: what is read is the sample before.
#[btf_tracepoint(function = "tcp_probe")]
fn tcp_probe(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    round_trip(sk);
    0
}

/// `TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)`, include/trace/events/sock.h.
/// CLOSE -> SYN_SENT and CLOSE -> LISTEN run in the task that calls; the others anywhere.
#[btf_tracepoint(function = "inet_sock_set_state")]
fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    let old: i32 = ctx.arg(1);
    let new: i32 = ctx.arg(2);
    // SAFETY: a typed pointer and offsets of its fields.
    if unsafe { load::<u16>(sk, &OFFSETS[net::PROTOCOL]) } != IPPROTO_TCP {
        return 0;
    }
    match (old, new) {
        (CLOSE, SYN_SENT) => connecting(sk),
        (SYN_SENT, ESTABLISHED) => connected(sk),
        (_, ESTABLISHED) => forget_samples(sk),
        (SYN_SENT, CLOSE) => not_connected(sk),
        (_, LISTEN) => listening(sk),
        (LISTEN, CLOSE) => not_listening(sk),
        (_, CLOSE) => closed(sk),
        _ => {}
    }
    0
}

/// `TP_PROTO(const struct sock *sk, const struct sk_buff *skb[, int err])`, include/trace/events/tcp.h.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
fn tcp_retransmit_skb(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    retransmit(sk);
    0
}

/// `TP_PROTO(struct sock *sk)`, include/trace/events/tcp.h. Runs before the reset is acted upon.
#[btf_tracepoint(function = "tcp_receive_reset")]
fn tcp_receive_reset(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    reset(sk);
    0
}

/// The `tcp_sock` around a `sock`, as a typed pointer.
#[inline(always)]
fn tcp_sock(sk: *const u8) -> Option<*const u8> {
    // SAFETY: a typed pointer; the helper answers null for what is no TCP socket.
    let tp = unsafe { bpf_skc_to_tcp_sock(sk.cast_mut().cast()) };
    if tp.is_null() { None } else { Some(tp.cast_const().cast()) }
}

/// What tells a connection in its slot: the kernel's hash of it, and its ports. The verifier lets no program
/// calculate with the socket's address.
#[inline(always)]
fn socket_id(sk: *const u8) -> u64 {
    // SAFETY: a typed pointer and offsets of its fields.
    let hash: u32 = unsafe { load(sk, &OFFSETS[net::HASH]) };
    // SAFETY: as above.
    let ports: u32 = unsafe { load(sk, &OFFSETS[net::PORTPAIR]) };
    u64::from(ports) << 32 | u64::from(hash)
}

#[inline(always)]
fn slot(id: u64) -> Option<&'static mut Socket> {
    let socket = SOCKETS.get_ptr_mut(id as u32 & (SOCKETS_LEN - 1))?;
    // SAFETY: a map value. Runs for one socket are under its lock.
    Some(unsafe { &mut *socket })
}

fn round_trip(sk: *const u8) {
    let Some(tp) = tcp_sock(sk) else { return };
    // SAFETY: typed pointers and offsets of their fields.
    let stamp_us: u64 = unsafe { load(tp, &OFFSETS[net::RACK_MSTAMP]) };
    let id = socket_id(sk);
    let Some(socket) = slot(id) else { return };
    // SAFETY: as above.
    let received = unsafe { load::<u64>(tp, &OFFSETS[net::BYTES_RECEIVED]) } as u32;
    // SAFETY: as above.
    let acked = unsafe { load::<u64>(tp, &OFFSETS[net::BYTES_ACKED]) } as u32;
    if socket.id != id {
        *socket = meet(sk, id, stamp_us as u32);
        (socket.received, socket.acked) = (received, acked);
        // SAFETY: as above.
        socket.segs_out = unsafe { load(tp, &OFFSETS[net::SEGS_OUT]) };
        return;
    }
    // What the segment before this one brought.
    let payload = received.wrapping_sub(socket.received);
    let acknowledged = acked.wrapping_sub(socket.acked);
    (socket.received, socket.acked) = (received, acked);
    if socket.stamp == stamp_us as u32 || socket.is_own() {
        return;
    }
    socket.stamp = stamp_us as u32;
    // SAFETY: as above.
    let rtt_us: u32 = unsafe { load(tp, &OFFSETS[net::RACK_RTT]) };
    let certain_us = certain(tp, socket, rtt_us, payload, acknowledged);
    // A timer that held back a bare acknowledgement is nobody's trouble; an answer that took long may be.
    let value_us = if payload == 0 { certain_us } else { rtt_us };
    socket.least = min(value_us, socket.least);
    socket.certain_least = min(certain_us, socket.certain_least);
    socket.samples += 1;
    if socket.samples < BLOCK {
        return;
    }
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
const NORMAL: u32 = u32::MAX;

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
    if !is_told(kind, &before, reading) {
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
/// that went up may be either, and says so; one that went down is told where the peer cannot be why.
#[inline(always)]
fn is_told(kind: u32, before: &Baseline, reading: &Reading) -> bool {
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
fn path_of(sk: *const u8, socket: &mut Socket, run: &Run) -> Option<&'static mut Path> {
    let path = path_at(u32::from(socket.path))?;
    if path.tag == socket.tag && socket.tag != 0 {
        return Some(path);
    }
    let key = destination(sk, socket.direction());
    let hash = key.hash(constant(&SETTINGS.seed));
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
        run.new_key();
    }
    socket.tag = tag;
    socket.path = place as u16;
    Some(path)
}

#[inline(always)]
fn path_at(place: u32) -> Option<&'static mut Path> {
    // SAFETY: a map value. CPUs that race for it lose a sample or a count; two destinations that take it at
    // once are told apart by the tag.
    PATHS.get_ptr_mut(place).map(|path| unsafe { &mut *path })
}

/// The part of a sample that the network must have taken. A peer may hold an acknowledgement back, until it has
/// an answer to send with it or until a timer ends, but not for two full segments (RFC 9293, 3.8.6.3). What it
/// may have held back is taken off, down to the least sample of the connection, whose network it is.
/// Measured in docs/decisions/0004-rtt-sample.md.
#[inline(always)]
fn certain(tp: *const u8, socket: &mut Socket, rtt_us: u32, payload: u32, acknowledged: u32) -> u32 {
    if rtt_us <= socket.ever {
        socket.ever = rtt_us;
        return rtt_us;
    }
    if payload == 0 {
        if rtt_us < SOONEST_DELAYED_US {
            return rtt_us;
        }
        // SAFETY: a typed pointer and an offset of its fields.
        let full: u32 = unsafe { load(tp, &OFFSETS[net::MSS]) };
        if acknowledged >= 2 * full {
            return rtt_us;
        }
    }
    let ever = socket.ever;
    let held_back = if ever > LATEST_DELAYED_US { ever } else { LATEST_DELAYED_US };
    let rest = rtt_us.saturating_sub(held_back);
    if rest > ever { rest } else { ever }
}

/// A socket seen for the first time: who opened it is told by the listening ports.
#[inline(always)]
fn meet(sk: *const u8, id: u64, stamp: u32) -> Socket {
    let mut flags = direction::OUTBOUND as u8;
    let mut own = 0;
    if let Some(connection) = CONNECTIONS.get_ptr(&(sk as u64)) {
        // SAFETY: a map value.
        own = unsafe { (*connection).owner.own };
    } else if let Some(listener) = LISTENERS.get_ptr(&local_port(sk)) {
        flags = direction::INBOUND as u8;
        // SAFETY: a map value.
        own = unsafe { (*listener).owner.own };
    }
    if own != 0 {
        flags |= OWN;
    }
    Socket {
        id,
        stamp,
        before: u32::MAX,
        least: u32::MAX,
        certain_before: u32::MAX,
        certain_least: u32::MAX,
        ever: u32::MAX,
        received: 0,
        acked: 0,
        segs_out: 0,
        tag: 0,
        path: 0,
        samples: 0,
        flags,
    }
}

fn connecting(sk: *const u8) {
    let current = Current::get(&constant(&AGENT));
    let connection = Connection { owner: owner(&current), started_ns: now_ns() };
    // A map without room drops the oldest.
    let _ = CONNECTIONS.insert(&(sk as u64), connection, 0);
}

fn connected(sk: *const u8) {
    forget_samples(sk);
    let Some(connection) = CONNECTIONS.get_ptr(&(sk as u64)) else { return };
    // SAFETY: a map value.
    let Connection { owner, started_ns } = unsafe { *connection };
    if owner.own != 0 {
        return;
    }
    let Some(run) = Run::begin(program::INET_SOCK_SET_STATE) else { return };
    let now = now_ns();
    let value_us = now.wrapping_sub(started_ns) / 1000;
    let key = destination(sk, direction::OUTBOUND as u8);
    let Some(handshake) = HANDSHAKES.get_ptr_mut(&key) else {
        let mut handshake = Baseline::default();
        handshake.observe(value_us, now, &constant(&SETTINGS.connect));
        let _ = HANDSHAKES.insert(&key, handshake, 0);
        run.new_key();
        return run.learning();
    };
    // SAFETY: a map value; CPUs that race here lose a sample.
    let handshake = unsafe { &mut *handshake };
    let before = *handshake;
    match handshake.observe(value_us, now, &constant(&SETTINGS.connect)) {
        Verdict::Learning => return run.learning(),
        Verdict::Normal => return run.normal(),
        // A level that went down is no trouble, and one that went up was said sample by sample.
        Verdict::Shift if value_us <= before.mean() => return run.normal(),
        Verdict::Spike | Verdict::Shift => {}
    }
    emit(run, sk, &key, kind::CONNECT_SLOW, &owner, now, |event| {
        event.value_us = value_us;
        if let Some(tp) = tcp_sock(sk) {
            // SAFETY: a typed pointer and offsets of its fields.
            event.retransmits = unsafe { load(tp, &OFFSETS[net::TOTAL_RETRANS]) };
        }
        event.baseline = before;
    });
}

fn not_connected(sk: *const u8) {
    let id = sk as u64;
    let Some(connection) = CONNECTIONS.get_ptr(&id) else { return };
    // SAFETY: a map value.
    let Connection { owner, started_ns } = unsafe { *connection };
    let _ = CONNECTIONS.remove(&id);
    if owner.own != 0 {
        return;
    }
    let Some(run) = Run::begin(program::INET_SOCK_SET_STATE) else { return };
    let Some(tp) = tcp_sock(sk) else { return run.normal() };
    // SAFETY: typed pointers and offsets of their fields.
    let (errno, retransmits): (u32, u32) =
        unsafe { (load(sk, &OFFSETS[net::ERR]), load(tp, &OFFSETS[net::TOTAL_RETRANS])) };
    let kind = match errno {
        ECONNREFUSED => kind::CONNECTION_REFUSED,
        ETIMEDOUT => kind::CONNECTION_TIMEOUT,
        EHOSTUNREACH | ENETUNREACH => kind::CONNECTION_UNREACHABLE,
        // The application gave up; it had reason to where the SYN had to be sent again.
        0 if retransmits > 0 => kind::CONNECTION_TIMEOUT,
        _ => return run.normal(),
    };
    let now = now_ns();
    let key = destination(sk, direction::OUTBOUND as u8);
    emit(run, sk, &key, kind, &owner, now, |event| {
        event.value_us = now.wrapping_sub(started_ns) / 1000;
        event.retransmits = retransmits;
        event.errno = errno;
    });
}

fn listening(sk: *const u8) {
    let owner = owner(&Current::get(&constant(&AGENT)));
    let port = local_port(sk);
    // SAFETY: a map value; two sockets that begin or end to listen on one port at once can be miscounted.
    let sockets = LISTENERS.get_ptr(&port).map_or(0, |listener| unsafe { (*listener).sockets });
    let _ = LISTENERS.insert(&port, Listener { owner, sockets: sockets + 1 }, 0);
}

fn not_listening(sk: *const u8) {
    let port = local_port(sk);
    let Some(listener) = LISTENERS.get_ptr_mut(&port) else { return };
    // SAFETY: a map value.
    let listener = unsafe { &mut *listener };
    if listener.sockets > 1 {
        listener.sockets -= 1;
    } else {
        let _ = LISTENERS.remove(&port);
    }
}

fn closed(sk: *const u8) {
    forget_samples(sk);
    let _ = CONNECTIONS.remove(&(sk as u64));
}

/// The socket begins or ends: another one may come to its address.
#[inline(always)]
fn forget_samples(sk: *const u8) {
    let id = socket_id(sk);
    if let Some(socket) = slot(id)
        && socket.id == id
    {
        socket.id = 0;
    }
}

fn reset(sk: *const u8) {
    // SAFETY: a typed pointer and offsets of its fields.
    let state: u8 = unsafe { load(sk, &OFFSETS[net::STATE]) };
    // In SYN_SENT it is a refused connect; later than ESTABLISHED one side was closing anyway.
    if i32::from(state) != ESTABLISHED {
        return;
    }
    let id = socket_id(sk);
    let Some(slot) = slot(id) else { return };
    let socket = if slot.id == id { *slot } else { meet(sk, id, 0) };
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
    emit(run, sk, &key, kind::CONNECTION_RESET, &owner_of(sk, &key), now_ns(), |event| {
        event.bytes_received = received;
        event.bytes_acked = acked;
    });
}

fn retransmit(sk: *const u8) {
    // SAFETY: a typed pointer and offsets of its fields.
    let state: u8 = unsafe { load(sk, &OFFSETS[net::STATE]) };
    // A SYN sent again is told by how the connect ends.
    if i32::from(state) == SYN_SENT {
        return;
    }
    let Some(tp) = tcp_sock(sk) else { return };
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
    if now_share < settings.retransmit_min_share || teach_share(&mut copy, now_share, now) == NORMAL {
        return run.normal();
    }
    if burst.said != 0 {
        return run.held_back();
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

#[inline(always)]
fn owner(current: &Current) -> Owner {
    Owner {
        cgroup_id: current.cgroup_id,
        pid: current.pid,
        own: u32::from(current.is_agent),
        comm: current.comm,
    }
}

/// Whoever is known to own a socket. The running task is never asked.
#[inline(always)]
fn owner_of(sk: *const u8, key: &Destination) -> Owner {
    if let Some(connection) = CONNECTIONS.get_ptr(&(sk as u64)) {
        // SAFETY: a map value.
        return unsafe { (*connection).owner };
    }
    let mut owner = Owner::default();
    if u32::from(key.direction) == direction::INBOUND
        && let Some(listener) = LISTENERS.get_ptr(&local_port(sk))
    {
        // SAFETY: a map value.
        owner = unsafe { (*listener).owner };
    }
    if let Some(cgroup_id) = cgroup(sk) {
        owner.cgroup_id = cgroup_id;
    }
    owner
}

/// The cgroup that the socket was made in.
#[inline(always)]
fn cgroup(sk: *const u8) -> Option<u64> {
    let cgroup = probe::<u64>(sk, &OFFSETS[net::CGROUP])?;
    // Before kernel 5.15 an odd value is no pointer but a network class of cgroup v1.
    if cgroup & 1 != 0 {
        return None;
    }
    let node = probe::<u64>(cgroup as *const u8, &OFFSETS[net::CGROUP_KN])?;
    probe(node as *const u8, &OFFSETS[net::KN_ID])
}

#[inline(always)]
fn netns(sk: *const u8) -> u32 {
    // SAFETY: a typed pointer and offsets of its fields.
    let net: *const u8 = unsafe { load(sk, &OFFSETS[net::NET]) };
    // SAFETY: as above.
    unsafe { load(net, &OFFSETS[net::NET_INUM]) }
}

#[inline(always)]
fn local_port(sk: *const u8) -> Port {
    // SAFETY: a typed pointer and offsets of its fields.
    let port: u16 = unsafe { load(sk, &OFFSETS[net::SPORT]) };
    Port { netns: netns(sk), port: u32::from(port) }
}

/// Local and remote address; IPv4 as v4-mapped.
#[inline(always)]
fn addresses(sk: *const u8) -> ([u8; 16], [u8; 16]) {
    // SAFETY: a typed pointer and offsets of its fields.
    let family: u16 = unsafe { load(sk, &OFFSETS[net::FAMILY]) };
    if family == AF_INET6 {
        // SAFETY: as above.
        return unsafe { (load6(sk, &OFFSETS[net::SADDR6]), load6(sk, &OFFSETS[net::DADDR6])) };
    }
    // SAFETY: as above.
    unsafe { (mapped(load(sk, &OFFSETS[net::SADDR])), mapped(load(sk, &OFFSETS[net::DADDR]))) }
}

/// # Safety
/// As [`load`].
#[inline(always)]
unsafe fn load6(sk: *const u8, offset: &u32) -> [u8; 16] {
    // SAFETY: by the caller. Two words: the verifier knows loads of up to eight bytes.
    let words: [u64; 2] = unsafe { [load(sk, offset), load(sk.add(8), offset)] };
    bytemuck::cast(words)
}

#[inline(always)]
fn mapped(address: u32) -> [u8; 16] {
    bytemuck::cast([0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), address])
}

/// What the baseline of a connection is kept for.
#[inline(always)]
fn destination(sk: *const u8, direction: u8) -> Destination {
    let (_, address) = addresses(sk);
    let port = if u32::from(direction) == direction::INBOUND {
        // SAFETY: a typed pointer and offsets of its fields.
        unsafe { load(sk, &OFFSETS[net::SPORT]) }
    } else {
        // SAFETY: as above.
        u16::from_be(unsafe { load(sk, &OFFSETS[net::DPORT]) })
    };
    let netns = if is_loopback(&address) { netns(sk) } else { 0 };
    Destination { address, netns, port, direction: u16::from(direction) }
}

/// 127.0.0.0/8 and ::1: each network namespace has its own.
#[inline(always)]
fn is_loopback(address: &[u8; 16]) -> bool {
    let words: [u32; 4] = bytemuck::cast(*address);
    if words[0] != 0 || words[1] != 0 {
        return false;
    }
    if words[2] == 0 { u32::from_be(words[3]) == 1 } else { words[3].to_ne_bytes()[0] == 127 }
}

/// Emits an event about a socket; `fill` adds what is particular to its kind.
#[inline(always)]
fn emit(
    run: Run,
    sk: *const u8,
    key: &Destination,
    kind: u32,
    owner: &Owner,
    now_ns: u64,
    fill: impl FnOnce(&mut NetworkEvent),
) {
    let cooldown = CooldownKey {
        cgroup_id: owner.cgroup_id,
        comm: owner.comm,
        subject: key.address,
        detail: u32::from(key.port),
        kind,
    };
    run.emit_unless_quiet(
        &cooldown,
        constant(&SETTINGS.cooldown_ns),
        now_ns,
        |event: &mut NetworkEvent, held_back| {
            event.header = Header {
                time_ns: now_ns,
                cgroup_id: owner.cgroup_id,
                pid: owner.pid,
                held_back,
                comm: owner.comm,
            };
            event.kind = kind;
            event.direction = u32::from(key.direction);
            (event.local, event.remote) = addresses(sk);
            // SAFETY: a typed pointer and offsets of its fields.
            event.local_port = unsafe { load(sk, &OFFSETS[net::SPORT]) };
            // SAFETY: as above.
            event.remote_port = u16::from_be(unsafe { load(sk, &OFFSETS[net::DPORT]) });
            event.netns = netns(sk);
            fill(event);
        },
    );
}
