//! The counters of one network namespace as a record.

use bytemuck::{Pod, Zeroable};
use tapio_common::{Event, Header};

/// A number that is not there. Nothing is concluded from it.
pub const UNKNOWN: u64 = u64::MAX;

/// The counters of one network namespace: sums since it exists. Any number may be [`UNKNOWN`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Namespace {
    /// Owner: the pod or container whose namespace it is, or the node.
    pub header: Header,
    /// Identifies it.
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
    pub drops: [u64; Reason::ALL.len()],
    /// Of the listening sockets, how many connections wait in the longest queue; 0 if none waits.
    pub longest: u32,
    /// The port of that socket.
    pub port: u32,
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
            id,
            listen_overflows: UNKNOWN,
            untracked: UNKNOWN,
            evicted: UNKNOWN,
            tracked: UNKNOWN,
            tracked_limit: UNKNOWN,
            drops: [UNKNOWN; Reason::ALL.len()],
            longest: 0,
            port: 0,
        }
    }
}

/// Why the kernel drops packets that it has received in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A process does not read its UDP socket fast enough (`RcvbufErrors`).
    UdpReceiveBuffer,
    /// A process holds a TCP socket while too much arrives for it (`TCPBacklogDrop`).
    TcpBacklog,
    /// A CPU does not process what its devices receive fast enough (`softnet_stat`). Counted for the node.
    CpuBacklog,
}

impl Reason {
    /// In the order of [`Namespace::drops`].
    pub const ALL: [Self; 3] = [Self::UdpReceiveBuffer, Self::TcpBacklog, Self::CpuBacklog];

    /// Its name in data.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UdpReceiveBuffer => "udp_receive_buffer",
            Self::TcpBacklog => "tcp_backlog",
            Self::CpuBacklog => "cpu_backlog",
        }
    }
}
