//! Packets: their headers by direct loads, their DNS message by a copy.

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

use crate::{
    OFFSETS, SEED, constant,
    work::{Work, work},
};

// include/uapi/linux/in.h, include/uapi/linux/icmpv6.h
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

// include/uapi/linux/if_ether.h, network order
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();

const IPV6_BYTES: u32 = 40;
const UDP_BYTES: u32 = 8;
/// Mask of the fragment offset in an IPv4 header.
const FRAGMENT: u32 = 0x1fff;

/// A packet from its network header on.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    /// The `sk_buff`.
    skb: *const u8,
    /// Address of the network header.
    start: u64,
    /// Its distance from the start of the data.
    offset: u32,
    /// Bytes from the network header on.
    len: u32,
    /// How many of them are in the buffer.
    linear: u32,
    /// EtherType.
    protocol: u16,
}

/// The headers of a packet.
pub(crate) struct Headers {
    pub(crate) protocol: u8,
    pub(crate) source: [u32; 4],
    pub(crate) destination: [u32; 4],
    /// Network order.
    pub(crate) source_port: u16,
    /// Network order.
    pub(crate) destination_port: u16,
    /// Offset of the transport header from the network header.
    pub(crate) transport: u32,
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
        Some(Self { skb, start, offset, len, linear: len.wrapping_sub(fragments), protocol })
    }

    /// Protocol, and offset of the transport header. `None` for a fragment other than the first.
    #[inline(always)]
    pub(crate) fn transport(&self) -> Option<(u8, u32)> {
        self.transport_at(0)
    }

    #[inline(always)]
    fn transport_at(&self, at: u32) -> Option<(u8, u32)> {
        let [first, second, third, _] = self.words(at)?;
        if self.protocol == IPV4 {
            if u32::from((second >> 16).to_be() as u16 & 0xffff) & FRAGMENT != 0 {
                return None;
            }
            Some(((third >> 8) as u8, at.wrapping_add((first & 0xf) * 4)))
        } else {
            Some(((second >> 16) as u8, at.wrapping_add(IPV6_BYTES)))
        }
    }

    /// Source and destination port, network order.
    #[inline(always)]
    pub(crate) fn ports(&self, transport: u32) -> Option<(u16, u16)> {
        let [ports, ..] = self.words(transport)?;
        Some((ports as u16, (ports >> 16) as u16))
    }

    /// The addresses of the network header at this offset; IPv4 as IPv4-mapped IPv6.
    #[inline(always)]
    fn addresses(&self, at: u32) -> Option<([u32; 4], [u32; 4])> {
        const MAPPED: u32 = 0xffff_u32.to_be();
        if self.protocol == IPV4 {
            let [.., source] = self.words(at)?;
            let [destination, ..] = self.words(at + 16)?;
            Some(([0, 0, MAPPED, source], [0, 0, MAPPED, destination]))
        } else {
            Some((self.words(at + 8)?, self.words(at + 24)?))
        }
    }

    /// Protocol, and source port in network order, of a packet of which both are in the buffer, by the fewest loads: every
    /// packet pays for them. `None` where that is not so, or not known.
    #[inline(always)]
    pub(crate) fn glance(&self) -> Option<(u8, u16)> {
        // Up to the ports, of IPv4 without options.
        let needed = if self.protocol == IPV4 { 24 } else { IPV6_BYTES + 4 };
        if self.linear < needed || is_absent(&OFFSETS[dns::CAST]) {
            return None;
        }
        let kind = constant(&OFFSETS[dns::WORDS]);
        // SAFETY: as in `words`.
        unsafe {
            let words = cast(self.start, kind);
            let (protocol, transport) = if self.protocol == IPV4 {
                (words.add(2).read() >> 8, (words.read() & 0xf) * 4)
            } else {
                (words.add(1).read() >> 16, IPV6_BYTES)
            };
            let ports = cast(self.start.wrapping_add(transport.into()), kind);
            Some((protocol as u8, ports.read() as u16))
        }
    }

    /// All headers, where protocol and ports are known.
    #[inline(always)]
    pub(crate) fn headers(&self, (protocol, transport): (u8, u32), ports: (u16, u16)) -> Option<Headers> {
        let (source, destination) = self.addresses(0)?;
        let (source_port, destination_port) = ports;
        Some(Headers { protocol, source, destination, source_port, destination_port, transport })
    }

    /// For an ICMP message that a destination is unreachable: its code, the headers of the packet that it is about, and
    /// the id of the DNS message in it.
    #[inline(always)]
    pub(crate) fn unreachable(&self, (protocol, transport): (u8, u32)) -> Option<(u32, Headers, u16)> {
        const ICMP_BYTES: u32 = 8;
        let [message, ..] = self.words(transport)?;
        let (kind, code) = (message as u8, (message >> 8) & 0xff);
        // ICMP_DEST_UNREACH, ICMPV6_DEST_UNREACH
        if kind != if protocol == ICMP { 3 } else { 1 } {
            return None;
        }
        let about = transport.wrapping_add(ICMP_BYTES);
        let (protocol, transport) = self.transport_at(about)?;
        if protocol != UDP {
            return None;
        }
        let [ports, _, header, _] = self.words(transport)?;
        let (source, destination) = self.addresses(about)?;
        let headers = Headers {
            protocol,
            source,
            destination,
            source_port: ports as u16,
            destination_port: (ports >> 16) as u16,
            transport,
        };
        Some((code, headers, header as u16))
    }

    /// Offset of the DNS message.
    #[inline(always)]
    fn message_at(&self, headers: &Headers) -> Option<u32> {
        if headers.protocol == UDP {
            return Some(headers.transport.wrapping_add(UDP_BYTES));
        }
        // Bits 4 to 7 of byte 12 are the length of the header in words; a message starts after two bytes of length.
        let [_, offset, ..] = self.words(headers.transport.wrapping_add(8))?;
        Some(headers.transport.wrapping_add(((offset >> 4) & 0xf) * 4).wrapping_add(2))
    }

    /// Copies and reads the DNS message.
    #[inline(always)]
    pub(crate) fn message(&self, headers: &Headers) -> Read {
        let Some(at) = self.message_at(headers) else { return Read::Unreadable };
        let Some(work) = work() else { return Read::Unreadable };
        let present = self.len.wrapping_sub(at);
        // Also where the subtraction wrapped.
        if present > self.len || present < dns::HEADER_BYTES as u32 {
            return Read::Foreign;
        }
        let len = if present < MESSAGE_BYTES as u32 { present } else { MESSAGE_BYTES as u32 };
        if self.copy(at, len, work.message.bytes().as_mut_ptr().cast()).is_none() {
            return Read::Unreadable;
        }
        if read(work, len).is_some() { Read::Message(work) } else { Read::Foreign }
    }

    /// Copies bytes of the packet. `None` where they are in fragments that this kernel gives no access to. In a function of its own: the verifier lets nothing else use the pointer's place on the stack.
    #[inline(never)]
    fn copy(&self, at: u32, len: u32, to: *mut c_void) -> Option<()> {
        let read = if !is_absent(&OFFSETS[dns::DYNPTR]) {
            let mut dynptr = MaybeUninit::<bpf_dynptr>::uninit();
            // SAFETY: the agent replaces this address by the function's. The verifier checks the arguments: an `sk_buff`
            // that the tracepoint passed, and a place for the pointer.
            if unsafe { from_skb(self.skb, 0, dynptr.as_mut_ptr()) } != 0 {
                return None;
            }
            // SAFETY: the helper reads within the packet.
            unsafe { bpf_dynptr_read(to, len, dynptr.as_ptr(), self.offset.wrapping_add(at), 0) }
        } else {
            if at.wrapping_add(len) > self.linear || is_absent(&OFFSETS[dns::LEADER]) {
                return None;
            }
            let from = self.start.wrapping_add(at.into()) as *const c_void;
            // SAFETY: the helper tolerates any address.
            unsafe { bpf_probe_read_kernel(to, len, from) }
        };
        (read == 0).then_some(())
    }

    /// 16 bytes of the headers, or what is left of the packet, and zeros.
    #[inline(always)]
    fn words(&self, at: u32) -> Option<[u32; 4]> {
        if at.wrapping_add(16) > self.linear || is_absent(&OFFSETS[dns::CAST]) {
            return self.copy_words(at);
        }
        // SAFETY: the agent replaces this address by the function's, which returns its argument as a typed pointer. Loads
        // through it tolerate any address.
        Some(unsafe {
            let words = cast(self.start.wrapping_add(at.into()), constant(&OFFSETS[dns::WORDS]));
            [words.read(), words.add(1).read(), words.add(2).read(), words.add(3).read()]
        })
    }

    #[inline(never)]
    fn copy_words(&self, at: u32) -> Option<[u32; 4]> {
        let left = self.len.wrapping_sub(at);
        // Also where the subtraction wrapped.
        if left > self.len || left < 4 {
            return None;
        }
        let mut words = [0; 4];
        self.copy(at, if left < 16 { left } else { 16 }, words.as_mut_ptr().cast())?;
        Some(words)
    }
}

/// What a packet holds.
pub(crate) enum Read {
    /// A DNS message with one question.
    Message(&'static mut Work),
    /// Anything else.
    Foreign,
    /// It is in fragments that this kernel gives no access to.
    Unreadable,
}

/// Reads the message. In a function of its own: inlined, the verifier would walk each path through it combined with each
/// path after it.
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
