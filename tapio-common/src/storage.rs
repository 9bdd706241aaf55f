//! Storage observer: event layout, keys of readings, kernel fields, and settings.

use bytemuck::{Pod, Zeroable};

use crate::{
    Event, Header,
    baseline::{Baseline, Limits},
    majority::Majority,
    since,
};

crate::fields! {
    /// When a request was made: nanoseconds of the monotonic clock; 0 if the device keeps no statistics.
    START = "request.start_time_ns";
    /// When it was given to the device, by the same clock; 0 if unknown.
    IO_START = "request.io_start_time_ns";
    /// Operation in the low 8 bits, and `REQ_*` flags.
    FLAGS = "request.cmd_flags";
    /// Bytes that are left to do.
    BYTES = "request.__data_len";
    /// First sector that is left to do, of 512 bytes.
    SECTOR = "request.__sector";
    /// What the request is for; null for a flush.
    BIO = "request.bio";
    /// The queue of the device.
    QUEUE = "request.q";
    /// The device, since 5.17.
    DISK = "request_queue.disk";
    /// The device, before that.
    OLD_DISK = "request.rq_disk";
    /// Major number of the device.
    MAJOR = "gendisk.major";
    /// Minor number of the device.
    MINOR = "gendisk.first_minor";
    /// Name of the device, 32 bytes.
    NAME = "gendisk.disk_name";
    /// State of the cgroup that it is charged to.
    BLKG = "bio.bi_blkg";
    /// The same state of the controller.
    BLKCG = "blkcg_gq.blkcg";
    /// Cgroup of that state.
    CGROUP = "blkcg.css.cgroup";
    /// Hierarchy of a cgroup.
    CGROUP_ROOT = "cgroup.root";
    /// Number of a hierarchy; 0 is cgroup v2.
    HIERARCHY = "cgroup_root.hierarchy_id";
    /// Node of a cgroup in the cgroup file system.
    CGROUP_KN = "cgroup.kn";
    /// Id of the node: the inode number of the directory.
    KN_ID = "kernfs_node.id";
    /// Whether the error of a request is a `blk_status_t`; before 5.16 it is an errno.
    STATUS = "block_rq_complete(blk_status_t)";
}

/// The programs, as indices into `COUNTS`.
pub mod program {
    /// Requests that are done.
    pub const BLOCK_RQ_COMPLETE: u32 = 0;
}

/// Values of [`StorageEvent::kind`], and of the same field of records that the agent itself makes.
pub mod kind {
    /// The device reported an error.
    pub const IO_ERROR: u32 = 1;
    /// A request took too long, whatever is normal.
    pub const IO_SLOW: u32 = 2;
    /// The level of a device's latency has risen.
    pub const LATENCY_SHIFT: u32 = 3;
    /// File systems that are mounted: after this field comes JSON.
    pub const FILESYSTEMS: u32 = 4;
}

/// Values of [`StorageEvent::operation`]: those of `enum req_op`, include/linux/blk_types.h, that somebody waits for.
pub mod operation {
    /// A read.
    pub const READ: u32 = 0;
    /// A write.
    pub const WRITE: u32 = 1;
    /// A flush of the device's cache.
    pub const FLUSH: u32 = 2;
}

/// Words of a device's name.
pub const NAME_WORDS: usize = 4;

/// Requests that are compared with each other.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Series {
    /// The device, as `dev_t` of user space: `makedev(major, minor)`.
    pub device: u64,
    /// One of [`operation`].
    pub operation: u32,
    /// 1 for requests over [`LARGE_BYTES`], which take longer by nature.
    pub is_large: u32,
}

/// Requests over this take longer by nature.
pub const LARGE_BYTES: u32 = 128 << 10;

/// What is normal for a series.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Latency {
    /// Shortest time of the requests since the last reading, in microseconds.
    pub lowest_us: u32,
    /// How much of it the request waited for the device to take it.
    pub waited_us: u32,
    /// Number of requests since the last reading.
    pub requests: u32,
    /// Unused.
    pub padding: u32,
    /// When the last reading was complete. Monotonic clock, nanoseconds.
    pub read_ns: u64,
    /// The baseline of readings, in microseconds.
    pub baseline: Baseline,
}

/// Who keeps a device busy.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Load {
    /// Whose bytes they are since [`Self::since_ns`].
    pub bytes: Majority,
    /// When counting began. Monotonic clock, nanoseconds.
    pub since_ns: u64,
}

impl Load {
    /// How long bytes are counted before all starts again.
    pub const WINDOW_NS: u64 = 10_000_000_000;
    /// The share of the bytes from which on a cgroup has clearly most of them.
    const LEAST_PERCENT: u64 = 75;

    /// Counts the bytes of a request.
    #[inline(always)]
    pub fn count(&mut self, cgroup_id: u64, bytes: u32, now_ns: u64) {
        if since(now_ns, self.since_ns) > Self::WINDOW_NS {
            *self = Self { bytes: Majority::default(), since_ns: now_ns };
        }
        self.bytes.count(cgroup_id, bytes.into());
    }

    /// The cgroup that clearly most bytes are of, and their share of all in percent, which is at least that much.
    #[must_use]
    pub const fn busiest(&self) -> Option<(u64, u64)> {
        self.bytes.most(Self::LEAST_PERCENT)
    }
}

/// One record of the storage observer's ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct StorageEvent {
    /// When it happened, and whose request it was: a cgroup only, since requests end on top of any task.
    pub header: Header,
    /// One of [`kind`].
    pub kind: u32,
    /// One of [`operation`].
    pub operation: u32,
    /// The device, as in [`Series`].
    pub device: u64,
    /// Its name, padded with zeros.
    pub name: [u64; NAME_WORDS],
    /// Time of the request, or the new level. Microseconds.
    pub value_us: u64,
    /// How much of it the request waited for the device to take it.
    pub waited_us: u64,
    /// First sector of the request, of 512 bytes.
    pub sector: u64,
    /// Bytes of the request.
    pub bytes: u64,
    /// Shift: when the run of high readings began. Boot clock; else 0.
    pub since_ns: u64,
    /// Error: an errno.
    pub errno: u32,
    /// Unused.
    pub padding: u32,
    /// Who keeps the device busy.
    pub load: Load,
    /// Shift: the baseline before this reading.
    pub baseline: Baseline,
}

impl Event for StorageEvent {
    fn header(&self) -> &Header {
        &self.header
    }
}

/// Thresholds that the kernel program receives as constants.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Settings {
    /// For latencies, in microseconds.
    pub latency: Limits,
    /// A request that takes longer is reported whatever is normal, in microseconds.
    pub slow_us: u64,
    /// How long a device stays quiet after an event of a kind.
    pub cooldown_ns: u64,
}

/// The errno of a `blk_status_t`, as `blk_status_to_errno` has it (block/blk-core.c). Those of today's kernels: a few
/// numbers moved in 6.x, and those are not errors of a device.
#[must_use]
pub const fn errno(status: u32) -> u32 {
    match status {
        1 => 95,  // BLK_STS_NOTSUPP, EOPNOTSUPP
        2 => 110, // BLK_STS_TIMEOUT, ETIMEDOUT
        3 => 28,  // BLK_STS_NOSPC, ENOSPC
        4 => 67,  // BLK_STS_TRANSPORT, ENOLINK
        5 => 121, // BLK_STS_TARGET, EREMOTEIO
        6 => 52,  // BLK_STS_RESV_CONFLICT, EBADE
        7 => 61,  // BLK_STS_MEDIUM, ENODATA
        8 => 84,  // BLK_STS_PROTECTION, EILSEQ
        9 => 12,  // BLK_STS_RESOURCE, ENOMEM
        12 => 11, // BLK_STS_AGAIN, EAGAIN
        _ => 5,   // BLK_STS_IOERR, EIO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_for_a_while() {
        let mut load = Load::default();
        for nth in 0..100 {
            load.count(if nth % 5 == 0 { 7 } else { 9 }, 4_096, nth);
        }
        assert_eq!(load.busiest(), Some((9, 80)));
        load.count(7, 4_096, Load::WINDOW_NS + 500);
        assert_eq!(load.busiest(), Some((7, 100)));
    }
}
