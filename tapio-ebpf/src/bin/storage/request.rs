//! Fields of a request, and its event.

use aya_ebpf::{macros::map, maps::LruHashMap};
use tapio_common::{
    Comm, CooldownKey,
    storage::{self, Load, StorageEvent, kind},
};
use tapio_ebpf::{Run, is_absent, load, load_words, now_ns};

use crate::{OFFSETS, SETTINGS, constant};

/// Maximum number of devices whose load is known.
const MAX_DEVICES: u32 = 256;

/// Who keeps each device busy.
#[map]
static LOADS: LruHashMap<u64, Load> = LruHashMap::with_max_entries(MAX_DEVICES, 0);

/// A typed pointer to a request. Fields behind a null pointer read as zero.
#[derive(Clone, Copy)]
pub(crate) struct Request(pub(crate) *const u8);

impl Request {
    #[inline(always)]
    pub(crate) fn load<T: Copy>(self, field: usize) -> T {
        // SAFETY: a typed pointer and an offset of its fields.
        unsafe { load(self.0, &OFFSETS[field]) }
    }

    /// `enum req_op`, include/linux/blk_types.h.
    #[inline(always)]
    pub(crate) fn operation(self) -> u32 {
        self.load::<u32>(storage::FLAGS) & 0xff
    }

    /// Cgroup v2 that the request is charged to; 0 if there is none.
    #[inline(always)]
    pub(crate) fn cgroup(self) -> u64 {
        if is_absent(&OFFSETS[storage::BLKG]) {
            return 0;
        }
        let bio: *const u8 = self.load(storage::BIO);
        if bio.is_null() {
            return 0;
        }
        // SAFETY: typed pointers and offsets of their fields; what is behind a null pointer reads as zero.
        unsafe {
            let group: *const u8 = load(bio, &OFFSETS[storage::BLKG]);
            let controller: *const u8 = load(group, &OFFSETS[storage::BLKCG]);
            let cgroup: *const u8 = load(controller, &OFFSETS[storage::CGROUP]);
            let root: *const u8 = load(cgroup, &OFFSETS[storage::CGROUP_ROOT]);
            if root.is_null() || load::<i32>(root, &OFFSETS[storage::HIERARCHY]) != 0 {
                return 0;
            }
            let node: *const u8 = load(cgroup, &OFFSETS[storage::CGROUP_KN]);
            load(node, &OFFSETS[storage::KN_ID])
        }
    }

    #[inline(always)]
    fn disk(self) -> *const u8 {
        if is_absent(&OFFSETS[storage::DISK]) {
            return self.load(storage::OLD_DISK);
        }
        let queue: *const u8 = self.load(storage::QUEUE);
        // SAFETY: a typed pointer and an offset of its fields.
        unsafe { load(queue, &OFFSETS[storage::DISK]) }
    }

    /// The device, as `makedev` of user space numbers it; 0 if there is none.
    #[inline(always)]
    pub(crate) fn device(self) -> u64 {
        let disk = self.disk();
        // SAFETY: a typed pointer and offsets of its fields.
        let (major, minor): (u32, u32) =
            unsafe { (load(disk, &OFFSETS[storage::MAJOR]), load(disk, &OFFSETS[storage::MINOR])) };
        (u64::from(major) << 32) | u64::from(minor)
    }

    /// Counts its bytes for whom keeps the device busy.
    #[inline(always)]
    pub(crate) fn count(self, device: u64, bytes: u32, now_ns: u64) {
        let cgroup_id = self.cgroup();
        if let Some(of_device) = LOADS.get_ptr_mut(&device) {
            // SAFETY: a map value; CPUs that race here can lose the bytes of a request.
            unsafe { &mut *of_device }.count(cgroup_id, bytes, now_ns);
        } else {
            let mut first = Load { since_ns: now_ns, ..Load::default() };
            first.count(cgroup_id, bytes, now_ns);
            let _ = LOADS.insert(&device, &first, 0);
        }
    }

    /// Ends the run with an event about this request, unless its device is in cool-down for this kind.
    #[inline(always)]
    pub(crate) fn emit(self, run: Run, kind: u32, operation: u32, fill: impl FnOnce(&mut StorageEvent)) {
        let now = now_ns();
        let device = self.device();
        let cgroup_id = self.cgroup();
        let key = CooldownKey {
            // A level is the device's; a request is somebody's, who is not another's repeat.
            cgroup_id: if kind == kind::LATENCY_SHIFT { 0 } else { cgroup_id },
            comm: Comm::default(),
            subject: bytemuck::cast([device, 0]),
            detail: operation,
            kind,
        };
        run.emit_unless_cooling_down(
            &key,
            constant(&SETTINGS.cooldown_ns),
            now,
            |event: &mut StorageEvent, suppressed| {
                event.header.time_ns = now;
                event.header.suppressed = suppressed;
                event.header.cgroup_id = cgroup_id;
                event.kind = kind;
                event.operation = operation;
                event.device = device;
                event.sector = self.load(storage::SECTOR);
                // SAFETY: a member of 32 bytes, behind a typed pointer.
                event.name = unsafe { load_words(self.disk(), &OFFSETS[storage::NAME]) };
                if let Some(of_device) = LOADS.get_ptr(&device) {
                    // SAFETY: a map value, copied.
                    event.load = unsafe { *of_device };
                }
                fill(event);
            },
        );
    }
}
