//! Network observer: event layout, keys of readings, kernel fields and settings.

pub mod edge;

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
    /// Remote port, network order, and local port, host order.
    PORTS = "sock.__sk_common.skc_portpair";
    /// Local port, host order.
    SPORT = "sock.__sk_common.skc_num";
    /// Local port, network order. Still set when the kernel has released a port that it chose itself.
    INET_SPORT = "tcp_sock.inet_conn.icsk_inet.inet_sport";
    /// Hash of addresses and ports, without the network namespace.
    HASH = "sock.__sk_common.skc_hash";
    /// State of the connection.
    STATE = "sock.__sk_common.skc_state";
    /// Network namespace.
    NET = "sock.__sk_common.skc_net.net";
    /// Inode number of the network namespace, as `/proc/PID/ns/net` shows it.
    NET_INUM = "net.ns.inum";
    /// Why a connection ended: an errno, 0 if the application closed it.
    ERR = "sock.sk_err";
    /// Protocol, since sockets other than TCP also reach `inet_sock_set_state`.
    PROTOCOL = "sock.sk_protocol";
    /// The socket's cgroup v2.
    CGROUP = "sock.sk_cgrp_data.cgroup";
    /// Node of a cgroup in the cgroup file system.
    CGROUP_KN = "cgroup.kn";
    /// Id of the node, which is what `bpf_get_current_cgroup_id` returns for a task.
    KN_ID = "kernfs_node.id";
    /// When the last acknowledged segment was sent, in microseconds. Changes with each RTT sample.
    RACK_MSTAMP = "tcp_sock.rack.mstamp";
    /// The last RTT sample in microseconds, not smoothed.
    RACK_RTT = "tcp_sock.rack.rtt_us";
    /// First sequence number of a segment.
    SEGMENT_SEQ = "sk_buff.cb + tcp_skb_cb.seq";
    /// Sequence number after its last.
    SEGMENT_END = "sk_buff.cb + tcp_skb_cb.end_seq";
    /// Its acknowledgement number.
    SEGMENT_ACK = "sk_buff.cb + tcp_skb_cb.ack_seq";
    /// Maximum segment size in payload bytes.
    MSS = "tcp_sock.mss_cache";
    /// Segments sent.
    SEGS_OUT = "tcp_sock.segs_out";
    /// Consecutive retransmissions of the oldest segment without an acknowledgement.
    RETRANSMITS = "tcp_sock.inet_conn.icsk_retransmits";
    /// When the last acknowledgement was received, low half of jiffies.
    RCV_TSTAMP = "tcp_sock.rcv_tstamp";
    /// Retransmitted segments, SYNs included.
    TOTAL_RETRANS = "tcp_sock.total_retrans";
    /// Payload bytes received.
    BYTES_RECEIVED = "tcp_sock.bytes_received";
    /// Payload bytes that the peer acknowledged (a SYN may count as one).
    BYTES_ACKED = "tcp_sock.bytes_acked";
    /// First thread of the current task's process.
    LEADER = "task_struct.group_leader";
    /// Command name of a thread.
    COMM = "task_struct.comm";
}

/// Fields that are read with a helper. Lockdown forbids that, and they are then absent.
pub const BY_HELPER: &[usize] = &[LEADER, COMM];

/// The programs, as indices into `COUNTS`.
pub mod program {
    /// Round trips.
    pub const TCP_PROBE: u32 = 0;
    /// Connects, listeners and closes.
    pub const INET_SOCK_SET_STATE: u32 = 1;
    /// Retransmitted segments.
    pub const TCP_RETRANSMIT_SKB: u32 = 2;
    /// Received resets.
    pub const TCP_RECEIVE_RESET: u32 = 3;
    /// IPv4 connects without a route.
    pub const TCP_V4_CONNECT: u32 = 4;
    /// IPv6 connects without a route.
    pub const TCP_V6_CONNECT: u32 = 5;
}

/// Values of [`NetworkEvent::kind`].
pub mod kind {
    /// A round trip far above its baseline.
    pub const RTT_SPIKE: u32 = 1;
    /// The level of round trips has changed.
    pub const RTT_SHIFT: u32 = 2;
    /// The peer reset a connect, or the path rejected it.
    pub const CONNECTION_REFUSED: u32 = 3;
    /// A connect was not answered.
    pub const CONNECTION_TIMEOUT: u32 = 4;
    /// A connect failed: host or network unreachable, no route, or no local port left.
    pub const CONNECTION_UNREACHABLE: u32 = 5;
    /// The peer reset a connection that had carried data.
    pub const CONNECTION_RESET: u32 = 6;
    /// A handshake far above its baseline.
    pub const CONNECT_SLOW: u32 = 7;
    /// Far more retransmitted segments than this destination's baseline.
    pub const RETRANSMIT_BURST: u32 = 8;
    /// The peer of a connection no longer answers.
    pub const PEER_UNRESPONSIVE: u32 = 9;
}

/// Values of [`NetworkEvent::direction`]: which side opened the connection.
pub mod direction {
    /// Not known.
    pub const UNKNOWN: u32 = 0;
    /// This host connected.
    pub const OUTBOUND: u32 = 1;
    /// The peer connected.
    pub const INBOUND: u32 = 2;
}

/// The port of the service. If it is not known which side opened the connection, the lower port: kernels choose high
/// ones for clients, so all connections to a service share one baseline.
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
    /// When it happened, and the owner of the socket.
    pub header: Header,
    /// One of [`kind`].
    pub kind: u32,
    /// One of [`direction`].
    pub direction: u32,
    /// Local address; IPv4 as IPv4-mapped IPv6.
    pub local: [u8; 16],
    /// Remote address; IPv4 as IPv4-mapped IPv6.
    pub remote: [u8; 16],
    /// Local port; 0 if the connect failed before one was chosen.
    pub local_port: u16,
    /// Remote port.
    pub remote_port: u16,
    /// Inode number of the socket's network namespace; 0 if unknown.
    pub netns: u32,
    /// RTT kinds: the round trip. Connect kinds: time since the connect began. Burst: length of the window so far.
    /// Microseconds.
    pub value_us: u64,
    /// RTT kinds: the part that the network must have taken; the rest may be the peer's. Microseconds.
    pub certain_us: u64,
    /// RTT kinds: when the run of abnormal samples began, boot clock; else 0.
    pub since_ns: u64,
    /// Connect kinds: retransmitted SYNs. Burst: retransmitted segments in the window. Unresponsive: retransmissions of the
    /// oldest segment.
    pub retransmits: u32,
    /// Burst: segments sent in the window, retransmissions included. Timeout: how many connects in a row were given up
    /// before any SYN was retransmitted; 0 if one was.
    pub segments: u32,
    /// Failed connects, unresponsive: the socket's errno; 0 if the application gave up, or the kernel has not given up
    /// yet.
    pub errno: u32,
    /// Reset, unresponsive: milliseconds since the peer's last acknowledgement.
    pub idle_ms: u32,
    /// Reset, unresponsive: payload bytes received on the connection.
    pub bytes_received: u64,
    /// Reset, unresponsive: payload bytes that the peer had acknowledged.
    pub bytes_acked: u64,
    /// The baseline before this sample; all zeros for kinds without one.
    pub baseline: Baseline,
}

impl Event for NetworkEvent {
    fn header(&self) -> &Header {
        &self.header
    }
}

/// Key of a baseline.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Destination {
    /// Remote address; IPv4 as IPv4-mapped IPv6.
    pub address: [u8; 16],
    /// Inode number of the network namespace for loopback addresses, else 0.
    pub netns: u32,
    /// A [`service_port`].
    pub port: u16,
    /// One of [`direction`].
    pub direction: u16,
}

impl Destination {
    /// Hash that gives the place of its baseline, and a tag to recognise it there. `seed` is the value of
    /// [`crate::SEED`], so that nobody can choose addresses that collide.
    #[inline(always)]
    #[must_use]
    pub fn hash(&self, seed: u64) -> u64 {
        // Multiply and fold, as wyhash does, with its constants.
        let words: [u64; 3] = bytemuck::cast(*self);
        let mut hash = seed;
        hash = (hash ^ words[0]).wrapping_mul(0xa076_1d64_78bd_642f);
        hash = (hash ^ (hash >> 32) ^ words[1]).wrapping_mul(0xe703_7ed1_a0b4_28db);
        hash = (hash ^ (hash >> 32) ^ words[2]).wrapping_mul(0x8ebc_6af0_9c88_c6e3);
        hash ^ (hash >> 32)
    }

    /// Where its [`Path`] is: the first of [`WAYS`] indices, and the tag.
    #[inline(always)]
    #[must_use]
    pub fn place(&self, seed: u64) -> (u32, u32) {
        let hash = self.hash(seed);
        (hash as u32 & (MAX_DESTINATIONS - WAYS), (hash >> 32) as u32 | 1)
    }
}

/// Maximum number of destinations with a baseline; a power of two.
pub const MAX_DESTINATIONS: u32 = 65_536;

/// How many places the [`Path`] of a destination can be in; a power of two. If all are taken, one is evicted.
pub const WAYS: u32 = 4;

/// Name of the array of [`Path`]s.
pub const PATHS: &str = "PATHS";

/// Round trips of one destination; one cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Path {
    /// The destination.
    pub key: Destination,
    /// Upper half of the key's hash; 0 if the place is free. Written last; sockets compare it to detect that their path
    /// was evicted.
    pub tag: u32,
    /// Segments sent to the destination, as of the last readings; wraps.
    pub segments: u32,
    /// Baseline of its round trips, in microseconds.
    pub rtt: Baseline,
}

/// A listening port. It tells inbound connections from outbound ones.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Port {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// The port, or [`Port::ALL`] to mark a namespace whose listening ports are all known.
    pub port: u32,
}

impl Port {
    /// Not a port, but the mark that all listening ports of the namespace are known.
    pub const ALL: u32 = 0;
}

/// The process that created a socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Owner {
    /// Cgroup id; 0 if unknown.
    pub cgroup_id: u64,
    /// Process id in the root PID namespace; 0 if unknown.
    pub pid: u32,
    /// 1 for a socket of the agent itself, which is never judged.
    pub is_agent: u32,
    /// Command name; all zeros if unknown.
    pub comm: Comm,
}

/// State of a listening port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Listener {
    /// The process that last called `listen`; unknown if it did so before the agent started.
    pub owner: Owner,
    /// Number of listening sockets: several may share a port (`SO_REUSEPORT`, or different addresses).
    pub sockets: u64,
}

/// Thresholds that the kernel programs receive as constants.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Settings {
    /// For round trips, in microseconds.
    pub rtt: Limits,
    /// For handshakes, in microseconds.
    pub connect: Limits,
    /// For the share of retransmitted segments per window, in 1/1024.
    pub retransmit: Limits,
    /// Length of a retransmit window.
    pub retransmit_window_ns: u64,
    /// Minimum number of retransmitted segments in a window for a burst.
    pub retransmit_min_segments: u64,
    /// Minimum share of retransmitted segments for a burst, in 1/1024.
    pub retransmit_min_share: u64,
    /// Cool-down: how long further events of a key are suppressed.
    pub cooldown_ns: u64,
}
