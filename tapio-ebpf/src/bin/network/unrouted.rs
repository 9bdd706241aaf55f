//! Connects that have nowhere to go: they fail before the socket changes its state, which is all that others see.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use tapio_common::network::{Destination, direction, kind};
use tapio_ebpf::{Run, now_ns};

use crate::{
    connect::{EACCES, EHOSTUNREACH, ENETUNREACH, caller},
    event::{AF_INET, AF_INET6, emit, is_loopback, mapped, netns},
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

/// `connect` to this address returned so much, of a socket of this family.
#[inline(always)]
pub(crate) fn returned(sk: *const u8, address: *const u8, value: i32, program: u32) {
    let errno = value.wrapping_neg() as u32;
    if !matches!(errno, ENETUNREACH | EHOSTUNREACH | EACCES) {
        return;
    }
    // The address has no type on all kernels.
    // SAFETY: the helper reads safely. What is shorter has other bytes after it, which are not looked at.
    let Ok(given) = (unsafe { bpf_probe_read_kernel(address.cast::<Address>()) }) else { return };
    let remote = match given.family {
        AF_INET => mapped(given.v4),
        AF_INET6 => given.v6,
        _ => return,
    };
    // Of a socket of IPv6 with an address of IPv4 the inner call was seen.
    let words: [u32; 4] = bytemuck::cast(remote);
    if given.family == AF_INET6 && words[0] == 0 && words[1] == 0 && words[2] == u32::to_be(0xffff) {
        return;
    }
    let owner = caller();
    if owner.own != 0 {
        return;
    }
    let Some(run) = Run::begin(program) else { return };
    let port = u16::from_be(given.port);
    let netns = if is_loopback(&remote) { netns(sk) } else { 0 };
    let key = Destination { address: remote, netns, port, direction: direction::OUTBOUND as u16 };
    emit(run, sk, &key, kind::CONNECTION_UNREACHABLE, &owner, now_ns(), |event| {
        (event.remote, event.remote_port) = (remote, port);
        // No SYN was sent, whatever port it was bound to.
        event.local_port = 0;
        event.errno = errno;
    });
}
