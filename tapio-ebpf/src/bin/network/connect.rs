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
    event::{destination, emit, local_port},
    round_trip::MAX_DESTINATIONS,
    socket::{forget_samples, tcp_sock},
};

/// Ports with a listener, over all network namespaces; one more counts as not listening.
const MAX_LISTENERS: u32 = 65_536;

/// Connections whose owner is known.
const MAX_CONNECTIONS: u32 = 65_536;

/// Handshakes per destination.
#[map]
static HANDSHAKES: LruHashMap<Destination, Baseline> = LruHashMap::with_max_entries(MAX_DESTINATIONS, 0);

/// Who connected, by address of the socket.
#[map]
pub(crate) static CONNECTIONS: LruHashMap<u64, Connection> = LruHashMap::with_max_entries(MAX_CONNECTIONS, 0);

/// Who listens.
#[map]
pub(crate) static LISTENERS: HashMap<Port, Listener> =
    HashMap::with_max_entries(MAX_LISTENERS, BPF_F_NO_PREALLOC);

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Connection {
    pub(crate) owner: Owner,
    pub(crate) started_ns: u64,
}

// include/uapi/asm-generic/errno.h
const ETIMEDOUT: u32 = 110;
const ECONNREFUSED: u32 = 111;

const EACCES: u32 = 13;
const ENETUNREACH: u32 = 101;
const EHOSTUNREACH: u32 = 113;

pub(crate) fn connecting(sk: *const u8) {
    let current = Current::get(&constant(&AGENT));
    let connection = Connection { owner: owner(&current), started_ns: now_ns() };
    // A map without room drops the oldest.
    let _ = CONNECTIONS.insert(&(sk as u64), connection, 0);
}

pub(crate) fn connected(sk: *const u8) {
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

pub(crate) fn not_connected(sk: *const u8) {
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
        // The last: over IPv6 what is forbidden on the way, which over IPv4 makes the host unreachable.
        EHOSTUNREACH | ENETUNREACH | EACCES => kind::CONNECTION_UNREACHABLE,
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

pub(crate) fn listening(sk: *const u8) {
    let mut owner = owner(&Current::get(&constant(&AGENT)));
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
    let mut port = local_port(sk);
    // A port that it did not ask for is given back before this is told.
    if port.port == 0
        && let Some(tp) = tcp_sock(sk)
    {
        // SAFETY: a typed pointer and an offset of its fields.
        port.port = u32::from(u16::from_be(unsafe { load(tp, &OFFSETS[net::INET_SPORT]) }));
    }
    let Some(listener) = LISTENERS.get_ptr_mut(&port) else { return };
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

#[inline(always)]
fn owner(current: &Current) -> Owner {
    Owner {
        cgroup_id: current.cgroup_id,
        pid: current.pid,
        own: u32::from(current.is_agent),
        comm: current.comm,
    }
}
