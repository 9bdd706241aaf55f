//! DNS observer: event layout, keys of readings, kernel fields, settings, and the parser of questions.

use bytemuck::{Pod, Zeroable};

use crate::{
    Comm, Event, Header,
    baseline::{Baseline, Limits},
};

crate::fields! {
    /// The sending socket of a packet; null for a packet that is forwarded.
    SKB_SK = "sk_buff.sk";
    /// Protocol of a packet: an EtherType, network order.
    SKB_PROTOCOL = "sk_buff.protocol";
    /// Start of the buffer.
    SKB_HEAD = "sk_buff.head";
    /// Start of the data in the buffer.
    SKB_DATA = "sk_buff.data";
    /// Offset of the network header from the start of the buffer.
    SKB_NETWORK_HEADER = "sk_buff.network_header";
    /// Offset of the transport header from the start of the buffer, of a packet that is sent.
    SKB_TRANSPORT_HEADER = "sk_buff.transport_header";
    /// Bytes from the start of the data.
    SKB_LEN = "sk_buff.len";
    /// How many of them are not in the buffer, but in fragments.
    SKB_DATA_LEN = "sk_buff.data_len";
    /// Device that received a packet.
    SKB_DEV = "sk_buff.dev";
    /// Network namespace of a device.
    DEV_NET = "net_device.nd_net.net";
    /// Remote port of a socket, network order; 0 if it is not connected.
    DPORT = "sock.__sk_common.skc_dport";
    /// Local port, host order.
    SPORT = "sock.__sk_common.skc_num";
    /// State, as in include/net/tcp_states.h.
    STATE = "sock.__sk_common.skc_state";
    /// Network namespace of a socket.
    NET = "sock.__sk_common.skc_net.net";
    /// Inode number of a network namespace, as `/proc/PID/ns/net` shows it.
    NET_INUM = "net.ns.inum";
    /// Protocol of a socket, as in include/uapi/linux/in.h.
    PROTOCOL = "sock.sk_protocol";
    /// The socket's cgroup v2.
    CGROUP = "sock.sk_cgrp_data.cgroup";
    /// Node of a cgroup in the cgroup file system.
    CGROUP_KN = "cgroup.kn";
    /// Id of the node, which is what `bpf_get_current_cgroup_id` returns for a task.
    KN_ID = "kernfs_node.id";
    /// First thread of the current task's process.
    LEADER = "task_struct.group_leader";
    /// Command name of a thread.
    COMM = "task_struct.comm";
    /// Makes an address a typed pointer, for direct loads.
    CAST = "func bpf_rdonly_cast";
    /// The type that addresses are cast to: 16 bytes.
    WORDS = "struct in6_addr";
    /// Gives access to all of a packet, fragments too. Tracing programs may call it since 6.11.
    DYNPTR = "func bpf_dynptr_from_skb since 6.11";
}

/// Fields that are read with a helper. Lockdown forbids that, and they are then absent.
pub const BY_HELPER: &[usize] = &[LEADER, COMM];

/// The programs, as indices into `COUNTS`.
pub mod program {
    /// Answers. Attached first: a question whose answer is missed would look unanswered.
    pub const NETIF_RECEIVE_SKB: u32 = 0;
    /// Questions.
    pub const NET_DEV_QUEUE: u32 = 1;
}

/// Values of [`DnsEvent::kind`].
pub mod kind {
    /// A resolver answered with an error, or the kernel reported that nothing answers at its port.
    pub const FAILURE: u32 = 1;
    /// A question was asked again while it was not answered.
    pub const ASKED_AGAIN: u32 = 2;
    /// A look-up took long, or was answered after [`ASKED_AGAIN`].
    pub const SLOW: u32 = 3;
    /// The level of a resolver's latency has risen.
    pub const LATENCY_SHIFT: u32 = 4;
    /// A name that this resolver resolved before no longer exists.
    pub const NAME_GONE: u32 = 5;
    /// Far more look-ups than normal ended in NXDOMAIN.
    pub const NXDOMAIN_BURST: u32 = 6;
    /// A process answers DNS questions: it is a resolver or a forwarder. Not an anomaly.
    pub const SERVES: u32 = 7;
}

/// Response codes, RFC 1035 and RFC 6895.
pub mod code {
    /// Success.
    pub const NOERROR: u32 = 0;
    /// The resolver cannot read the question.
    pub const FORMERR: u32 = 1;
    /// The resolver failed.
    pub const SERVFAIL: u32 = 2;
    /// The name does not exist.
    pub const NXDOMAIN: u32 = 3;
    /// The resolver does not support the question.
    pub const NOTIMP: u32 = 4;
    /// The resolver is not willing to answer.
    pub const REFUSED: u32 = 5;
    /// No DNS code: from this value on, an ICMP code of "destination unreachable".
    pub const UNREACHABLE: u32 = 0x100;
}

/// Bytes of the longest name in wire format, RFC 1035.
pub const MAX_NAME: usize = 255;
/// Bytes of a DNS header.
pub const HEADER_BYTES: usize = 12;
/// Where the header starts in a [`Message`], so that the name is aligned.
const HEADER_AT: usize = 4;
const NAME_AT: usize = HEADER_AT + HEADER_BYTES;
/// Bytes of a message that are read: header, name, type and class.
pub const MESSAGE_BYTES: usize = HEADER_BYTES + MAX_NAME + 1 + 4;
/// Words of a [`Message`].
const MESSAGE_WORDS: usize = 36;
/// Words of the longest name.
pub const NAME_WORDS: usize = 32;

/// The beginning of a DNS message. Words, since a kernel program would copy bytes one by one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Message {
    /// The header starts at byte 4, and the question at byte 16. The first four bytes are free.
    words: [u64; MESSAGE_WORDS],
}

/// The header of a message, and its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Id of the message, network order.
    pub id: u16,
    /// Whether it is an answer.
    pub is_answer: bool,
    /// Response code, one of [`code`].
    pub code: u32,
    /// Number of records in the answer.
    pub answers: u32,
    /// Type of the records that are asked for.
    pub kind: u16,
    /// Hash of the name, without case.
    pub name: u64,
    /// Hash of the name's first label, without case.
    pub stem: u64,
    /// Bytes of the name in wire format.
    pub name_len: u32,
}

/// Makes letters lower case, eight bytes at a time. Other bytes become ones that no name differs in alone.
const LOWER: u64 = 0x2020_2020_2020_2020;

impl Message {
    /// Where to copy the message to: [`MESSAGE_BYTES`] from its header on.
    #[inline(always)]
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut bytemuck::bytes_of_mut(self)[HEADER_AT..HEADER_AT + MESSAGE_BYTES]
    }

    /// Copies the name in wire format, and bytes that follow it. In place: a kernel program has no room for a copy.
    #[inline(always)]
    pub fn copy_name(&self, to: &mut [u64; NAME_WORDS]) {
        for (to, word) in to.iter_mut().zip(&self.words[NAME_AT / 8..]) {
            *to = *word;
        }
    }

    #[inline(always)]
    fn byte(&self, at: usize) -> Option<u8> {
        bytemuck::bytes_of(self).get(at).copied()
    }

    #[inline(always)]
    fn big_endian(&self, at: usize) -> Option<u16> {
        Some(u16::from_be_bytes([self.byte(at)?, self.byte(at + 1)?]))
    }

    /// Reads the header and the question. `len` is how many bytes were copied, and `name_len` what [`Self::name_len`]
    /// returned. `None` for anything but a standard query with one question, or the answer to one.
    #[inline(always)]
    #[must_use]
    pub fn question(&self, len: usize, name_len: usize, seed: u64) -> Option<Question> {
        let flags = self.big_endian(HEADER_AT + 2)?;
        // Standard queries only (OPCODE 0), with one question.
        if flags & 0x7800 != 0 || self.big_endian(HEADER_AT + 4)? != 1 {
            return None;
        }
        if name_len > MAX_NAME || name_len + HEADER_BYTES + 4 > len {
            return None;
        }
        let kind = self.big_endian(NAME_AT + name_len)?;
        let first = self.byte(NAME_AT)? as usize + 1;
        let stem = self.hash::<LABEL_WORDS>(first, seed);
        Some(Question {
            id: u16::from_ne_bytes([self.byte(HEADER_AT)?, self.byte(HEADER_AT + 1)?]),
            is_answer: flags & 0x8000 != 0,
            code: u32::from(flags & 0xf),
            answers: u32::from(self.big_endian(HEADER_AT + 6)?),
            kind,
            name: self.hash::<NAME_WORDS>(name_len, seed),
            stem,
            name_len: name_len as u32,
        })
    }

    /// Bytes of the question's name in wire format: labels, each after its length, and a zero. `None` if it is no name; the
    /// first name of a message has no pointers.
    #[inline(always)]
    #[must_use]
    pub fn name_len(&self) -> Option<usize> {
        let mut len = 0;
        // A label takes two bytes at least.
        for _ in 0..=MAX_NAME / 2 {
            let label = self.byte(NAME_AT + len)? as usize;
            len += 1;
            if label == 0 {
                return Some(len);
            }
            len += label;
            if label > MAX_LABEL || len >= MAX_NAME {
                return None;
            }
        }
        None
    }

    /// Hash of the name's first `len` bytes, at most `WORDS` words, without case.
    #[inline(always)]
    fn hash<const WORDS: usize>(&self, len: usize, seed: u64) -> u64 {
        let mut hash = seed ^ len as u64;
        for i in 0..WORDS {
            let before = i * 8;
            if before >= len {
                break;
            }
            let Some(word) = self.words.get(NAME_AT / 8 + i) else { break };
            let mut word = u64::from_le(*word) | LOWER;
            if len - before < 8 {
                word &= (1 << ((len - before) * 8)) - 1;
            }
            // Multiply and fold, as wyhash does, with its constants.
            hash = (hash ^ word).wrapping_mul(0xa076_1d64_78bd_642f);
            hash ^= hash >> 32;
        }
        hash.wrapping_mul(0xe703_7ed1_a0b4_28db) ^ hash
    }
}

/// Bytes of the longest label, RFC 1035.
const MAX_LABEL: usize = 63;
/// Words of the longest label with its length.
const LABEL_WORDS: usize = 8;

/// Key of a question that is not answered yet: where its answer goes to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Asked {
    /// Local address; IPv4 as IPv4-mapped IPv6.
    pub address: [u32; 4],
    /// Inode number of the network namespace for loopback addresses, else 0.
    pub netns: u32,
    /// Local port, network order.
    pub port: u16,
    /// Id of the message, network order.
    pub id: u16,
}

/// Another key of a question that is not answered yet: what its answer has in common with it where the client's address is
/// translated on the way.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Translated {
    /// Address of the resolver; IPv4 as IPv4-mapped IPv6.
    pub resolver: [u32; 4],
    /// Hash of the name.
    pub name: u64,
    /// Id of the message, network order.
    pub id: u32,
    /// Type of the records that are asked for.
    pub kind: u32,
}

/// A resolver: an address and port that questions go to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Resolver {
    /// Address; IPv4 as IPv4-mapped IPv6.
    pub address: [u32; 4],
    /// Inode number of the network namespace for loopback addresses, else 0.
    pub netns: u32,
    /// Port, network order.
    pub port: u16,
    /// `IPPROTO_UDP` or `IPPROTO_TCP`.
    pub transport: u16,
}

/// Latency of a resolver.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Latency {
    /// Lowest latency of the answers since the last reading, in microseconds.
    pub lowest_us: u32,
    /// Number of answers since the last reading.
    pub answers: u32,
    /// When the last reading was complete. Boot clock, nanoseconds.
    pub read_ns: u64,
    /// The baseline of readings, in microseconds.
    pub baseline: Baseline,
}

/// One record of the DNS observer's ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct DnsEvent {
    /// When it happened, and who asked.
    pub header: Header,
    /// One of [`kind`].
    pub kind: u32,
    /// One of [`code`].
    pub code: u32,
    /// Address of the resolver; IPv4 as IPv4-mapped IPv6.
    pub resolver: [u32; 4],
    /// Local address; IPv4 as IPv4-mapped IPv6.
    pub local: [u32; 4],
    /// Port of the resolver, network order.
    pub resolver_port: u16,
    /// Local port, network order.
    pub local_port: u16,
    /// Type of the records that are asked for.
    pub question: u16,
    /// `IPPROTO_UDP` or `IPPROTO_TCP`.
    pub transport: u16,
    /// Failure, asked again, slow: time since the first query of the look-up. Shift: the new level. Burst: length of the
    /// window. Microseconds.
    pub value_us: u64,
    /// Shift: when the run of high readings began. Name gone: when it was last resolved. Boot clock; else 0.
    pub since_ns: u64,
    /// Queries of the look-up so far. Burst: look-ups of the window that ended in NXDOMAIN.
    pub queries: u32,
    /// Burst: all answers of the window.
    pub answers: u32,
    /// Hash of the name.
    pub name_hash: u64,
    /// The baseline before this reading; all zeros for kinds without one.
    pub baseline: Baseline,
    /// Bytes of the name in wire format.
    pub name_len: u64,
    /// The name in wire format, and bytes that follow it.
    pub name: [u64; NAME_WORDS],
}

impl Event for DnsEvent {
    fn header(&self) -> &Header {
        &self.header
    }
}

/// Who asked a question.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Client {
    /// Cgroup id; 0 if unknown.
    pub cgroup_id: u64,
    /// Process id in the root PID namespace; 0 if unknown.
    pub pid: u32,
    /// 1 if it answers questions itself.
    pub serves: u32,
    /// Command name; all zeros if unknown.
    pub comm: Comm,
}

/// How many ports can be observed.
pub const MAX_PORTS: usize = 4;

/// Thresholds that the kernel programs receive as constants.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Settings {
    /// For latencies of a resolver, in microseconds.
    pub latency: Limits,
    /// For failed look-ups of a cgroup per window.
    pub nxdomain: Limits,
    /// Length of a window of failed look-ups.
    pub nxdomain_window_ns: u64,
    /// A look-up that takes longer is slow, in microseconds.
    pub slow_us: u64,
    /// Cool-down: how long further events of a key are suppressed.
    pub cooldown_ns: u64,
    /// The ports of resolvers, network order; 0 for none.
    pub ports: [u16; MAX_PORTS],
}

#[cfg(test)]
mod tests;
