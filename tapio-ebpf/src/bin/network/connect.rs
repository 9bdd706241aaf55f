//! Connects, listeners and closes: who opened a connection, how long its handshake took, and which connects failed.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{HashMap, LruHashMap},
};
use tapio_common::{
    baseline::{Baseline, Verdict},
    network::{self as net, Destination, Listener, MAX_DESTINATIONS, Owner, Port, direction, kind, program},
};
use tapio_ebpf::{Current, Run, load, now_ns, since};

use crate::{
    AGENT, OFFSETS, SETTINGS, constant, edge,
    event::{Sock, destination, emit, local_port, local_port_number},
    socket::{forget_samples, socket_id, tcp_sock},
};

/// Maximum number of listening ports, over all network namespaces. Any further port counts as not listening.
const MAX_LISTENERS: u32 = 65_536;

/// Maximum number of connections whose owner is known; the least recently used one is evicted.
const MAX_CONNECTIONS: u32 = 65_536;

/// Baselines of handshake times.
#[map]
static HANDSHAKES: LruHashMap<Destination, Baseline> = LruHashMap::with_max_entries(MAX_DESTINATIONS, 0);

/// Destinations whose last connects were given up early by the application, without any answer in between.
#[map]
static GIVEN_UP: LruHashMap<Destination, GivenUp> = LruHashMap::with_max_entries(MAX_GIVEN_UP, 0);

/// Maximum size of [`GIVEN_UP`]; the least recently used entry is evicted.
const MAX_GIVEN_UP: u32 = 4_096;

#[repr(C)]
#[derive(Clone, Copy)]
struct GivenUp {
    times: u64,
    last_ns: u64,
}

/// After this many in a row, a connect that was given up is a timeout even if no SYN was retransmitted.
const MIN_GIVEN_UP: u64 = 3;
/// Clients that try two addresses at once give up the slower one when the other answers, mostly within this time.
const MIN_GIVEN_UP_US: u64 = 100_000;
/// A streak ends after this time without another connect that was given up.
const STREAK_NS: u64 = 300_000_000_000;

/// Maximum size of [`ACCEPTING`]; the least recently used entry is evicted.
const MAX_ACCEPTING: u32 = 8_192;

/// Sockets that called `connect`, by address. Another socket may reuse the address: [`Connection::id`] tells.
#[map]
static CONNECTIONS: LruHashMap<u64, Connection> = LruHashMap::with_max_entries(MAX_CONNECTIONS, 0);

/// Listening ports.
#[map]
pub(crate) static LISTENERS: HashMap<Port, Listener> =
    HashMap::with_max_entries(MAX_LISTENERS, BPF_F_NO_PREALLOC);

/// Ports that accepted a connection, and whose listener is older than the agent, in a namespace whose listeners the
/// agent cannot read. One accepted connection proves that all others on the port are inbound, too. The value is unused.
#[map]
static ACCEPTING: LruHashMap<Port, u8> = LruHashMap::with_max_entries(MAX_ACCEPTING, 0);

#[repr(C)]
#[derive(Clone, Copy)]
struct Connection {
    owner: Owner,
    started_ns: u64,
    /// [`socket_id`] once established; [`CONNECTING`] or [`SIMULTANEOUS_OPEN`] before. Identifies the socket: the
    /// kernel skips a program that interrupts itself, so a socket may close unseen, and another one reuse its address.
    id: u64,
}

/// The socket has sent its SYN.
const CONNECTING: u64 = 0;
/// The socket has sent its SYN, and received one of the peer before an answer.
const SIMULTANEOUS_OPEN: u64 = 1;

// include/uapi/asm-generic/errno.h
pub(crate) const ETIMEDOUT: u32 = 110;
const ECONNREFUSED: u32 = 111;

pub(crate) const EACCES: u32 = 13;
const EADDRNOTAVAIL: u32 = 99;
pub(crate) const ENETUNREACH: u32 = 101;
pub(crate) const EHOSTUNREACH: u32 = 113;

#[inline(never)]
pub(crate) fn connecting(sk: *const u8) {
    let connection = Connection { owner: caller(), started_ns: now_ns(), id: CONNECTING };
    // If the map is full, the least recently used entry is evicted.
    let _ = CONNECTIONS.insert(&(sk as u64), connection, 0);
}

/// Owner of a socket that called `connect`; `None` if that was another socket at the same address, or is not known.
#[inline(always)]
pub(crate) fn connector(sk: *const u8) -> Option<Owner> {
    let connection = CONNECTIONS.get_ptr(&(sk as u64))?;
    // SAFETY: a map value.
    let connection = unsafe { &*connection };
    if connection.id != socket_id(sk) {
        return None;
    }
    Some(connection.owner)
}

/// Direction of a connection, and 1 if it is the agent's own, else 0.
#[inline(always)]
pub(crate) fn opener(sk: Sock) -> (u32, u32) {
    if let Some(owner) = connector(sk.address) {
        return (direction::OUTBOUND, owner.is_agent);
    }
    let port = local_port(sk);
    if let Some(listener) = LISTENERS.get_ptr(&port) {
        // SAFETY: a map value.
        return (direction::INBOUND, unsafe { (*listener).owner.is_agent });
    }
    if ACCEPTING.get_ptr(&port).is_some() {
        return (direction::INBOUND, 0);
    }
    // Older than the agent. If every listener of the namespace is known, a port without one belongs to a client.
    if LISTENERS.get_ptr(&Port { port: Port::ALL, ..port }).is_some() {
        return (direction::OUTBOUND, 0);
    }
    (direction::UNKNOWN, 0)
}

/// Both ends connect at the same time.
pub(crate) fn simultaneous_open(sk: *const u8) {
    if let Some(connection) = CONNECTIONS.get_ptr_mut(&(sk as u64)) {
        // SAFETY: a map value.
        unsafe { (*connection).id = SIMULTANEOUS_OPEN };
    }
}

/// A peer has connected. Only accepted connections and simultaneous opens go from SYN_RECV to ESTABLISHED.
pub(crate) fn accepted(sk: Sock) {
    forget_samples(sk.address);
    let id = sk.address as u64;
    if let Some(connection) = CONNECTIONS.get_ptr_mut(&id) {
        // SAFETY: a map value.
        let connection = unsafe { &mut *connection };
        if connection.id == SIMULTANEOUS_OPEN {
            connection.id = socket_id(sk.address);
            return;
        }
        // The entry is of an earlier socket at this address.
        let _ = CONNECTIONS.remove(&id);
    }
    let port = local_port(sk);
    if LISTENERS.get_ptr(&port).is_none() && ACCEPTING.get_ptr(&port).is_none() {
        let _ = ACCEPTING.insert(&port, 1, 0);
    }
    edge::accepted(sk);
}

#[inline(never)]
pub(crate) fn connected(sk: Sock) {
    forget_samples(sk.address);
    let Some(connection) = CONNECTIONS.get_ptr_mut(&(sk.address as u64)) else { return };
    // SAFETY: a map value.
    let connection = unsafe { &mut *connection };
    if connection.id != CONNECTING {
        return;
    }
    connection.id = socket_id(sk.address);
    let Connection { owner, started_ns, .. } = *connection;
    if owner.is_agent != 0 {
        return;
    }
    let Some(run) = Run::begin(program::INET_SOCK_SET_STATE) else { return };
    let now = now_ns();
    let value_us = since(now, started_ns) / 1000;
    let key = destination(sk, direction::OUTBOUND as u8);
    edge::connected(owner.cgroup_id, &key, now);
    if GIVEN_UP.get_ptr(&key).is_some() {
        let _ = GIVEN_UP.remove(&key);
    }
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
        // A lower level is not a problem; a higher one was reported sample by sample, as spikes.
        Verdict::Shift if value_us <= before.mean() => return run.normal(),
        Verdict::Spike | Verdict::Shift => {}
    }
    emit(run, sk, &key, kind::CONNECT_SLOW, &owner, now, |event| {
        event.value_us = value_us;
        if let Some(tp) = tcp_sock(sk.address) {
            // SAFETY: a typed pointer and offsets of its fields.
            event.retransmits = unsafe { load(tp, &OFFSETS[net::TOTAL_RETRANS]) };
        }
        event.baseline = before;
    });
}

#[inline(never)]
pub(crate) fn connect_failed(sk: Sock) {
    let id = sk.address as u64;
    let Some(connection) = CONNECTIONS.get_ptr(&id) else { return };
    // SAFETY: a map value.
    let Connection { owner, started_ns, id: established } = unsafe { *connection };
    let _ = CONNECTIONS.remove(&id);
    // An entry that was established is of an earlier socket at this address.
    if established != CONNECTING || owner.is_agent != 0 {
        return;
    }
    let Some(run) = Run::begin(program::INET_SOCK_SET_STATE) else { return };
    let Some(tp) = tcp_sock(sk.address) else { return run.normal() };
    // SAFETY: typed pointers and offsets of their fields.
    let (errno, retransmits): (u32, u32) =
        unsafe { (load(sk.address, &OFFSETS[net::ERR]), load(tp, &OFFSETS[net::TOTAL_RETRANS])) };
    let now = now_ns();
    let value_us = since(now, started_ns) / 1000;
    let key = destination(sk, direction::OUTBOUND as u8);
    let mut given_up = 0;
    let kind = match errno {
        ECONNREFUSED => kind::CONNECTION_REFUSED,
        ETIMEDOUT => kind::CONNECTION_TIMEOUT,
        // EACCES: over IPv6, something on the path forbids it; over IPv4 that is EHOSTUNREACH.
        EHOSTUNREACH | ENETUNREACH | EACCES => kind::CONNECTION_UNREACHABLE,
        // The application gave up, and a SYN had been retransmitted: there was no answer.
        0 if retransmits > 0 => kind::CONNECTION_TIMEOUT,
        // No local port was available, so no SYN was sent.
        0 if local_port_number(sk.address) == 0 => kind::CONNECTION_UNREACHABLE,
        0 if value_us >= MIN_GIVEN_UP_US => {
            given_up = count_given_up(&key, now);
            if given_up < MIN_GIVEN_UP {
                return run.normal();
            }
            kind::CONNECTION_TIMEOUT
        }
        _ => return run.normal(),
    };
    edge::failed(owner.cgroup_id, &key, now);
    emit(run, sk, &key, kind, &owner, now, |event| {
        event.value_us = value_us;
        event.retransmits = retransmits;
        event.segments = given_up as u32;
        event.errno = if kind == kind::CONNECTION_UNREACHABLE && errno == 0 { EADDRNOTAVAIL } else { errno };
    });
}

/// Counts a connect that was given up early. Returns the length of the current streak.
#[inline(always)]
fn count_given_up(key: &Destination, now: u64) -> u64 {
    if let Some(streak) = GIVEN_UP.get_ptr_mut(key) {
        // SAFETY: a map value; CPUs that race here lose a count.
        let streak = unsafe { &mut *streak };
        if since(now, streak.last_ns) >= STREAK_NS {
            streak.times = 0;
        }
        (streak.times, streak.last_ns) = (streak.times.wrapping_add(1), now);
        return streak.times;
    }
    let _ = GIVEN_UP.insert(key, GivenUp { times: 1, last_ns: now }, 0);
    1
}

#[inline(never)]
pub(crate) fn listening(sk: Sock) {
    let mut owner = caller();
    let port = local_port(sk);
    let mut sockets = 1;
    if let Some(listener) = LISTENERS.get_ptr(&port) {
        // SAFETY: a map value; two sockets that start or stop listening on a port simultaneously may be miscounted.
        let before = unsafe { &*listener };
        sockets += before.sockets;
        // Another workload listens on the same port of other local addresses: the port does not tell the owner.
        if before.owner.cgroup_id != owner.cgroup_id {
            owner = Owner::default();
        }
    }
    let _ = LISTENERS.insert(&port, Listener { owner, sockets }, 0);
}

pub(crate) fn stopped_listening(sk: Sock) {
    let port = local_port(sk);
    let Some(listener) = LISTENERS.get_ptr_mut(&port) else {
        let _ = ACCEPTING.remove(&port);
        return;
    };
    // SAFETY: a map value.
    let listener = unsafe { &mut *listener };
    if listener.sockets > 1 {
        listener.sockets -= 1;
    } else {
        let _ = LISTENERS.remove(&port);
    }
}

pub(crate) fn closed(sk: *const u8) {
    forget_samples(sk);
    let _ = CONNECTIONS.remove(&(sk as u64));
}

/// The current process as an owner.
#[inline(always)]
pub(crate) fn caller() -> Owner {
    let current = Current::get(&constant(&AGENT), &OFFSETS[net::LEADER], &OFFSETS[net::COMM]);
    Owner {
        cgroup_id: current.cgroup_id,
        pid: current.pid,
        is_agent: u32::from(current.is_agent),
        comm: current.comm,
    }
}
