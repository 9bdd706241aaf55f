//! What an observer brings to the kernel: its compiled programs, and what they need.

use std::fmt;

/// One place in the kernel that an observer watches.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// Kernel program in the observer's object.
    pub program: &'static str,
    /// How it is attached.
    pub attach: Attach,
    /// Fields that it cannot do without, as indices into [`Observer::FIELDS`](super::Observer::FIELDS).
    pub needs: &'static [usize],
    /// What is lost without it, for people.
    pub gives: &'static str,
    /// Other programs for the same, for kernels that have nothing for this one: the first that is supported is attached.
    pub or: &'static [Fallback],
}

/// A program in the place of another.
#[derive(Clone, Copy, Debug)]
pub struct Fallback {
    /// Kernel program in the observer's object.
    pub program: &'static str,
    /// How it is attached.
    pub attach: Attach,
    /// As [`Hook::needs`].
    pub needs: &'static [usize],
}

/// A capability beside CAP_BPF and CAP_PERFMON, which all kernel programs take.
#[derive(Clone, Copy, Debug)]
pub struct Right {
    /// Its name: `CAP_SYS_PTRACE`.
    pub capability: &'static str,
    /// What the observer does with it, for people.
    pub gives: &'static str,
    /// What is lost without it, for people.
    pub lost: &'static str,
    /// The shipped manifests grant it, so that its absence is worth a warning.
    pub is_expected: bool,
}

/// What an observer brings: its compiled programs, and what they need.
#[derive(Debug)]
pub struct Object<'a> {
    /// The observer's name.
    pub name: &'static str,
    /// ELF, eight-byte aligned.
    pub bytes: &'a [u8],
    /// Its programs.
    pub hooks: &'static [Hook],
    /// The fields that they load.
    pub fields: &'static [&'static str],
    /// Of them those that are read with a helper.
    pub by_helper: ByHelper,
    /// Its `SETTINGS` constant.
    pub settings: &'a [u8],
    /// The performance counters that they read.
    pub counters: Option<&'static Counters>,
    /// Its maps whose content outlives the agent.
    pub snapshot_maps: &'static [SnapshotMap],
    /// The sizes of the maps that every object has.
    pub room: Room,
}

/// The sizes of the maps that every object has: an observer whose events are rare needs less.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Bytes of the ring in which events wait for the agent: a power of two, and at least 64 KiB, a page of some arm64
    /// machines.
    pub ring_bytes: u32,
    /// Owners and subjects whose cool-down is known at a time; the one quiet longest makes room.
    pub cooldowns: u32,
}

impl Room {
    /// Some thousand events, of thousands of owners at a time.
    pub const LARGE: Self = Self { ring_bytes: 1 << 20, cooldowns: 8192 };
    /// A burst of some hundred events, of a thousand owners at a time.
    pub const SMALL: Self = Self { ring_bytes: 128 << 10, cooldowns: 1024 };
}

/// Fields that are read with a helper, and which programs do without: a kernel that is locked down forbids it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByHelper {
    /// As indices into an object's fields.
    pub fields: &'static [usize],
    /// What is lost without them, for people.
    pub lost: &'static str,
}

/// A map in which kernel programs keep what they have learned. Its content is the same to the agent that comes after this
/// one, as long as [`crate::snapshot::LAYOUT`] is.
#[derive(Debug)]
pub struct SnapshotMap {
    /// Its name in the object.
    pub map: &'static str,
    /// Bytes of a key; `None` for an array.
    pub key: Option<usize>,
    /// Bytes of a value.
    pub value: usize,
    /// Bytes of a value, from and to, that are of the moment: they are zero when it is taken up again.
    pub moment: &'static [(usize, usize)],
    /// Where in a value baselines are. Of these the run under way is of the moment.
    pub baselines: &'static [usize],
    /// Of an array: the map that notes which of its parts, all as large, have been used.
    pub used: Option<&'static str>,
}

/// Performance counters that one kernel program reads, and is nothing without.
#[derive(Debug)]
pub struct Counters {
    /// The program in the observer's object.
    pub program: &'static str,
    /// In the order of the object's `COUNTERS`.
    pub all: &'static [Counter],
}

/// One of them.
#[derive(Debug)]
pub struct Counter {
    /// For people.
    pub name: &'static str,
    /// The map of the object that holds it, one for each CPU.
    pub map: &'static str,
    /// What it counts: the first of these that the CPU has.
    pub of: &'static [Quantity],
    /// The program is nothing without it.
    pub needed: bool,
}

/// What a performance counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// Cycles of the CPU.
    Cycles,
    /// Instructions that it has done.
    Instructions,
    /// Those of them that were no part of the kernel. For tests, on emulated CPUs whose instructions all take as
    /// long.
    InstructionsOfUser,
    /// Cycles in which it waited for memory or another of its units.
    StalledCycles,
    /// Misses of its last cache.
    CacheMisses,
    /// Nanoseconds. For tests of all but the numbers, where there is no PMU.
    Clock,
    /// Switches of tasks: of a slice one, so that "cycles per instruction" of a clock is how long slices are. For the same
    /// tests.
    Switches,
}

impl Quantity {
    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cycles => "cycles",
            Self::Instructions => "instructions",
            Self::InstructionsOfUser => "instructions of user space",
            Self::StalledCycles => "stalled cycles",
            Self::CacheMisses => "cache misses",
            Self::Clock => "a clock",
            Self::Switches => "switches",
        }
    }
}

/// How a kernel program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// To this tracepoint, with typed arguments (`tp_btf`).
    BtfTracepoint(&'static str),
    /// To a tracepoint by category and name, with the fields of its format file. It takes a readable tracefs.
    Tracepoint(&'static str, &'static str),
    /// To the start of this function of the kernel (`fentry`), which not all kernels allow.
    FunctionEntry(&'static str),
    /// To the end of this function of the kernel (`fexit`), which not all kernels allow.
    FunctionExit(&'static str),
    /// To the packets that sockets in any cgroup send or receive. It takes CAP_NET_ADMIN and a cgroup2 hierarchy; programs of
    /// others stay.
    CgroupSkb(Direction),
    /// To a clock on each CPU, so many times a second.
    CpuClock(u64),
    /// To this iterator (`bpf_iter_NAME`), which runs once, after all hooks are attached: over what is older than the agent.
    Iterator(&'static str),
}

/// The direction of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Received.
    Ingress,
    /// Sent.
    Egress,
}

impl fmt::Display for Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BtfTracepoint(name) => write!(f, "tp_btf {name}"),
            Self::Tracepoint(category, name) => write!(f, "tracepoint {category}/{name}"),
            Self::FunctionEntry(name) => write!(f, "fentry {name}"),
            Self::FunctionExit(name) => write!(f, "fexit {name}"),
            Self::CgroupSkb(Direction::Ingress) => f.write_str("cgroup_skb ingress"),
            Self::CgroupSkb(Direction::Egress) => f.write_str("cgroup_skb egress"),
            Self::CpuClock(hertz) => write!(f, "perf_event cpu-clock {hertz} Hz"),
            Self::Iterator(name) => write!(f, "iter {name}"),
        }
    }
}
