//! What is reported of a socket: its addresses, its destination, its owner; and the telling.

use tapio_common::{
    CooldownKey, Header, VERSION_1,
    network::{self as net, Destination, NetworkEvent, Owner, Port, direction},
};
use tapio_ebpf::{Run, is_absent, load};

use crate::{
    OFFSETS, SETTINGS,
    connect::{LISTENERS, connector},
    constant,
    socket::tcp_sock,
};

// include/linux/socket.h, include/uapi/linux/in.h
pub(crate) const AF_INET: u16 = 2;
pub(crate) const AF_INET6: u16 = 10;

/// Whoever is known to own a socket. The running task is never asked.
#[inline(always)]
pub(crate) fn owner_of(sk: *const u8, key: &Destination) -> Owner {
    if let Some(owner) = connector(sk) {
        return owner;
    }
    let mut owner = Owner::default();
    if u32::from(key.direction) == direction::INBOUND
        && let Some(listener) = LISTENERS.get_ptr(&local_port(sk))
    {
        // SAFETY: a map value.
        owner = unsafe { (*listener).owner };
    }
    if let Some(cgroup_id) = cgroup(sk) {
        // Another one listens on the same port of another address. What is of version 1 cannot be compared.
        if owner.cgroup_id != cgroup_id && owner.cgroup_id & VERSION_1 == 0 {
            owner = Owner::default();
        }
        owner.cgroup_id = cgroup_id;
    }
    owner
}

/// The cgroup that the socket was made in. Not known before kernel 5.15 and its backports, where the field is no
/// typed pointer: a helper would read it, which lockdown forbids.
#[inline(always)]
fn cgroup(sk: *const u8) -> Option<u64> {
    if is_absent(&OFFSETS[net::CGROUP]) {
        return None;
    }
    // SAFETY: typed pointers and offsets of their fields; what is behind a null pointer reads as zero.
    let id: u64 = unsafe {
        let cgroup: *const u8 = load(sk, &OFFSETS[net::CGROUP]);
        let node: *const u8 = load(cgroup, &OFFSETS[net::CGROUP_KN]);
        load(node, &OFFSETS[net::KN_ID])
    };
    (id != 0).then_some(id)
}

#[inline(always)]
pub(crate) fn netns(sk: *const u8) -> u32 {
    // SAFETY: a typed pointer and offsets of its fields.
    let net: *const u8 = unsafe { load(sk, &OFFSETS[net::NET]) };
    // SAFETY: as above.
    unsafe { load(net, &OFFSETS[net::NET_INUM]) }
}

#[inline(always)]
pub(crate) fn local_port(sk: *const u8) -> Port {
    Port { netns: netns(sk), port: u32::from(local_port_number(sk)) }
}

/// 0 where it has none yet.
#[inline(always)]
pub(crate) fn local_port_number(sk: *const u8) -> u16 {
    // SAFETY: a typed pointer and offsets of its fields.
    let port: u16 = unsafe { load(sk, &OFFSETS[net::SPORT]) };
    if port != 0 {
        return port;
    }
    // A port that it did not ask for is given back before its end is reported.
    let Some(tp) = tcp_sock(sk) else { return 0 };
    // SAFETY: as above.
    u16::from_be(unsafe { load(tp, &OFFSETS[net::INET_SPORT]) })
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
pub(crate) fn mapped(address: u32) -> [u8; 16] {
    bytemuck::cast([0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), address])
}

/// What the baseline of a connection is kept for.
#[inline(always)]
pub(crate) fn destination(sk: *const u8, direction: u8) -> Destination {
    let (_, address) = addresses(sk);
    // SAFETY: a typed pointer and offsets of its fields.
    let remote = u16::from_be(unsafe { load(sk, &OFFSETS[net::DPORT]) });
    let port = net::service_port(u32::from(direction), local_port_number(sk), remote);
    let netns = if is_loopback(&address) { netns(sk) } else { 0 };
    Destination { address, netns, port, direction: u16::from(direction) }
}

/// 127.0.0.0/8 and ::1: each network namespace has its own.
#[inline(always)]
pub(crate) fn is_loopback(address: &[u8; 16]) -> bool {
    let words: [u32; 4] = bytemuck::cast(*address);
    if words[0] != 0 || words[1] != 0 {
        return false;
    }
    if words[2] == 0 { u32::from_be(words[3]) == 1 } else { words[3].to_ne_bytes()[0] == 127 }
}

/// Emits an event about a socket; `fill` adds what is particular to its kind.
#[inline(always)]
pub(crate) fn emit(
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
        |event: &mut NetworkEvent, suppressed| {
            event.header = Header {
                time_ns: now_ns,
                cgroup_id: owner.cgroup_id,
                pid: owner.pid,
                suppressed,
                comm: owner.comm,
            };
            event.kind = kind;
            event.direction = u32::from(key.direction);
            (event.local, event.remote) = addresses(sk);
            event.local_port = local_port_number(sk);
            // SAFETY: a typed pointer and offsets of its fields.
            event.remote_port = u16::from_be(unsafe { load(sk, &OFFSETS[net::DPORT]) });
            event.netns = netns(sk);
            fill(event);
        },
    );
}
