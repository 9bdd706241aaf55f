//! The counters of one network namespace as a record, with the next hops of its routes and the counters of its devices.

use bytemuck::{Pod, Zeroable};
use tapio_common::{Event, Header, link::kind};

/// A number that is not there. Nothing is concluded from it.
pub const UNKNOWN: u64 = u64::MAX;
/// Bytes of the address of a next hop: IPv6, or IPv4 mapped to it.
pub const NEXT_HOP_BYTES: usize = 16;

/// The counters of one network namespace: sums since it exists. Any number may be [`UNKNOWN`]. In a record the addresses of its
/// next hops follow, [`NEXT_HOP_BYTES`] each, and its [`DeviceDrops`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Namespace {
    /// Owner: the pod or container whose namespace it is, or the node.
    pub header: Header,
    /// [`kind::COUNTERS`].
    pub kind: u32,
    /// The port of the socket with the longest queue.
    pub port: u32,
    /// Identifies it: inode number of `/proc/PID/net/stat`, of each process in it.
    pub id: u64,
    /// Connections that were dropped since a server did not accept them in time (`ListenOverflows`).
    pub listen_overflows: u64,
    /// Packets that were dropped since their connection could not be tracked (`drop`).
    pub untracked: u64,
    /// Tracked connections that made room for new ones (`early_drop`): those that have not been answered.
    pub evicted: u64,
    /// Connections that are tracked.
    pub tracked: u64,
    /// The most that can be tracked (`nf_conntrack_max`).
    pub tracked_limit: u64,
    /// Packets that were dropped, by [`Reason`].
    pub drops: [u64; Reason::OF_NAMESPACE.len()],
    /// Of the listening sockets, how many connections wait in the longest queue; 0 if none waits.
    pub longest: u32,
    /// The number of next hops that follow.
    pub next_hops: u32,
}

impl Event for Namespace {
    fn header(&self) -> &Header {
        &self.header
    }
}

impl Namespace {
    /// One of which nothing is known.
    #[must_use]
    pub const fn unknown(id: u64, header: Header) -> Self {
        Self {
            header,
            kind: kind::COUNTERS,
            port: 0,
            id,
            listen_overflows: UNKNOWN,
            untracked: UNKNOWN,
            evicted: UNKNOWN,
            tracked: UNKNOWN,
            tracked_limit: UNKNOWN,
            drops: [UNKNOWN; Reason::OF_NAMESPACE.len()],
            longest: 0,
            next_hops: 0,
        }
    }
}

/// The packets that a network device dropped since it exists.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct DeviceDrops {
    /// Its name, padded with zeros.
    pub name: [u8; 16],
    /// By [`Reason::OF_DEVICE`].
    pub drops: [u64; Reason::OF_DEVICE.len()],
}

/// Why packets are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A process does not read its UDP socket fast enough (`RcvbufErrors`).
    UdpReceiveBuffer,
    /// A process holds a TCP socket while too much arrives for it (`TCPBacklogDrop`).
    TcpBacklog,
    /// A CPU does not process what its devices receive fast enough (`softnet_stat`). Counted for the node.
    CpuBacklog,
    /// A device has no room for what it receives, or cannot use it (`rx_dropped`, `rx_missed_errors`, `rx_fifo_errors`).
    DeviceReceive,
    /// A device cannot send what it is given (`tx_dropped`, `tx_fifo_errors`).
    DeviceTransmit,
}

impl Reason {
    /// Those that are counted for a namespace, in the order of [`Namespace::drops`].
    pub const OF_NAMESPACE: [Self; 3] = [Self::UdpReceiveBuffer, Self::TcpBacklog, Self::CpuBacklog];
    /// Those that are counted for each device.
    pub const OF_DEVICE: [Self; 2] = [Self::DeviceReceive, Self::DeviceTransmit];

    /// Its name in data.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UdpReceiveBuffer => "udp_receive_buffer",
            Self::TcpBacklog => "tcp_backlog",
            Self::CpuBacklog => "cpu_backlog",
            Self::DeviceReceive => "device_receive",
            Self::DeviceTransmit => "device_transmit",
        }
    }
}
