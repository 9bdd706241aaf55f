//! What the kernel programs and the agent share: the layout of events, the keys of
//! readings, and the one baseline. `no_std`, no allocation, no unsafe code.
#![no_std]
#![forbid(unsafe_code)]

pub mod baseline;
pub mod container;
pub mod network;
pub mod node;

use bytemuck::{Pod, Zeroable};

/// Name of the global in every kernel object that receives the offsets of an observer's fields.
pub const OFFSETS: &str = "OFFSETS";
/// Offset of a field that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// In the place of a cgroup's id: the node as a whole, which is no one's in particular.
pub const WHOLE_NODE: u64 = u64::MAX;
/// Set in the id of a cgroup of the memory hierarchy of version 1, whose ids are its own. Those of the kernel
/// are counted up from 1, and never come to it.
pub const VERSION_1: u64 = 1 << 63;

/// The first 40 bytes of every event.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Header {
    /// When it happened: nanoseconds of the boot clock (`CLOCK_BOOTTIME`).
    pub time_ns: u64,
    /// Owner: id of its cgroup in the cgroup2 hierarchy, or with [`VERSION_1`] in that of the memory controller;
    /// 0 where it is not known, [`WHOLE_NODE`] where it is all of it.
    pub cgroup_id: u64,
    /// Owner: process id (thread group) in the root pid namespace; 0 where it is not known.
    pub pid: u32,
    /// How many events of the same key the cool-down suppressed since the last one.
    pub suppressed: u32,
    /// Owner: command name, padded with zeros; all zero where it is not known.
    pub comm: Comm,
}

/// A command name as the kernel keeps it: 15 bytes at most, padded with zeros. Two words, since bytes would be
/// copied, and kept on a kernel program's stack, one by one.
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

/// A record that a kernel program puts into its ring buffer.
pub trait Event: Pod {
    /// The header, which stands first in each record.
    fn header(&self) -> &Header;
}

/// What one kernel program did with its readings, per CPU.
/// `seen = learning + normal + suppressed + emitted + failed`, exactly.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Counts {
    /// Readings taken.
    pub seen: u64,
    /// Readings that taught a baseline which knows too little to judge.
    pub learning: u64,
    /// Readings that were normal, and facts that are no anomaly.
    pub normal: u64,
    /// Anomalies that the cool-down of their key suppressed; the next event carries their number.
    pub suppressed: u64,
    /// Events put into the ring buffer.
    pub emitted: u64,
    /// Events lost because the ring buffer was full.
    pub failed: u64,
    /// Keys met for the first time. Not part of the sum.
    pub keys: u64,
}

impl Counts {
    /// Adds another CPU's or program's counts.
    pub fn add(&mut self, other: &Self) {
        self.seen += other.seen;
        self.learning += other.learning;
        self.normal += other.normal;
        self.suppressed += other.suppressed;
        self.emitted += other.emitted;
        self.failed += other.failed;
        self.keys += other.keys;
    }

    /// What became of the readings; equals `seen` when none is under way.
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

/// Name of the global in kernel objects that receives the observer's `Settings`, if it has any.
pub const SETTINGS: &str = "SETTINGS";
/// Name of the global in every kernel object that tells the agent's own process.
pub const AGENT: &str = "AGENT";
/// Name of the global in kernel objects that want to know the bytes of a page.
pub const PAGE_BYTES: &str = "PAGE_BYTES";
/// Name of the global that tells whether a program may interrupt itself on a CPU: 1.
pub const NESTS: &str = "NESTS";
/// Name of the global in kernel objects that place keys by their hash: a number that nobody can guess, the same as long as
/// what was learned with it is kept.
pub const SEED: &str = "SEED";
/// Name of the global, in a kernel object that reads performance counters, that tells what each counts.
pub const COUNTERS: &str = "COUNTERS";
/// Name of the map of cool-downs in every kernel object.
pub const COOLDOWNS: &str = "COOLDOWNS";
/// Name of the ring buffer in every kernel object.
pub const EVENTS: &str = "EVENTS";
/// Name of the per-CPU array of [`Counts`] in every kernel object, one entry a program.
pub const COUNTS: &str = "COUNTS";

/// The agent's own process, as it sees itself: its pid namespace may not be the root one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Agent {
    /// Device number of `/proc/self/ns/pid`.
    pub pid_namespace_device: u64,
    /// Inode number of `/proc/self/ns/pid`.
    pub pid_namespace_inode: u64,
    /// Process id in that namespace; 0 matches nothing.
    pub pid: u64,
    /// Length of the kernel's tick (`HZ`), in nanoseconds.
    pub tick_ns: u64,
}

/// What stays quiet for a while after an event: one kind of trouble between one owner and one subject.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CooldownKey {
    /// Owner's cgroup.
    pub cgroup_id: u64,
    /// Owner's command name.
    pub comm: Comm,
    /// What it is about: an address.
    pub subject: [u8; 16],
    /// More of what it is about: a port.
    pub detail: u32,
    /// The observer's kind of event.
    pub kind: u32,
}

/// The state of one cool-down.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Cooldown {
    /// When its last event was emitted, boot clock.
    pub emitted_ns: u64,
    /// How many were suppressed since.
    pub suppressed: u64,
}
