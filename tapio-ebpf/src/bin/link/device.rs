//! Fields of a network device.

use tapio_common::link;
use tapio_ebpf::{load, load_words};

use crate::OFFSETS;

/// `__LINK_STATE_NOCARRIER`, include/linux/netdevice.h: its bit.
const NO_CARRIER: u64 = 1 << 2;
/// `IFF_EBRIDGE`, include/linux/netdevice.h.
const BRIDGE: u32 = 1 << 1;

/// A typed pointer to a network device. Fields behind a null pointer read as zero.
#[derive(Clone, Copy)]
pub(crate) struct Device(pub(crate) *const u8);

impl Device {
    #[inline(always)]
    pub(crate) fn load<T: Copy>(self, field: usize) -> T {
        // SAFETY: a typed pointer and an offset of its fields.
        unsafe { load(self.0, &OFFSETS[field]) }
    }

    /// The device that a queueing discipline is for.
    #[inline(always)]
    pub(crate) fn of_queue(discipline: *const u8) -> Self {
        // SAFETY: typed pointers and offsets of their fields.
        unsafe {
            let queue: *const u8 = load(discipline, &OFFSETS[link::QDISC_QUEUE]);
            Self(load(queue, &OFFSETS[link::QUEUE_DEVICE]))
        }
    }

    /// Whether it has no carrier, for a reason of its own: a bridge has one as long as any of its ports has, and a device upon
    /// others, such as a VLAN, as long as they have.
    #[inline(always)]
    pub(crate) fn has_lost_its_carrier(self) -> bool {
        if self.load::<u64>(link::LINK_STATE) & NO_CARRIER == 0 || self.load::<u32>(link::LOSSES) == 0 {
            return false;
        }
        self.load::<u32>(link::FLAGS) & BRIDGE == 0 && self.load::<u8>(link::LOWER_LEVEL) <= 1
    }

    /// Inode number of `/proc/PID/net/stat` in its namespace.
    #[inline(always)]
    pub(crate) fn namespace(self) -> u64 {
        let net: *const u8 = self.load(link::NET);
        // SAFETY: typed pointers and offsets of their fields.
        let inode: u32 = unsafe {
            let stat: *const u8 = load(net, &OFFSETS[link::NET_STAT]);
            load(stat, &OFFSETS[link::INODE])
        };
        inode.into()
    }

    /// As events name it.
    #[inline(always)]
    pub(crate) fn describe(self, namespace: u64, to: &mut link::Device) {
        to.namespace = namespace;
        to.index = self.load(link::INDEX);
        // SAFETY: a member of 16 bytes, behind a typed pointer.
        to.name = unsafe { load_words(self.0, &OFFSETS[link::NAME]) };
    }
}
