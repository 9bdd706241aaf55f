//! Link observer: event layout, kernel fields, and settings.

use bytemuck::{Pod, Zeroable};

use crate::{Event, Header};

crate::fields! {
    /// State of a neighbour: one of `NUD_*`.
    STATE = "neighbour.nud_state";
    /// Its hardware address, 32 bytes; zeros until it first answers.
    HARDWARE = "neighbour.ha";
    /// Its address, behind the end of the struct, where older kernels allow no typed load.
    ADDRESS = "neighbour.primary_key since 6.1";
    /// The same, read with a helper.
    ADDRESS_BY_HELPER = "neighbour.primary_key";
    /// The table that it is in: ARP or NDP.
    TABLE = "neighbour.tbl";
    /// Address family of a table.
    FAMILY = "neigh_table.family";
    /// The device that it is reached by.
    DEVICE = "neighbour.dev";
    /// Name of a device, 16 bytes.
    NAME = "net_device.name";
    /// Number of a device in its namespace.
    INDEX = "net_device.ifindex";
    /// Network namespace of a device.
    NET = "net_device.nd_net.net";
    /// Directory `/proc/PID/net/stat` of a namespace.
    NET_STAT = "net.proc_net_stat";
    /// Inode number of a file in `/proc`.
    INODE = "proc_dir_entry.low_ino";
    /// Queue of a device that a queueing discipline is for.
    QDISC_QUEUE = "Qdisc.dev_queue";
    /// The device.
    QUEUE_DEVICE = "netdev_queue.dev";
    /// Bits `__LINK_STATE_*` of a device.
    LINK_STATE = "net_device.state";
    /// Bits `IFF_*` of a device that are the kernel's own.
    FLAGS = "net_device.priv_flags";
    /// How many levels of devices are below a device, itself included.
    LOWER_LEVEL = "net_device.lower_level";
    /// How often a device has lost its carrier.
    LOSSES = "net_device.carrier_down_count";
}

/// The fields that are read with a helper.
pub const BY_HELPER: &[usize] = &[ADDRESS_BY_HELPER];

/// The programs, as indices into `COUNTS`.
pub mod program {
    /// Neighbours that do not answer.
    pub const NEIGH_TIMER_HANDLER: u32 = 0;
    /// Devices that lose their carrier.
    pub const QDISC_RESET: u32 = 1;
}

/// What a record is: the field after its header, also of records that the agent itself makes.
pub mod kind {
    /// A neighbour does not answer: [`NeighborFailed`](super::NeighborFailed).
    pub const NEIGHBOR_FAILED: u32 = 1;
    /// Counters of a network namespace, from files.
    pub const COUNTERS: u32 = 2;
    /// A device has lost its carrier: [`CarrierLost`](super::CarrierLost).
    pub const CARRIER_LOST: u32 = 3;
}

/// A device, as events name it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Device {
    /// Its network namespace: inode number of `/proc/PID/net/stat` there, which takes no capability to read.
    pub namespace: u64,
    /// Name, padded with zeros.
    pub name: [u64; 2],
    /// Number in its namespace.
    pub index: u32,
    /// Unused.
    pub padding: u32,
}

/// A neighbour did not answer: its address could not be resolved, or confirmed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct NeighborFailed {
    /// When it happened; has no owner.
    pub header: Header,
    /// [`kind::NEIGHBOR_FAILED`].
    pub kind: u32,
    /// Unused.
    pub padding: u32,
    /// The device that it is reached by.
    pub device: Device,
    /// Its address: IPv6, or IPv4 mapped to it.
    pub address: [u32; 4],
    /// The first eight bytes of its hardware address; zeros if it has never answered.
    pub hardware: u64,
}

impl Event for NeighborFailed {
    fn header(&self) -> &Header {
        &self.header
    }
}

/// A device has no carrier, and had one before.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CarrierLost {
    /// When the kernel took its queues out of use; has no owner.
    pub header: Header,
    /// [`kind::CARRIER_LOST`].
    pub kind: u32,
    /// How often it has lost its carrier so far.
    pub losses: u32,
    /// The device.
    pub device: Device,
}

impl Event for CarrierLost {
    fn header(&self) -> &Header {
        &self.header
    }
}

/// Thresholds that the kernel programs receive as constants.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Settings {
    /// Cool-down: how long further events of a neighbour, or of a loss of carrier, are suppressed.
    pub cooldown_ns: u64,
}
