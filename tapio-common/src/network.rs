//! The network observer: event layout, reading keys, kernel fields, settings.

use bytemuck::{Pod, Zeroable};

use crate::{
    Comm, Event, Header,
    baseline::{Baseline, Limits},
};

crate::fields! {
    /// `AF_INET` or `AF_INET6`.
    FAMILY = "sock.__sk_common.skc_family";
    /// Remote IPv4 address, network order.
    DADDR = "sock.__sk_common.skc_daddr";
    /// Local IPv4 address, network order.
    SADDR = "sock.__sk_common.skc_rcv_saddr";
    /// Remote IPv6 address.
    DADDR6 = "sock.__sk_common.skc_v6_daddr";
    /// Local IPv6 address.
    SADDR6 = "sock.__sk_common.skc_v6_rcv_saddr";
    /// Remote port, network order.
    DPORT = "sock.__sk_common.skc_dport";
    /// Local port, host order.
    SPORT = "sock.__sk_common.skc_num";
    /// Local port, network order: also that of a socket that has given back a port it did not ask for.
    INET_SPORT = "tcp_sock.inet_conn.icsk_inet.inet_sport";
    /// Hash of addresses and ports; of no network namespace.
    HASH = "sock.__sk_common.skc_hash";
    /// State of the connection.
    STATE = "sock.__sk_common.skc_state";
    /// Network namespace.
    NET = "sock.__sk_common.skc_net.net";
    /// Its inode number, as `/proc/PID/ns/net` shows it.
    NET_INUM = "net.ns.inum";
    /// Why a connection ended: an errno, 0 where the application closed it.
    ERR = "sock.sk_err";
    /// The protocol: sockets other than TCP pass `inet_sock_set_state` too.
    PROTOCOL = "sock.sk_protocol";
    /// The socket's own cgroup.
    CGROUP = "sock.sk_cgrp_data.cgroup";
    /// The cgroup's node in the cgroup file system.
    CGROUP_KN = "cgroup.kn";
    /// The node's id: what `bpf_get_current_cgroup_id` gives for a task.
    KN_ID = "kernfs_node.id";
    /// When the segment acknowledged last was sent, microseconds: changes with each RTT sample.
    RACK_MSTAMP = "tcp_sock.rack.mstamp";
    /// The last RTT sample, microseconds, not smoothed.
    RACK_RTT = "tcp_sock.rack.rtt_us";
    /// What TCP notes of a segment, a [`SEGMENT_SEQ`] and so on.
    SEGMENT = "sk_buff.cb";
    /// Its first sequence number.
    SEGMENT_SEQ = "tcp_skb_cb.seq";
    /// The one after its last.
    SEGMENT_END = "tcp_skb_cb.end_seq";
    /// What it acknowledges.
    SEGMENT_ACK = "tcp_skb_cb.ack_seq";
    /// Payload bytes of a full segment.
    MSS = "tcp_sock.mss_cache";
    /// Segments sent.
    SEGS_OUT = "tcp_sock.segs_out";
    /// Times that the oldest segment was retransmitted without an answer since the last one.
    RETRANSMITS = "tcp_sock.inet_conn.icsk_retransmits";
    /// When the last acknowledgement came, low half of jiffies.
    RCV_TSTAMP = "tcp_sock.rcv_tstamp";
    /// Retransmitted segments, SYNs included.
    TOTAL_RETRANS = "tcp_sock.total_retrans";
    /// Payload bytes received.
    BYTES_RECEIVED = "tcp_sock.bytes_received";
    /// Payload bytes that the peer acknowledged (a SYN may count as one).
    BYTES_ACKED = "tcp_sock.bytes_acked";
    /// The first thread of the running task's process.
    LEADER = "task_struct.group_leader";
    /// Name of a thread.
    COMM = "task_struct.comm";
}

/// Fields that are read with a helper, which a kernel that is locked down forbids: they are absent there.
pub const BY_HELPER: &[usize] = &[LEADER, COMM];

/// The programs, as indices into `COUNTS`.
pub mod program {
    /// Round trips.
    pub const TCP_PROBE: u32 = 0;
    /// Connects and closes.
    pub const INET_SOCK_SET_STATE: u32 = 1;
    /// Retransmitted segments.
    pub const TCP_RETRANSMIT_SKB: u32 = 2;
    /// Resets received.
    pub const TCP_RECEIVE_RESET: u32 = 3;
    /// Connects over IPv4 that have nowhere to go.
    pub const TCP_V4_CONNECT: u32 = 4;
    /// The same over IPv6.
    pub const TCP_V6_CONNECT: u32 = 5;
}

/// What a record is about: [`NetworkEvent::kind`].
pub mod kind {
    /// A round trip far over its baseline.
    pub const RTT_SPIKE: u32 = 1;
    /// The level of round trips has changed.
    pub const RTT_SHIFT: u32 = 2;
    /// A connect was answered with a reset.
    pub const CONNECTION_REFUSED: u32 = 3;
    /// A connect was not answered.
    pub const CONNECTION_TIMEOUT: u32 = 4;
    /// No route to host.
    pub const CONNECTION_UNREACHABLE: u32 = 5;
    /// A connection that carried data was reset by the peer.
    pub const CONNECTION_RESET: u32 = 6;
    /// A handshake far over its baseline.
    pub const CONNECT_SLOW: u32 = 7;
    /// Retransmitted segments, far more than this destination's past.
    pub const RETRANSMIT_BURST: u32 = 8;
    /// A connection whose peer no longer answers.
    pub const PEER_UNRESPONSIVE: u32 = 9;
}

/// Who opened the connection: [`NetworkEvent::direction`].
pub mod direction {
    /// Not known.
    pub const UNKNOWN: u32 = 0;
    /// This host connected.
    pub const OUTBOUND: u32 = 1;
    /// The peer connected.
    pub const INBOUND: u32 = 2;
}

/// The port that names the service. Where it is not known which side opened the connection, the lower one: those that
/// kernels choose for who connects are high, so that what is measured there has one baseline.
#[inline(always)]
#[must_use]
pub const fn service_port(direction: u32, local: u16, remote: u16) -> u16 {
    let is_local = match direction {
        direction::INBOUND => true,
        direction::OUTBOUND => false,
        _ => local < remote,
    };
    if is_local { local } else { remote }
}

/// One record of the network observer's ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct NetworkEvent {
    /// When, and whose socket.
    pub header: Header,
    /// One of [`kind`].
    pub kind: u32,
    /// One of [`direction`].
    pub direction: u32,
    /// Local address; IPv4 as v4-mapped.
    pub local: [u8; 16],
    /// Remote address; IPv4 as v4-mapped.
    pub remote: [u8; 16],
    /// Local port; 0 where the connect failed before one was chosen.
    pub local_port: u16,
    /// Remote port.
    pub remote_port: u16,
    /// Inode number of the socket's network namespace; 0 where it is not known.
    pub netns: u32,
    /// RTT kinds: round trip. Connect kinds: time since the connect began. Burst: the window. Microseconds.
    pub value_us: u64,
    /// RTT kinds: the part of it that the network took for certain; the rest may be the peer's. Microseconds.
    pub certain_us: u64,
    /// RTT kinds: when the run of abnormal samples began, boot clock; else 0.
    pub since_ns: u64,
    /// Timeout, unreachable: retransmitted SYN. Burst: retransmitted segments in the window. Unresponsive: times that the oldest
    /// segment was retransmitted.
    pub retransmits: u32,
    /// Burst: segments sent in the window, retransmissions included. Timeout: connects that were given up in a row before any
    /// SYN was retransmitted; 0 where one was.
    pub segments: u32,
    /// Failed connects, unresponsive: the socket's errno; 0 where the application gave up, or the kernel has not yet.
    pub errno: u32,
    /// Reset, unresponsive: since the peer's last acknowledgement, milliseconds.
    pub idle_ms: u32,
    /// Reset, unresponsive: payload bytes received on the connection.
    pub bytes_received: u64,
    /// Reset, unresponsive: payload bytes that the peer had acknowledged.
    pub bytes_acked: u64,
    /// What was normal before this sample; all zero for kinds without a baseline.
    pub baseline: Baseline,
}

impl Event for NetworkEvent {
    fn header(&self) -> &Header {
        &self.header
    }
}

/// What a baseline is kept for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Destination {
    /// Remote address; IPv4 as v4-mapped.
    pub address: [u8; 16],
    /// Inode number of the network namespace for loopback addresses, else 0.
    pub netns: u32,
    /// A [`service_port`].
    pub port: u16,
    /// One of [`direction`].
    pub direction: u16,
}

impl Destination {
    /// Where its baseline is looked for, and what tells it there from most others. `seed` is [`crate::SEED`], so that
    /// nobody can choose addresses that meet.
    #[inline(always)]
    #[must_use]
    pub fn hash(&self, seed: u64) -> u64 {
        // Multiply and fold, after wyhash; the constants are its own.
        let words: [u64; 3] = bytemuck::cast(*self);
        let mut hash = seed;
        hash = (hash ^ words[0]).wrapping_mul(0xa076_1d64_78bd_642f);
        hash = (hash ^ (hash >> 32) ^ words[1]).wrapping_mul(0xe703_7ed1_a0b4_28db);
        hash = (hash ^ (hash >> 32) ^ words[2]).wrapping_mul(0x8ebc_6af0_9c88_c6e3);
        hash ^ (hash >> 32)
    }
}

/// A listening port, which tells inbound connections from outbound ones.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Port {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// The port; [`Port::ALL`] says of the namespace that each port that listens there is known.
    pub port: u32,
}

impl Port {
    /// No port.
    pub const ALL: u32 = 0;
}

/// Who made a socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Owner {
    /// Cgroup id; 0 where it is not known.
    pub cgroup_id: u64,
    /// Process id in the root pid namespace; 0 where it is not known.
    pub pid: u32,
    /// 1 for a socket of the agent itself, which is never judged.
    pub own: u32,
    /// Command name; all zero where it is not known.
    pub comm: Comm,
}

/// Who listens on a port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Listener {
    /// Who listened last; nothing is known of those that are older than the agent.
    pub owner: Owner,
    /// Sockets that listen: several may share a port (`SO_REUSEPORT`, one an address).
    pub sockets: u64,
}

/// The thresholds that go to the kernel as constants.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Settings {
    /// Judges round trips, microseconds.
    pub rtt: Limits,
    /// Judges handshakes, microseconds.
    pub connect: Limits,
    /// Judges the share of retransmitted segments per window, 1/1024.
    pub retransmit: Limits,
    /// Length of a retransmit window.
    pub retransmit_window_ns: u64,
    /// Fewest retransmitted segments in a window that can be a burst.
    pub retransmit_min_segments: u64,
    /// Least share of retransmitted segments that can be a burst, 1/1024.
    pub retransmit_min_share: u64,
    /// How long a key stays quiet after an event.
    pub cooldown_ns: u64,
}
