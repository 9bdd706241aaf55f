//! The node observer: what one look at the files of a cgroup, or of the whole node, gives; and [`cycles`], what
//! its kernel program counts.

pub mod cycles;

use bytemuck::{Pod, Zeroable};

use crate::{Event, Header};

/// A number that could not be read, or that this kernel does not have: nothing is concluded from it.
pub const UNKNOWN: u64 = u64::MAX;
/// A limit that is not set.
pub const UNLIMITED: u64 = u64::MAX - 1;

/// What a record is about: [`Sample::kind`].
pub mod kind {
    /// A cgroup.
    pub const GROUP: u32 = 1;
    /// The whole node; its cgroup is [`crate::WHOLE_NODE`].
    pub const NODE: u32 = 2;
    /// Of a kernel program, a [`super::cycles::CyclesEvent`]: a cgroup needs more cycles an instruction.
    pub const CPI_OUTLIER: u32 = 3;
    /// The same of the whole node.
    pub const IPC_DEGRADED: u32 = 4;
    /// A cgroup above those of containers and units, which has a limit of its own: an [`super::Above`].
    pub const ABOVE: u32 = 5;
}

/// One look. Numbers that only grow are sums since the group was made; each may be [`UNKNOWN`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Sample {
    /// When, and at which group; of no process.
    pub header: Header,
    /// One of [`kind`].
    pub kind: u32,
    /// 1 where containers or units that are looked at themselves are below it: its stalls are theirs.
    pub inner: u32,
    /// Memory: all that is charged to it, caches included.
    pub usage_bytes: u64,
    /// Memory: what cannot be dropped: anonymous and shared memory, and what the kernel keeps for it.
    pub held_bytes: u64,
    /// Memory: its limit, or [`UNLIMITED`].
    pub limit_bytes: u64,
    /// Swap in use.
    pub swap_bytes: u64,
    /// How much swap it may use at most, that in use included.
    pub swap_limit_bytes: u64,
    /// Time in which some task waited for memory, microseconds.
    pub memory_some_us: u64,
    /// Time in which all of them did, microseconds.
    pub memory_full_us: u64,
    /// Time in which some task waited for input or output, microseconds.
    pub io_some_us: u64,
    /// Time in which all of them did, microseconds.
    pub io_full_us: u64,
    /// CPU time used, microseconds.
    pub cpu_us: u64,
    /// CPU time that it may use in a period, microseconds, or [`UNLIMITED`].
    pub quota_us: u64,
    /// Length of a period, microseconds.
    pub period_us: u64,
    /// Periods in which it ran.
    pub periods: u64,
    /// Those of them in which it used up its quota and had to wait.
    pub throttled: u64,
    /// How long it waited, microseconds, summed over CPUs.
    pub throttled_us: u64,
}

impl Sample {
    /// One that knows nothing yet.
    #[must_use]
    pub const fn unknown(kind: u32, header: Header) -> Self {
        Self {
            header,
            kind,
            inner: 0,
            usage_bytes: UNKNOWN,
            held_bytes: UNKNOWN,
            limit_bytes: UNKNOWN,
            swap_bytes: UNKNOWN,
            swap_limit_bytes: UNKNOWN,
            memory_some_us: UNKNOWN,
            memory_full_us: UNKNOWN,
            io_some_us: UNKNOWN,
            io_full_us: UNKNOWN,
            cpu_us: UNKNOWN,
            quota_us: UNKNOWN,
            period_us: UNKNOWN,
            periods: UNKNOWN,
            throttled: UNKNOWN,
            throttled_us: UNKNOWN,
        }
    }
}

impl Event for Sample {
    fn header(&self) -> &Header {
        &self.header
    }
}

/// Longest name of an [`Above`] that is reported.
pub const MAX_NAME: usize = 64;

/// One look at a cgroup above those of containers and units: a pod, a slice. What is below it shares its limits.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Above {
    /// What is the group's own; its kind is [`kind::ABOVE`].
    pub sample: Sample,
    /// Which of those below it used most CPU time since the last look; 0 where that is not known.
    pub cpu_group: u64,
    /// Which of them holds most memory; 0 where that is not known.
    pub memory_group: u64,
    /// How full those below it are at most of limits of their own, 1/1024.
    pub filled: u64,
    /// Sum of the periods in which those below it had used up quotas of their own.
    pub throttled: u64,
    /// How many levels it is above `cpu_group`.
    pub cpu_levels: u32,
    /// How many levels it is above `memory_group`.
    pub memory_levels: u32,
    /// Name of its directory, padded with zeros; all zero where that is longer, or is not plain ASCII.
    pub name: [u8; MAX_NAME],
}

impl Event for Above {
    fn header(&self) -> &Header {
        &self.sample.header
    }
}
