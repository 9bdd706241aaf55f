//! What is remembered of each socket that round trips are read of.

use aya_ebpf::{helpers::generated::bpf_skc_to_tcp_sock, macros::map, maps::Array};
use tapio_common::network as net;
use tapio_ebpf::load;

use crate::{OFFSETS, connect::opened, event::local_port_number};

/// Slots for the last round trip of a socket; a power of two.
const SOCKETS_LEN: u32 = 65_536;

/// The last round trips of each socket, by a hash of its address: a cache, where two sockets that meet in a
/// slot forget each other.
#[map]
static SOCKETS: Array<Socket> = Array::with_max_entries(SOCKETS_LEN, 0);

/// Less than a cache line.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Socket {
    /// See [`socket_id`]; another one's is a miss, 0 is free.
    pub(crate) id: u64,
    /// Lower half of `rack.mstamp` at the last sample.
    pub(crate) stamp: u32,
    /// Least sample of the block before.
    pub(crate) before: u32,
    /// Least sample of this block.
    pub(crate) least: u32,
    /// Least [`certain`] part of a sample of the block before.
    pub(crate) certain_before: u32,
    /// The same of this block.
    pub(crate) certain_least: u32,
    /// Least sample ever.
    pub(crate) ever: u32,
    /// When the last segment of the block before was sent; lower half of `rack.mstamp`.
    pub(crate) since: u32,
    /// What the last segment acknowledged, as a sequence number.
    ack: u32,
    /// The same in bytes.
    pub(crate) acked: u32,
    /// `segs_out` at the last sample.
    pub(crate) segs_out: u32,
    /// [`Path::tag`] of its path; another one's there: the path has made room.
    pub(crate) tag: u32,
    /// Where its path is.
    pub(crate) path: u16,
    /// Samples in this block.
    pub(crate) samples: u8,
    /// A [`net::direction`], [`OWN`], [`ANSWER`].
    pub(crate) flags: u8,
}

impl Socket {
    #[inline(always)]
    pub(crate) const fn direction(&self) -> u8 {
        self.flags & !(OWN | ANSWER)
    }

    /// Which side opened it is known.
    #[inline(always)]
    pub(crate) const fn is_known(&self) -> bool {
        self.direction() != net::direction::UNKNOWN as u8
    }

    /// The last segment carried data.
    #[inline(always)]
    pub(crate) const fn is_answer(&self) -> bool {
        self.flags & ANSWER != 0
    }

    /// Remembers a segment for the sample that it brings, which is read at the next one.
    #[inline(always)]
    pub(crate) fn note(&mut self, segment: &Segment) {
        let acked = segment.ack.wrapping_sub(self.ack);
        // One that came late acknowledges less than is known.
        let acked = if acked.cast_signed() > 0 { acked } else { 0 };
        self.acked = if self.ack == 0 { 0 } else { acked };
        self.ack = segment.ack;
        self.flags = if segment.seq == segment.end { self.flags & !ANSWER } else { self.flags | ANSWER };
    }

    #[inline(always)]
    pub(crate) const fn is_own(&self) -> bool {
        self.flags & OWN != 0
    }
}

/// A segment as it comes: sequence numbers.
pub(crate) struct Segment {
    /// Of its first byte.
    pub(crate) seq: u32,
    /// Of the byte after its last.
    pub(crate) end: u32,
    /// What it acknowledges.
    pub(crate) ack: u32,
}

/// A socket of the agent itself.
const OWN: u8 = 0x80;
/// The last segment carried data.
const ANSWER: u8 = 0x40;

/// The `tcp_sock` around a `sock`, as a typed pointer.
#[inline(always)]
pub(crate) fn tcp_sock(sk: *const u8) -> Option<*const u8> {
    // SAFETY: a typed pointer; the helper answers null for what is no TCP socket.
    let tp = unsafe { bpf_skc_to_tcp_sock(sk.cast_mut().cast()) };
    if tp.is_null() { None } else { Some(tp.cast_const().cast()) }
}

/// What tells a connection in its slot: the kernel's hash of it, and its ports. The verifier lets no program
/// calculate with the socket's address.
#[inline(always)]
pub(crate) fn socket_id(sk: *const u8) -> u64 {
    // SAFETY: a typed pointer and offsets of its fields.
    let hash: u32 = unsafe { load(sk, &OFFSETS[net::HASH]) };
    // SAFETY: as above.
    let remote: u16 = unsafe { load(sk, &OFFSETS[net::DPORT]) };
    u64::from(local_port_number(sk)) << 48 | u64::from(remote) << 32 | u64::from(hash)
}

#[inline(always)]
pub(crate) fn slot(id: u64) -> Option<&'static mut Socket> {
    let socket = SOCKETS.get_ptr_mut(id as u32 & (SOCKETS_LEN - 1))?;
    // SAFETY: a map value. Runs for one socket are under its lock.
    Some(unsafe { &mut *socket })
}

/// A socket seen for the first time.
#[inline(always)]
pub(crate) fn meet(sk: *const u8, id: u64, stamp: u32) -> Socket {
    let (direction, own) = opened(sk);
    let mut flags = direction as u8;
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
        since: stamp,
        ack: 0,
        acked: 0,
        segs_out: 0,
        tag: 0,
        path: 0,
        samples: 0,
        flags,
    }
}

/// The socket begins or ends: another one may come to its address.
#[inline(always)]
pub(crate) fn forget_samples(sk: *const u8) {
    let id = socket_id(sk);
    if let Some(socket) = slot(id)
        && socket.id == id
    {
        socket.id = 0;
    }
}
