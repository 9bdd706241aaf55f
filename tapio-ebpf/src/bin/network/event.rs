//! Events about a socket: its addresses, its destination, its owner.

use tapio_common::{
    CGROUP_V1, CooldownKey, Header,
    network::{self as net, Destination, NetworkEvent, Owner, Port, direction},
};
use tapio_ebpf::{Run, is_absent, load, load_words};

use crate::{
    OFFSETS, SETTINGS,
    connect::{LISTENERS, connector},
    constant,
    socket::tcp_sock,
};

// include/linux/socket.h, include/uapi/linux/in.h
pub(crate) const AF_INET: u16 = 2;
pub(crate) const AF_INET6: u16 = 10;

/// Owner of a socket, as far as it is known. Never the current task, which is arbitrary on most hooks.
#[inline(always)]
pub(crate) fn owner_of(sk: Sock, key: &Destination) -> Owner {
    if let Some(owner) = connector(sk.address) {
        return owner;
    }
    let mut owner = Owner::default();
    if u32::from(key.direction) == direction::INBOUND
        && let Some(listener) = LISTENERS.get_ptr(&local_port(sk))
    {
        // SAFETY: a map value.
        owner = unsafe { (*listener).owner };
    }
    if let Some(cgroup_id) = cgroup(sk.address) {
        // Another process listens on the same port of another address. Ids of cgroup v1 cannot be compared.
        if owner.cgroup_id != cgroup_id && owner.cgroup_id & CGROUP_V1 == 0 {
            owner = Owner::default();
        }
        owner.cgroup_id = cgroup_id;
    }
    owner
}

/// Id of the cgroup in which the socket was created. `None` before kernel 5.15 and its backports: there the field is
/// not a typed pointer, and a helper would have to read it, which lockdown forbids.
#[inline(always)]
fn cgroup(sk: *const u8) -> Option<u64> {
    if is_absent(&OFFSETS[net::CGROUP]) {
        return None;
    }
    // SAFETY: typed pointers and offsets of their fields. Fields behind a null pointer read as zero.
    let id: u64 = unsafe {
        let cgroup: *const u8 = load(sk, &OFFSETS[net::CGROUP]);
        let node: *const u8 = load(cgroup, &OFFSETS[net::CGROUP_KN]);
        load(node, &OFFSETS[net::KN_ID])
    };
    (id != 0).then_some(id)
}

/// A kernel socket and its network namespace. That is read once, where a program begins: newer verifiers search all types of
/// the kernel for each pointer that a program reads, on each path.
#[derive(Clone, Copy)]
pub(crate) struct Sock {
    pub(crate) address: *const u8,
    pub(crate) netns: u32,
}

impl Sock {
    #[inline(always)]
    pub(crate) fn read(address: *const u8) -> Self {
        // SAFETY: a typed pointer and offsets of its fields.
        let net: *const u8 = unsafe { load(address, &OFFSETS[net::NET]) };
        // SAFETY: as above.
        let netns = unsafe { load(net, &OFFSETS[net::NET_INUM]) };
        Self { address, netns }
    }
}

#[inline(always)]
pub(crate) fn local_port(sk: Sock) -> Port {
    Port { netns: sk.netns, port: u32::from(local_port_number(sk.address)) }
}

/// Local port; 0 if the socket has none yet.
#[inline(always)]
pub(crate) fn local_port_number(sk: *const u8) -> u16 {
    // SAFETY: a typed pointer and offsets of its fields.
    let port: u16 = unsafe { load(sk, &OFFSETS[net::SPORT]) };
    if port != 0 {
        return port;
    }
    // A port that the kernel chose is released before the close is reported.
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
    unsafe { (v4_mapped(load(sk, &OFFSETS[net::SADDR])), v4_mapped(load(sk, &OFFSETS[net::DADDR]))) }
}

/// # Safety
/// As [`load`].
#[inline(always)]
unsafe fn load6(sk: *const u8, offset: &u32) -> [u8; 16] {
    // SAFETY: guaranteed by the caller.
    bytemuck::cast(unsafe { load_words::<2>(sk, offset) })
}

#[inline(always)]
pub(crate) fn v4_mapped(address: u32) -> [u8; 16] {
    bytemuck::cast([0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), address])
}

/// Key of the connection's baselines.
#[inline(always)]
pub(crate) fn destination(sk: Sock, direction: u8) -> Destination {
    let (_, address) = addresses(sk.address);
    // SAFETY: a typed pointer and offsets of its fields.
    let remote = u16::from_be(unsafe { load(sk.address, &OFFSETS[net::DPORT]) });
    let port = net::service_port(u32::from(direction), local_port_number(sk.address), remote);
    let netns = if is_loopback(&address) { sk.netns } else { 0 };
    Destination { address, netns, port, direction: u16::from(direction) }
}

/// 127.0.0.0/8 and ::1. Each network namespace has its own loopback.
#[inline(always)]
pub(crate) fn is_loopback(address: &[u8; 16]) -> bool {
    let words: [u32; 4] = bytemuck::cast(*address);
    if words[0] != 0 || words[1] != 0 {
        return false;
    }
    if words[2] == 0 { u32::from_be(words[3]) == 1 } else { words[3].to_ne_bytes()[0] == 127 }
}

/// Emits an event about a socket. `fill` sets the fields that are specific to its kind.
#[inline(always)]
pub(crate) fn emit(
    run: Run,
    sk: Sock,
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
    run.emit_unless_cooling_down(
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
            (event.local, event.remote) = addresses(sk.address);
            event.local_port = local_port_number(sk.address);
            // SAFETY: a typed pointer and offsets of its fields.
            event.remote_port = u16::from_be(unsafe { load(sk.address, &OFFSETS[net::DPORT]) });
            event.netns = sk.netns;
            fill(event);
        },
    );
}
