//! Packets: a glance at each, and a copy of those that matter.

use core::{
    ffi::c_void,
    mem::{MaybeUninit, transmute},
    ptr::{read_volatile, write_volatile},
};

use aya_ebpf::{
    bindings::bpf_dynptr,
    helpers::generated::{bpf_dynptr_read, bpf_probe_read_kernel},
};
use tapio_common::{
    KFUNC,
    dns::{self, MAX_NAME, MESSAGE_BYTES},
};
use tapio_ebpf::{is_absent, load};

use crate::{OFFSETS, SEED, constant, work::Work};

// include/uapi/linux/in.h, include/uapi/linux/icmpv6.h
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

// include/uapi/linux/if_ether.h, network order
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();
const VLAN: u16 = 0x8100_u16.to_be();

/// `ICMP_DEST_UNREACH`, `ICMPV6_DEST_UNREACH`: a destination is unreachable.
const UNREACHABLE: u32 = 3;
const UNREACHABLE_V6: u32 = 1;

/// Words of the headers that are copied: of IPv4 and TCP with all options, or of IPv6, ICMP and what it is about.
pub(crate) const HEADER_WORDS: usize = 32;
// Words of headers.
const IPV4_WORDS: usize = 5;
const IPV6_WORDS: usize = 10;
const UDP_WORDS: usize = 2;
const ICMP_WORDS: usize = 2;
/// Bytes up to the ports, of IPv6 and of IPv4 without options.
const GLANCE_BYTES: [u32; 2] = [(IPV6_WORDS as u32 + 1) * 4, (IPV4_WORDS as u32 + 1) * 4];
/// Mask of the fragment offset in an IPv4 header.
const FRAGMENT: u16 = 0x1fff;

/// A packet from its network header on.
pub(crate) struct Packet {
    /// The `sk_buff`.
    skb: *const u8,
    /// Address of the network header.
    start: u64,
    /// Its distance from the start of the data.
    offset: u32,
    /// Bytes from the network header on.
    len: u32,
    /// How many of them are in the buffer, and not in fragments.
    linear: u32,
    is_ipv4: bool,
}

/// What the headers of a packet say. Addresses are IPv6, with IPv4 mapped; ports are in network order.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Headers {
    pub(crate) source: [u32; 4],
    pub(crate) destination: [u32; 4],
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    /// [`UDP`] or [`TCP`].
    pub(crate) protocol: u16,
    /// For an ICMP message that a destination is unreachable, its code and one more; else 0. The other fields are then
    /// those of the packet that it is about.
    pub(crate) unreachable: u16,
    /// Where the DNS message starts, in bytes from the network header.
    message_at: u32,
}

impl Headers {
    /// Address and port of the local and the remote end of a packet that was received.
    #[inline(always)]
    pub(crate) const fn ends(&self) -> (([u32; 4], u16), ([u32; 4], u16)) {
        ((self.destination, self.destination_port), (self.source, self.source_port))
    }

    /// The same for a packet that was sent.
    #[inline(always)]
    pub(crate) const fn swapped(&self) -> (([u32; 4], u16), ([u32; 4], u16)) {
        ((self.source, self.source_port), (self.destination, self.destination_port))
    }
}

/// What a packet holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// A DNS message with one question.
    Message,
    /// Anything else.
    Other,
    /// It is in fragments that this kernel gives no access to.
    Unreadable,
}

impl Packet {
    /// A packet that is sent. `None` if it is neither IPv4 nor IPv6.
    #[inline(always)]
    pub(crate) fn sent(skb: *const u8) -> Option<Self> {
        // SAFETY: a typed pointer and offsets of its fields.
        let (head, data, network): (u64, u64, u16) = unsafe {
            (
                load(skb, &OFFSETS[dns::SKB_HEAD]),
                load(skb, &OFFSETS[dns::SKB_DATA]),
                load(skb, &OFFSETS[dns::SKB_NETWORK_HEADER]),
            )
        };
        Self::new(skb, head.wrapping_add(u64::from(network)), data)
    }

    /// A packet that was received.
    #[inline(always)]
    pub(crate) fn received(skb: *const u8) -> Option<Self> {
        // SAFETY: a typed pointer and an offset of its fields.
        let data: u64 = unsafe { load(skb, &OFFSETS[dns::SKB_DATA]) };
        Self::new(skb, data, data)
    }

    #[inline(always)]
    fn new(skb: *const u8, start: u64, data: u64) -> Option<Self> {
        // SAFETY: a typed pointer and offsets of its fields.
        let (protocol, len, fragments): (u16, u32, u32) = unsafe {
            (
                load(skb, &OFFSETS[dns::SKB_PROTOCOL]),
                load(skb, &OFFSETS[dns::SKB_LEN]),
                load(skb, &OFFSETS[dns::SKB_DATA_LEN]),
            )
        };
        if protocol != IPV4 && protocol != IPV6 {
            return None;
        }
        let offset = start.wrapping_sub(data) as u32;
        let len = len.wrapping_sub(offset);
        Some(Self { skb, start, offset, len, linear: len.wrapping_sub(fragments), is_ipv4: protocol == IPV4 })
    }

    /// Whether a packet has a VLAN tag in front of its network header.
    #[inline(always)]
    pub(crate) fn is_tagged(skb: *const u8) -> bool {
        // SAFETY: a typed pointer and an offset of its fields.
        let protocol: u16 = unsafe { load(skb, &OFFSETS[dns::SKB_PROTOCOL]) };
        protocol == VLAN
    }

    /// Protocol, and source and destination port in network order, by the fewest loads: every packet pays for them. `None`
    /// if they are not in the buffer.
    #[inline(always)]
    pub(crate) fn glance(&self) -> Option<(u8, u16, u16)> {
        if self.linear < GLANCE_BYTES[usize::from(self.is_ipv4)] {
            return None;
        }
        if !is_absent(&OFFSETS[dns::CAST]) {
            let kind = constant(&OFFSETS[dns::WORDS]);
            // SAFETY: the agent replaces this address by the function's, which returns its argument as a typed pointer.
            // Loads through it tolerate any address.
            return Some(unsafe {
                let words = cast(self.start, kind);
                let (protocol, header) = if self.is_ipv4 {
                    (words.add(2).read() >> 8, (words.read() & 0xf) * 4)
                } else {
                    (words.add(1).read() >> 16, IPV6_WORDS as u32 * 4)
                };
                let ports = cast(self.start.wrapping_add(header.into()), kind).read();
                (protocol as u8, ports as u16, (ports >> 16) as u16)
            });
        }
        self.glance_by_helper()
    }

    /// The same on kernels that have no such function.
    #[inline(never)]
    fn glance_by_helper(&self) -> Option<(u8, u16, u16)> {
        if is_absent(&OFFSETS[dns::LEADER]) {
            return None;
        }
        let mut words = [0_u32; IPV6_WORDS + 1];
        let to = words.as_mut_ptr().cast::<c_void>();
        let from = self.start as *const c_void;
        // SAFETY: the helper tolerates any address to read from, and the array has room.
        let read = unsafe { bpf_probe_read_kernel(to, GLANCE_BYTES[usize::from(self.is_ipv4)], from) };
        let (protocol, ports) = if self.is_ipv4 {
            (words[2] >> 8, words[IPV4_WORDS])
        } else {
            (words[1] >> 16, words[IPV6_WORDS])
        };
        let has_options = self.is_ipv4 && words[0] & 0xf != IPV4_WORDS as u32;
        (read == 0 && !has_options).then_some((protocol as u8, ports as u16, (ports >> 16) as u16))
    }

    /// Copies and reads the headers. Returns false for a packet without DNS.
    #[inline(never)]
    pub(crate) fn headers(&self, work: &mut Work) -> bool {
        const BYTES: u32 = HEADER_WORDS as u32 * 4;
        let len = if self.len < BYTES { self.len } else { BYTES };
        if !self.copy(0, len, work.raw.as_mut_ptr().cast()) {
            return false;
        }
        let is_ipv4 = self.is_ipv4;
        let Some((protocol, transport)) = transport(&work.raw, 0, is_ipv4) else { return false };
        let icmp = if is_ipv4 { ICMP } else { ICMPV6 };
        if protocol != icmp {
            return parse(work, 0, protocol, transport, is_ipv4, 0, len);
        }
        let Some(message) = word(&work.raw, transport) else { return false };
        if message & 0xff != if is_ipv4 { UNREACHABLE } else { UNREACHABLE_V6 } {
            return false;
        }
        let about = transport + ICMP_WORDS;
        let Some((protocol, transport)) = self::transport(&work.raw, about, is_ipv4) else { return false };
        protocol == UDP
            && parse(work, about, protocol, transport, is_ipv4, ((message >> 8) as u16 & 0xff) + 1, len)
    }

    /// Copies and reads the DNS message behind these headers.
    #[inline(never)]
    pub(crate) fn message(&self, work: &mut Work) -> Found {
        let at = work.headers.message_at;
        let present = self.len.wrapping_sub(at);
        // Also where the subtraction wrapped.
        if present > self.len || present < dns::HEADER_BYTES as u32 {
            return Found::Other;
        }
        let len = if present < MESSAGE_BYTES as u32 { present } else { MESSAGE_BYTES as u32 };
        if !self.copy(at, len, work.message.bytes().as_mut_ptr().cast()) {
            return Found::Unreadable;
        }
        if read(work, len).is_some() { Found::Message } else { Found::Other }
    }

    /// Copies bytes of the packet. Returns false if they are in fragments that this kernel gives no access to. In a
    /// function of its own: the verifier lets nothing else use the pointer's place on the stack.
    #[inline(never)]
    fn copy(&self, at: u32, len: u32, to: *mut c_void) -> bool {
        if !is_absent(&OFFSETS[dns::DYNPTR]) {
            let mut dynptr = MaybeUninit::<bpf_dynptr>::uninit();
            // SAFETY: the agent replaces this address by the function's. The verifier checks the arguments: an `sk_buff`
            // that the tracepoint passed, and a place for the pointer.
            if unsafe { from_skb(self.skb, 0, dynptr.as_mut_ptr()) } != 0 {
                return false;
            }
            // SAFETY: the helper reads within the packet, and the verifier checks the place.
            return unsafe { bpf_dynptr_read(to, len, dynptr.as_ptr(), self.offset.wrapping_add(at), 0) }
                == 0;
        }
        if at.wrapping_add(len) > self.linear || is_absent(&OFFSETS[dns::LEADER]) {
            return false;
        }
        let from = self.start.wrapping_add(at.into()) as *const c_void;
        // SAFETY: the helper tolerates any address to read from, and the verifier checks the place.
        unsafe { bpf_probe_read_kernel(to, len, from) == 0 }
    }
}

/// Source and destination port, network order, of a packet that is sent, by the fewest loads.
#[inline(always)]
pub(crate) fn ports(skb: *const u8) -> Option<(u16, u16)> {
    // SAFETY: a typed pointer and offsets of its fields.
    let (head, transport): (u64, u16) =
        unsafe { (load(skb, &OFFSETS[dns::SKB_HEAD]), load(skb, &OFFSETS[dns::SKB_TRANSPORT_HEADER])) };
    let address = head.wrapping_add(transport.into());
    let ports = if !is_absent(&OFFSETS[dns::CAST]) {
        // SAFETY: as in `Packet::glance`.
        unsafe { cast(address, constant(&OFFSETS[dns::WORDS])).read() }
    } else if !is_absent(&OFFSETS[dns::LEADER]) {
        // SAFETY: the helper tolerates any address.
        unsafe { aya_ebpf::helpers::bpf_probe_read_kernel(address as *const u32) }.ok()?
    } else {
        return None;
    };
    Some((ports as u16, (ports >> 16) as u16))
}

/// A word of the headers.
#[inline(always)]
fn word(raw: &[u32; HEADER_WORDS], at: usize) -> Option<u32> {
    raw.get(at).copied()
}

/// Protocol behind the network header at this word, and where its header starts. `None` for a fragment other than the
/// first.
#[inline(always)]
fn transport(raw: &[u32; HEADER_WORDS], at: usize, is_ipv4: bool) -> Option<(u8, usize)> {
    if !is_ipv4 {
        return Some(((word(raw, at + 1)? >> 16) as u8, at + IPV6_WORDS));
    }
    if u16::from_be((word(raw, at + 1)? >> 16) as u16) & FRAGMENT != 0 {
        return None;
    }
    Some(((word(raw, at + 2)? >> 8) as u8, at + (word(raw, at)? & 0xf) as usize))
}

/// Reads addresses, ports and the place of the DNS message.
#[inline(always)]
fn parse(
    work: &mut Work,
    network: usize,
    protocol: u8,
    transport: usize,
    is_ipv4: bool,
    unreachable: u16,
    len: u32,
) -> bool {
    const MAPPED: u32 = 0xffff_u32.to_be();
    // What is behind the packet's end is of an earlier one.
    if (transport + UDP_WORDS) as u32 * 4 > len {
        return false;
    }
    let raw = &work.raw;
    let read = || {
        let ports = word(raw, transport)?;
        let message = match protocol {
            UDP => (transport + UDP_WORDS) as u32 * 4,
            // Bits 4 to 7 of byte 12 are the length of the header in words; a message starts after two bytes of length.
            TCP => (transport as u32 + ((word(raw, transport + 3)? >> 4) & 0xf)) * 4 + 2,
            _ => return None,
        };
        let address = |v4: usize, v6: usize| {
            Some(if is_ipv4 {
                [0, 0, MAPPED, word(raw, network + v4)?]
            } else {
                let at = network + v6;
                [word(raw, at)?, word(raw, at + 1)?, word(raw, at + 2)?, word(raw, at + 3)?]
            })
        };
        Some(Headers {
            source: address(3, 2)?,
            destination: address(4, 6)?,
            source_port: ports as u16,
            destination_port: (ports >> 16) as u16,
            protocol: protocol.into(),
            unreachable,
            message_at: message,
        })
    };
    let Some(headers) = read() else { return false };
    work.headers = headers;
    true
}

/// Reads the message.
#[inline(never)]
fn read(work: &mut Work, len: u32) -> Option<()> {
    let name_len = work.message.name_len()?;
    // The verifier knows the length on each way out of the loop, and would walk what follows as often. It does not know
    // what is in a map, apart from the mask.
    let free = (&raw mut work.message).cast::<u32>();
    // SAFETY: the first four bytes of a message, which are aligned and free.
    let name_len = unsafe {
        write_volatile(free, name_len as u32);
        read_volatile(free) & MAX_NAME as u32
    };
    work.question = work.message.question(len as usize, name_len as usize, constant(&SEED))?;
    Some(())
}

/// `void *bpf_rdonly_cast(const void *obj, u32 btf_id)`, kernel/bpf/helpers.c.
#[inline(always)]
unsafe fn cast(address: u64, kind: u32) -> *const u32 {
    // SAFETY: not an address, but a mark that the agent replaces.
    unsafe {
        transmute::<usize, unsafe extern "C" fn(u64, u32) -> *const u32>(KFUNC + dns::CAST)(address, kind)
    }
}

/// `int bpf_dynptr_from_skb(struct __sk_buff *s, u64 flags, struct bpf_dynptr *ptr)`, net/core/filter.c.
#[inline(always)]
unsafe fn from_skb(skb: *const u8, flags: u64, dynptr: *mut bpf_dynptr) -> i32 {
    // SAFETY: as above.
    unsafe {
        transmute::<usize, unsafe extern "C" fn(*const u8, u64, *mut bpf_dynptr) -> i32>(KFUNC + dns::DYNPTR)(
            skb, flags, dynptr,
        )
    }
}
