//! Connects without a route. They fail before the socket changes state, so the hook on state changes does not see them.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use tapio_common::network::{Destination, direction, kind};
use tapio_ebpf::{Run, now_ns};

use crate::{
    connect::{EACCES, EHOSTUNREACH, ENETUNREACH, caller},
    edge,
    event::{AF_INET, AF_INET6, Sock, emit, is_loopback, v4_mapped},
};

/// `struct sockaddr_in` and `struct sockaddr_in6`, include/uapi/linux/in.h and in6.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct Address {
    family: u16,
    port: u16,
    v4: u32,
    v6: [u8; 16],
}

/// `connect` returned `value` for this address.
#[inline(always)]
pub(crate) fn returned(sk: *const u8, address: *const u8, value: i32, program: u32) {
    let errno = value.wrapping_neg() as u32;
    if !matches!(errno, ENETUNREACH | EHOSTUNREACH | EACCES) {
        return;
    }
    // The address has no BTF type on some kernels.
    // SAFETY: the helper tolerates any address. Of a shorter address, the bytes after it are not used.
    let Ok(given) = (unsafe { bpf_probe_read_kernel(address.cast::<Address>()) }) else { return };
    let remote = match given.family {
        AF_INET => v4_mapped(given.v4),
        AF_INET6 => given.v6,
        _ => return,
    };
    // For an IPv4-mapped address, tcp_v6_connect calls tcp_v4_connect, which was seen.
    let words: [u32; 4] = bytemuck::cast(remote);
    if given.family == AF_INET6 && words[0] == 0 && words[1] == 0 && words[2] == u32::to_be(0xffff) {
        return;
    }
    let owner = caller();
    if owner.is_agent != 0 {
        return;
    }
    let Some(run) = Run::begin(program) else { return };
    let sk = Sock::read(sk);
    let port = u16::from_be(given.port);
    let netns = if is_loopback(&remote) { sk.netns } else { 0 };
    let key = Destination { address: remote, netns, port, direction: direction::OUTBOUND as u16 };
    let now = now_ns();
    edge::failed(owner.cgroup_id, &key, now);
    emit(run, sk, &key, kind::CONNECTION_UNREACHABLE, &owner, now, |event| {
        (event.remote, event.remote_port) = (remote, port);
        // No SYN was sent, even if the socket was bound to a port.
        event.local_port = 0;
        event.errno = errno;
    });
}
