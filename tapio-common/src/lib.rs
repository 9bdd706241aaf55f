//! Shared by the kernel programs and the agent: the layout of events, the keys of readings, and the one [`baseline`].
//! `no_std`, no allocation, no unsafe code.
#![no_std]
#![forbid(unsafe_code)]

pub mod baseline;
pub mod container;
pub mod cpu;
pub mod dns;
pub mod health;
pub mod link;
pub mod majority;
pub mod network;
pub mod node;
pub mod storage;

use bytemuck::{Pod, Zeroable};

/// Name of the global in every kernel object that receives the offsets of the kernel fields it loads.
pub const OFFSETS: &str = "OFFSETS";
/// Offset of a field that this kernel lacks.
pub const ABSENT: u32 = u32::MAX;

/// Stands for a cgroup id: the node as a whole.
pub const WHOLE_NODE: u64 = u64::MAX;
/// Id of the root of cgroup v2: kernel threads, tasks without a cgroup of their own, and all tasks where only cgroup v1 is
/// in use.
pub const ROOT_CGROUP: u64 = 1;
/// Flag in the id of a cgroup v1 of the memory controller, since these ids overlap with those of cgroup v2. The kernel
/// counts ids up from 1 and never reaches it.
pub const CGROUP_V1: u64 = 1 << 63;

/// The first 40 bytes of every event.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Header {
    /// When it happened: nanoseconds of the boot clock (`CLOCK_BOOTTIME`).
    pub time_ns: u64,
    /// Owner: id of its cgroup v2, or with [`CGROUP_V1`] of its cgroup v1 in the memory controller's hierarchy; 0 if
    /// unknown, [`WHOLE_NODE`] for the node.
    pub cgroup_id: u64,
    /// Owner: process id (tgid) in the root PID namespace; 0 if unknown.
    pub pid: u32,
    /// How many events of the same key the cool-down suppressed since the last one.
    pub suppressed: u32,
    /// Owner: command name, padded with zeros; all zeros if unknown.
    pub comm: Comm,
}

/// Time from one reading of a clock to a later one, nanoseconds. 0 if the later one is of another CPU whose clock is a little
/// behind: the clocks that kernel programs read may be while the kernel adjusts them (`ktime_get_mono_fast_ns`,
/// kernel/time/timekeeping.c).
#[inline(always)]
#[must_use]
pub const fn since(now_ns: u64, then_ns: u64) -> u64 {
    let ns = now_ns.wrapping_sub(then_ns);
    if ns.cast_signed() < 0 { 0 } else { ns }
}

/// A command name as the kernel stores it: at most 15 bytes, padded with zeros. Two words, since a kernel program would
/// copy bytes, and keep them on its stack, one by one.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Comm([u64; 2]);

impl From<[u8; 16]> for Comm {
    fn from(bytes: [u8; 16]) -> Self {
        bytemuck::cast(bytes)
    }
}

impl From<Comm> for [u8; 16] {
    fn from(comm: Comm) -> Self {
        bytemuck::cast(comm)
    }
}

/// A record of a kernel program's ring buffer.
pub trait Event: Pod {
    /// The header, which is the first field of every record.
    fn header(&self) -> &Header;
}

/// Outcomes of one kernel program's readings, per CPU. `seen = learning + normal + suppressed + emitted + failed`,
/// exactly.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Counts {
    /// Readings taken.
    pub seen: u64,
    /// Readings that trained a baseline with too few samples to judge them.
    pub learning: u64,
    /// Normal readings, and events that are not an anomaly.
    pub normal: u64,
    /// Anomalies suppressed by the cool-down of their key; the next event carries their number.
    pub suppressed: u64,
    /// Events written to the ring buffer.
    pub emitted: u64,
    /// Events lost because the ring buffer was full.
    pub failed: u64,
    /// Keys that appeared for the first time. Not part of the sum.
    pub keys: u64,
}

impl Counts {
    /// Adds the counts of another CPU or program.
    pub fn add(&mut self, other: &Self) {
        self.seen += other.seen;
        self.learning += other.learning;
        self.normal += other.normal;
        self.suppressed += other.suppressed;
        self.emitted += other.emitted;
        self.failed += other.failed;
        self.keys += other.keys;
    }

    /// Sum of all outcomes; equals `seen` unless a program is running.
    #[must_use]
    pub const fn accounted(&self) -> u64 {
        self.learning + self.normal + self.suppressed + self.emitted + self.failed
    }
}

/// Declares the kernel fields that an observer's programs load, each as an index into `OFFSETS`.
#[macro_export]
macro_rules! fields {
    ($($(#[$meta:meta])* $name:ident = $path:literal;)*) => {
        /// BTF paths (`struct.member.member`) in the order of `OFFSETS`.
        pub const FIELDS: &[&str] = &[$($path),*];
        $crate::fields!(@index 0usize; $($(#[$meta])* $name)*);
    };
    (@index $at:expr; $(#[$meta:meta])* $name:ident $($rest:tt)*) => {
        $(#[$meta])* pub const $name: usize = $at;
        $crate::fields!(@index $at + 1; $($rest)*);
    };
    (@index $at:expr;) => {};
}

/// Added to the index of a field `func NAME`, an address that stands for this kernel function in a call. The agent
/// replaces the call before it loads an object.
pub const KFUNC: usize = 0x7f00_0000;

/// Added to the index of a field, an offset that stands for the field's in a load of 32 bits. The agent replaces it before
/// it loads an object.
pub const FIELD: usize = 0x7c00;

/// Name of the global that receives the observer's `Settings`, in objects that have any.
pub const SETTINGS: &str = "SETTINGS";
/// Name of the global in every kernel object that identifies the agent's own process.
pub const AGENT: &str = "AGENT";
/// Name of the global that receives the page size in bytes, in objects that need it.
pub const PAGE_BYTES: &str = "PAGE_BYTES";
/// Name of the global that is 1 if a program may interrupt itself on a CPU.
pub const NESTS: &str = "NESTS";
/// Name of the global that receives the seed of hashes, in objects that place keys by their hash. Nobody can guess it,
/// and it stays the same as long as the state that was learned with it is retained.
pub const SEED: &str = "SEED";
/// Name of the global that says what each performance counter counts, in objects that read counters.
pub const COUNTERS: &str = "COUNTERS";
/// Name of the map of cool-downs in every kernel object.
pub const COOLDOWNS: &str = "COOLDOWNS";
/// Name of the ring buffer in every kernel object.
pub const EVENTS: &str = "EVENTS";
/// Name of the per-CPU array of [`Counts`] in every kernel object, with one entry per program.
pub const COUNTS: &str = "COUNTS";

/// The agent's own process, as seen in its own PID namespace, which need not be the root one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Agent {
    /// Device number of `/proc/self/ns/pid`.
    pub pid_namespace_device: u64,
    /// Inode number of `/proc/self/ns/pid`.
    pub pid_namespace_inode: u64,
    /// Process id in that namespace; 0 matches no process.
    pub pid: u64,
    /// Length of a kernel tick (1 / `HZ`), in nanoseconds.
    pub tick_ns: u64,
}

/// Key of a cool-down: one kind of event between one owner and one subject.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CooldownKey {
    /// Cgroup id of the owner.
    pub cgroup_id: u64,
    /// Command name of the owner.
    pub comm: Comm,
    /// Subject: an address.
    pub subject: [u8; 16],
    /// More of the subject: a port.
    pub detail: u32,
    /// Kind of event, as the observer numbers them.
    pub kind: u32,
}

/// State of one cool-down.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Cooldown {
    /// When the last event was emitted, boot clock.
    pub emitted_ns: u64,
    /// How many events were suppressed since.
    pub suppressed: u64,
}

#[cfg(test)]
mod tests {
    use super::since;

    #[test]
    fn a_clock_that_is_behind_another_is_at_no_distance() {
        assert_eq!([since(9, 4), since(4, 4), since(4, 9)], [5, 0, 0]);
        // A time before the boot, as a length that is longer than the uptime gives.
        assert_eq!(since(10, 4_u64.wrapping_sub(100)), 106);
    }
}
