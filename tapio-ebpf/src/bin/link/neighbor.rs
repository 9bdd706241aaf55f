//! Fields of a neighbour, and its event.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use tapio_common::{
    Comm, CooldownKey,
    link::{self, NeighborFailed, kind, program},
};
use tapio_ebpf::{Run, is_absent, load, now_ns};

use crate::{OFFSETS, SETTINGS, constant, device::Device};

/// `NUD_FAILED`, include/uapi/linux/neighbour.h.
const FAILED: u8 = 0x20;
// include/linux/socket.h
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// A typed pointer to a neighbour.
#[derive(Clone, Copy)]
pub(crate) struct Neighbor(pub(crate) *const u8);

impl Neighbor {
    #[inline(always)]
    fn load<T: Copy>(self, field: usize) -> T {
        // SAFETY: a typed pointer and an offset of its fields.
        unsafe { load(self.0, &OFFSETS[field]) }
    }

    #[inline(always)]
    pub(crate) fn has_failed(self) -> bool {
        self.load::<u8>(link::STATE) & FAILED != 0
    }

    /// Emits an event, unless this neighbour is in cool-down.
    #[inline(always)]
    pub(crate) fn emit(self) {
        let Some(run) = Run::begin(program::NEIGH_TIMER_HANDLER) else { return };
        let Some(address) = self.address() else { return run.normal() };
        let device = Device(self.load(link::DEVICE));
        let namespace = device.namespace();
        let now = now_ns();
        let key = CooldownKey {
            cgroup_id: namespace,
            comm: Comm::default(),
            subject: bytemuck::cast(address),
            detail: device.load(link::INDEX),
            kind: kind::NEIGHBOR_FAILED,
        };
        run.emit_unless_cooling_down(
            &key,
            constant(&SETTINGS.cooldown_ns),
            now,
            |event: &mut NeighborFailed, suppressed| {
                event.header.time_ns = now;
                event.header.suppressed = suppressed;
                event.kind = kind::NEIGHBOR_FAILED;
                device.describe(namespace, &mut event.device);
                event.address = address;
                event.hardware = self.load(link::HARDWARE);
            },
        );
    }

    /// Its address: IPv6, or IPv4 mapped to it. `None` for other protocols.
    #[inline(always)]
    fn address(self) -> Option<[u32; 4]> {
        let table: *const u8 = self.load(link::TABLE);
        // SAFETY: a typed pointer and an offset of its fields.
        match unsafe { load(table, &OFFSETS[link::FAMILY]) } {
            AF_INET => Some([0, 0, u32::to_be(0xffff), self.word(0)]),
            AF_INET6 => Some([self.word(0), self.word(1), self.word(2), self.word(3)]),
            _ => None,
        }
    }

    /// A word of its address; 0 if it cannot be read.
    #[inline(always)]
    fn word(self, at: usize) -> u32 {
        let base = self.0.wrapping_add(at * size_of::<u32>());
        if !is_absent(&OFFSETS[link::ADDRESS]) {
            // SAFETY: a word of its last member, behind a typed pointer.
            return unsafe { load(base, &OFFSETS[link::ADDRESS]) };
        }
        let offset = constant(&OFFSETS[link::ADDRESS_BY_HELPER]) as usize;
        // SAFETY: the helper tolerates any address.
        unsafe { bpf_probe_read_kernel(base.wrapping_add(offset).cast()) }.unwrap_or_default()
    }
}
