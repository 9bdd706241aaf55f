//! State of each socket whose round trips are read.

use aya_ebpf::{helpers::generated::bpf_skc_to_tcp_sock, macros::map, maps::Array};
use tapio_common::network as net;
use tapio_ebpf::word;

use crate::{
    connect::opener,
    event::{Sock, local_port_number},
};

/// Number of slots in [`SOCKETS`]; a power of two.
const SOCKETS_LEN: u32 = 65_536;

/// Recent round trips of each socket, indexed by the kernel's hash of the connection. A cache: two sockets that share a
/// slot overwrite each other.
#[map]
static SOCKETS: Array<Socket> = Array::with_max_entries(SOCKETS_LEN, 0);

/// State of one socket, the size of a cache line.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Socket {
    /// [`socket_id`] of the socket in this slot; 0 if the slot is free.
    pub(crate) id: u64,
    /// Lower half of `rack.mstamp` at the last sample.
    pub(crate) stamp: u32,
    /// Lowest sample of the previous block, in microseconds.
    pub(crate) before: u32,
    /// Lowest sample of the current block, in microseconds.
    pub(crate) lowest: u32,
    /// Lowest certain part of a sample of the previous block, in microseconds.
    pub(crate) certain_before: u32,
    /// Lowest certain part of a sample of the current block, in microseconds.
    pub(crate) certain_lowest: u32,
    /// Lowest sample of the connection, in microseconds.
    pub(crate) lowest_ever: u32,
    /// When the last segment of the previous block was sent; lower half of `rack.mstamp`.
    pub(crate) since: u32,
    /// Acknowledgement number of the last segment received, and of the one before it; 0 if there was none.
    ack: u32,
    ack_before: u32,
    /// Length of the last segment received, in sequence numbers.
    length: u32,
    /// `segs_out` at the last reading or retransmission.
    pub(crate) segs_out: u32,
    /// `Path::tag` of its path. If the path has another tag, it was evicted.
    pub(crate) tag: u32,
    /// Index of its path.
    pub(crate) path: u16,
    /// Samples in the current block. If it overflows, the block waits for some more.
    pub(crate) samples: u16,
    /// A [`net::direction`] with [`AGENT_SOCKET`].
    pub(crate) flags: u8,
}

impl Socket {
    #[inline(always)]
    pub(crate) const fn direction(&self) -> u8 {
        self.flags & !AGENT_SOCKET
    }

    /// Returns true if it is known which side opened the connection.
    #[inline(always)]
    pub(crate) const fn has_direction(&self) -> bool {
        self.direction() != net::direction::UNKNOWN as u8
    }

    /// Returns true if the last segment received carried data.
    #[inline(always)]
    pub(crate) const fn carried_data(&self) -> bool {
        self.length != 0
    }

    /// Bytes that the last segment received acknowledged.
    #[inline(always)]
    pub(crate) const fn acked(&self) -> u32 {
        let acked = self.ack.wrapping_sub(self.ack_before);
        // A segment that arrived late acknowledges less than earlier ones.
        if self.ack_before == 0 || acked.cast_signed() < 0 { 0 } else { acked }
    }

    /// Records a segment, from its control block, which TCP fills before it processes the segment. The RTT sample that it
    /// brings is read when the next one arrives.
    #[inline(always)]
    pub(crate) fn record_segment(&mut self, skb: *const u8) {
        self.ack_before = self.ack;
        // SAFETY: a typed pointer, and offsets within its member of 48 bytes.
        unsafe {
            self.ack = word::<{ net::SEGMENT_ACK }>(skb) as u32;
            let (start, end) = (word::<{ net::SEGMENT_SEQ }>(skb), word::<{ net::SEGMENT_END }>(skb));
            self.length = end.wrapping_sub(start) as u32;
        }
    }

    #[inline(always)]
    pub(crate) const fn belongs_to_agent(&self) -> bool {
        self.flags & AGENT_SOCKET != 0
    }
}

/// The socket is the agent's own.
const AGENT_SOCKET: u8 = 0x80;

/// The `tcp_sock` around a `sock`, as a typed pointer.
#[inline(always)]
pub(crate) fn tcp_sock(sk: *const u8) -> Option<*const u8> {
    // SAFETY: a typed pointer; the helper returns null for a socket that is not TCP.
    let tp = unsafe { bpf_skc_to_tcp_sock(sk.cast_mut().cast()) };
    if tp.is_null() { None } else { Some(tp.cast_const().cast()) }
}

/// Identifies a connection within its slot: the kernel's hash of it, and its ports. The socket's address cannot be
/// used, since the verifier forbids arithmetic on it.
#[inline(always)]
pub(crate) fn socket_id(sk: *const u8) -> u64 {
    let id = established_id(sk);
    if id >> 48 == 0 { id | u64::from(local_port_number(sk)) << 48 } else { id }
}

/// [`socket_id`] of a socket that has its local port.
#[inline(always)]
pub(crate) fn established_id(sk: *const u8) -> u64 {
    // SAFETY: a typed pointer and fields of its struct.
    unsafe { word::<{ net::PORTS }>(sk) << 32 | word::<{ net::HASH }>(sk) }
}

#[inline(always)]
pub(crate) fn slot(id: u64) -> Option<&'static mut Socket> {
    let socket = SOCKETS.get_ptr_mut(id as u32 & (SOCKETS_LEN - 1))?;
    // SAFETY: a map value. Runs for the same socket hold its lock.
    Some(unsafe { &mut *socket })
}

/// State of a socket that is seen for the first time.
#[inline(always)]
pub(crate) fn new_socket(sk: Sock, id: u64, stamp: u32) -> Socket {
    let (direction, is_agent) = opener(sk);
    let mut flags = direction as u8;
    if is_agent != 0 {
        flags |= AGENT_SOCKET;
    }
    Socket {
        id,
        stamp,
        before: u32::MAX,
        lowest: u32::MAX,
        certain_before: u32::MAX,
        certain_lowest: u32::MAX,
        lowest_ever: u32::MAX,
        since: stamp,
        ack: 0,
        ack_before: 0,
        length: 0,
        segs_out: 0,
        tag: 0,
        path: 0,
        samples: 0,
        flags,
    }
}

/// Forgets the samples of a socket that opens or closes, since another one may reuse its slot.
#[inline(always)]
pub(crate) fn forget_samples(sk: *const u8) {
    let id = socket_id(sk);
    if let Some(socket) = slot(id)
        && socket.id == id
    {
        socket.id = 0;
    }
}
