//! Connects and closes: who opened or awaits connections, how handshakes went, and which came to nothing.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{HashMap, LruHashMap},
};
use tapio_common::{
    baseline::{Baseline, Verdict},
    network::{self as net, Destination, Listener, Owner, Port, direction, kind, program},
};
use tapio_ebpf::{Current, Run, load, now_ns};

use crate::{
    AGENT, OFFSETS, SETTINGS, constant,
    event::{destination, emit, local_port, local_port_number},
    round_trip::MAX_DESTINATIONS,
    socket::{forget_samples, socket_id, tcp_sock},
};

/// Ports with a listener, over all network namespaces; one more counts as not listening.
const MAX_LISTENERS: u32 = 65_536;

/// Connections whose owner is known.
const MAX_CONNECTIONS: u32 = 65_536;

/// Handshakes per destination.
#[map]
static HANDSHAKES: LruHashMap<Destination, Baseline> = LruHashMap::with_max_entries(MAX_DESTINATIONS, 0);

/// Destinations of connects that were given up early, none answered in between.
#[map]
static GIVEN_UP: LruHashMap<Destination, GivenUp> = LruHashMap::with_max_entries(MAX_GIVEN_UP, 0);

/// See [`GIVEN_UP`]; the one used longest ago makes room.
const MAX_GIVEN_UP: u32 = 4_096;

#[repr(C)]
#[derive(Clone, Copy)]
struct GivenUp {
    times: u64,
    last_ns: u64,
}

/// So many in a row are a timeout, though no SYN was retransmitted.
const TIMES_GIVEN_UP: u64 = 3;
/// Clients that try two addresses at once give up the slower one when the other one answers, mostly within this.
const LEAST_PATIENCE_US: u64 = 100_000;
/// After so long the row is another.
const ROW_NS: u64 = 300_000_000_000;

/// Ports that accepted a connection, and whose listener is older than the agent, in a namespace that it cannot read: one
/// connection proves what all others there are.
const MAX_ACCEPTING: u32 = 8_192;

/// Who connected, by address of the socket; whether it is still that socket, its entry knows.
#[map]
static CONNECTIONS: LruHashMap<u64, Connection> = LruHashMap::with_max_entries(MAX_CONNECTIONS, 0);

/// Who listens.
#[map]
pub(crate) static LISTENERS: HashMap<Port, Listener> =
    HashMap::with_max_entries(MAX_LISTENERS, BPF_F_NO_PREALLOC);

/// See [`MAX_ACCEPTING`]; the value says nothing.
#[map]
static ACCEPTING: LruHashMap<Port, u8> = LruHashMap::with_max_entries(MAX_ACCEPTING, 0);

#[repr(C)]
#[derive(Clone, Copy)]
struct Connection {
    owner: Owner,
    started_ns: u64,
    /// [`socket_id`] of what is established, [`CONNECTING`] or [`CROSSED`] before. The kernel leaves out a run of a program
    /// that interrupts itself, so that a socket may end unseen and another one come to its address.
    id: u64,
}

/// Only its own SYN is known.
const CONNECTING: u64 = 0;
/// The peer's SYN came before its answer: both connect.
const CROSSED: u64 = 1;

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
    // A map without room drops the oldest.
    let _ = CONNECTIONS.insert(&(sk as u64), connection, 0);
}

/// The owner of a socket that connected, where this is that socket.
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

/// Which side opened a connection, where that is known, and whether it is one of the agent's own: 1.
#[inline(always)]
pub(crate) fn opened(sk: *const u8) -> (u32, u32) {
    if let Some(owner) = connector(sk) {
        return (direction::OUTBOUND, owner.own);
    }
    let port = local_port(sk);
    if let Some(listener) = LISTENERS.get_ptr(&port) {
        // SAFETY: a map value.
        return (direction::INBOUND, unsafe { (*listener).owner.own });
    }
    if ACCEPTING.get_ptr(&port).is_some() {
        return (direction::INBOUND, 0);
    }
    // Older than the agent. Where all that listens is known, what does not has connected.
    if LISTENERS.get_ptr(&Port { port: Port::ALL, ..port }).is_some() {
        return (direction::OUTBOUND, 0);
    }
    (direction::UNKNOWN, 0)
}

/// Both connect at once.
pub(crate) fn crossed(sk: *const u8) {
    if let Some(connection) = CONNECTIONS.get_ptr_mut(&(sk as u64)) {
        // SAFETY: a map value.
        unsafe { (*connection).id = CROSSED };
    }
}

/// A peer has connected: only what listens comes from SYN_RECV, but for two that connect to each other at once.
pub(crate) fn accepted(sk: *const u8) {
    forget_samples(sk);
    let id = sk as u64;
    if let Some(connection) = CONNECTIONS.get_ptr_mut(&id) {
        // SAFETY: a map value.
        let connection = unsafe { &mut *connection };
        if connection.id == CROSSED {
            connection.id = socket_id(sk);
            return;
        }
        // Of a socket that was here before.
        let _ = CONNECTIONS.remove(&id);
    }
    let port = local_port(sk);
    if LISTENERS.get_ptr(&port).is_none() && ACCEPTING.get_ptr(&port).is_none() {
        let _ = ACCEPTING.insert(&port, 1, 0);
    }
}

#[inline(never)]
pub(crate) fn connected(sk: *const u8) {
    forget_samples(sk);
    let Some(connection) = CONNECTIONS.get_ptr_mut(&(sk as u64)) else { return };
    // SAFETY: a map value.
    let connection = unsafe { &mut *connection };
    if connection.id != CONNECTING {
        return;
    }
    connection.id = socket_id(sk);
    let Connection { owner, started_ns, .. } = *connection;
    if owner.own != 0 {
        return;
    }
    let Some(run) = Run::begin(program::INET_SOCK_SET_STATE) else { return };
    let now = now_ns();
    let value_us = now.wrapping_sub(started_ns) / 1000;
    let key = destination(sk, direction::OUTBOUND as u8);
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

#[inline(never)]
pub(crate) fn not_connected(sk: *const u8) {
    let id = sk as u64;
    let Some(connection) = CONNECTIONS.get_ptr(&id) else { return };
    // SAFETY: a map value.
    let Connection { owner, started_ns, id: established } = unsafe { *connection };
    let _ = CONNECTIONS.remove(&id);
    // One that was established is another socket's, which was here before.
    if established != CONNECTING || owner.own != 0 {
        return;
    }
    let Some(run) = Run::begin(program::INET_SOCK_SET_STATE) else { return };
    let Some(tp) = tcp_sock(sk) else { return run.normal() };
    // SAFETY: typed pointers and offsets of their fields.
    let (errno, retransmits): (u32, u32) =
        unsafe { (load(sk, &OFFSETS[net::ERR]), load(tp, &OFFSETS[net::TOTAL_RETRANS])) };
    let now = now_ns();
    let value_us = now.wrapping_sub(started_ns) / 1000;
    let key = destination(sk, direction::OUTBOUND as u8);
    let mut given_up = 0;
    let kind = match errno {
        ECONNREFUSED => kind::CONNECTION_REFUSED,
        ETIMEDOUT => kind::CONNECTION_TIMEOUT,
        // The last: over IPv6 what is forbidden on the way, which over IPv4 makes the host unreachable.
        EHOSTUNREACH | ENETUNREACH | EACCES => kind::CONNECTION_UNREACHABLE,
        // The application gave up; it had reason to where the SYN had to be sent again.
        0 if retransmits > 0 => kind::CONNECTION_TIMEOUT,
        // No SYN has a port to come from.
        0 if local_port_number(sk) == 0 => kind::CONNECTION_UNREACHABLE,
        0 if value_us >= LEAST_PATIENCE_US => {
            given_up = give_up(&key, now);
            if given_up < TIMES_GIVEN_UP {
                return run.normal();
            }
            kind::CONNECTION_TIMEOUT
        }
        _ => return run.normal(),
    };
    emit(run, sk, &key, kind, &owner, now, |event| {
        event.value_us = value_us;
        event.retransmits = retransmits;
        event.segments = given_up as u32;
        event.errno = if kind == kind::CONNECTION_UNREACHABLE && errno == 0 { EADDRNOTAVAIL } else { errno };
    });
}

/// Counts a connect that was given up early. How many of the same row there were.
#[inline(always)]
fn give_up(key: &Destination, now: u64) -> u64 {
    if let Some(row) = GIVEN_UP.get_ptr_mut(key) {
        // SAFETY: a map value; CPUs that race here lose a count.
        let row = unsafe { &mut *row };
        if now.wrapping_sub(row.last_ns) >= ROW_NS {
            row.times = 0;
        }
        (row.times, row.last_ns) = (row.times.wrapping_add(1), now);
        return row.times;
    }
    let _ = GIVEN_UP.insert(key, GivenUp { times: 1, last_ns: now }, 0);
    1
}

#[inline(never)]
pub(crate) fn listening(sk: *const u8) {
    let mut owner = caller();
    let port = local_port(sk);
    let mut sockets = 1;
    if let Some(listener) = LISTENERS.get_ptr(&port) {
        // SAFETY: a map value; two sockets that begin or end to listen on one port at once can be miscounted.
        let before = unsafe { &*listener };
        sockets += before.sockets;
        // On other addresses of this host another workload listens: whose a connection is is not known by the port.
        if before.owner.cgroup_id != owner.cgroup_id {
            owner = Owner::default();
        }
    }
    let _ = LISTENERS.insert(&port, Listener { owner, sockets }, 0);
}

pub(crate) fn not_listening(sk: *const u8) {
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

/// The running process as an owner.
#[inline(always)]
pub(crate) fn caller() -> Owner {
    let current = Current::get(&constant(&AGENT), &OFFSETS[net::LEADER], &OFFSETS[net::COMM]);
    Owner {
        cgroup_id: current.cgroup_id,
        pid: current.pid,
        own: u32::from(current.is_agent),
        comm: current.comm,
    }
}
