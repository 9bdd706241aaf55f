//! The kernel side of an observer: its compiled programs, and everything that loading them needs.

use std::fmt;

/// One place in the kernel that an observer watches.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// Kernel program in the observer's object.
    pub program: &'static str,
    /// How it is attached.
    pub attach: Attach,
    /// Fields that it requires, as indices into [`Observer::FIELDS`](super::Observer::FIELDS).
    pub needs: &'static [usize],
    /// The occurrences that are lost without it, human-readable.
    pub gives: &'static str,
    /// Fallbacks for kernels that do not support this program: the first supported one is attached.
    pub or: &'static [Fallback],
}

/// A program that replaces the hook's own where the kernel does not support that one.
#[derive(Clone, Copy, Debug)]
pub struct Fallback {
    /// Kernel program in the observer's object.
    pub program: &'static str,
    /// How it is attached.
    pub attach: Attach,
    /// As [`Hook::needs`].
    pub needs: &'static [usize],
}

/// A capability in addition to CAP_BPF and CAP_PERFMON, which all kernel programs require.
#[derive(Clone, Copy, Debug)]
pub struct Right {
    /// Its name: `CAP_SYS_PTRACE`.
    pub capability: &'static str,
    /// What the observer does with it, human-readable.
    pub gives: &'static str,
    /// What is lost without it, human-readable.
    pub lost: &'static str,
    /// The shipped manifests grant it, so its absence causes a warning.
    pub is_expected: bool,
}

/// An observer's compiled programs, with everything that loading them needs.
#[derive(Debug)]
pub struct Object<'a> {
    /// The observer's name.
    pub name: &'static str,
    /// ELF, eight-byte aligned.
    pub bytes: &'a [u8],
    /// Its programs and where they attach.
    pub hooks: &'static [Hook],
    /// The kernel fields that they load, in the order of `OFFSETS`.
    pub fields: &'static [&'static str],
    /// The fields among them that are read with a helper.
    pub by_helper: ByHelper,
    /// Its `SETTINGS` constant.
    pub settings: &'a [u8],
    /// The performance counters that they read.
    pub counters: Option<&'static Counters>,
    /// Its maps that a state snapshot holds.
    pub snapshot_maps: &'static [SnapshotMap],
    /// The sizes of the maps that every object has.
    pub room: Room,
}

/// The sizes of the maps that every object has. An observer with rare events needs less.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Bytes of the ring buffer. A power of two, and at least 64 KiB, which is one page on some arm64 machines.
    pub ring_bytes: u32,
    /// Number of cool-downs, each of an owner and subject, that fit at a time. The least recently used is evicted.
    pub cooldowns: u32,
}

impl Room {
    /// Room for a few thousand events, of thousands of owners at a time.
    pub const LARGE: Self = Self { ring_bytes: 1 << 20, cooldowns: 8192 };
    /// Room for a burst of a few hundred events, of a thousand owners at a time.
    pub const SMALL: Self = Self { ring_bytes: 128 << 10, cooldowns: 1024 };
}

/// Optional fields that are read with a helper, which a kernel under lockdown forbids.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByHelper {
    /// Indices into the object's fields.
    pub fields: &'static [usize],
    /// What is lost without them beside hooks that need them, human-readable; may be empty.
    pub lost: &'static str,
}

/// A map that holds learned state. A later agent can restore its content as long as [`crate::snapshot::LAYOUT`] is the
/// same.
#[derive(Debug)]
pub struct SnapshotMap {
    /// Its name in the object.
    pub map: &'static str,
    /// Bytes of a key; `None` for an array.
    pub key: Option<usize>,
    /// Bytes of a value.
    pub value: usize,
    /// Byte ranges of a value, from and to, that are transient. A snapshot holds zeros in their place.
    pub transient: &'static [(usize, usize)],
    /// Byte offsets of the baselines in a value. The current run of each is transient.
    pub baselines: &'static [usize],
    /// For an array that is divided into parts of equal size: the map that marks the parts in use.
    pub used: Option<&'static str>,
}

/// Performance counters that one kernel program requires.
#[derive(Debug)]
pub struct Counters {
    /// The program in the observer's object.
    pub program: &'static str,
    /// The counters, in the order of the object's `COUNTERS`.
    pub all: &'static [Counter],
}

/// One performance counter.
#[derive(Debug)]
pub struct Counter {
    /// Human-readable name.
    pub name: &'static str,
    /// The map of the object that holds its descriptors, one per CPU.
    pub map: &'static str,
    /// Candidates for what it counts: the first that the CPU supports is used.
    pub of: &'static [Quantity],
    /// The program cannot work without it.
    pub needed: bool,
}

/// What a performance counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// CPU cycles.
    Cycles,
    /// Retired instructions.
    Instructions,
    /// Retired instructions of user space only. For tests on emulated CPUs, where every instruction takes the same
    /// time.
    InstructionsOfUser,
    /// Cycles in which the CPU waited for memory or for one of its own units.
    StalledCycles,
    /// Misses of the last-level cache.
    CacheMisses,
    /// Nanoseconds of a software clock. For tests without a PMU, of everything but the numbers.
    Clock,
    /// Context switches, one per time slice: with the clock as cycles, "cycles per instruction" is the length of a time
    /// slice. For the same tests.
    Switches,
}

impl Quantity {
    /// Human-readable name.
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
    /// To this BTF tracepoint, which has typed arguments (`tp_btf`).
    BtfTracepoint(&'static str),
    /// To this BTF tracepoint, for slices of time: it costs too much to be always attached. See [`Reads::Slices`](super::Reads).
    Slices(&'static str),
    /// To a classic tracepoint by category and name, with the fields of its format file. Requires a readable tracefs.
    Tracepoint(&'static str, &'static str),
    /// To the entry of this kernel function (`fentry`). Not all kernels support it.
    FunctionEntry(&'static str),
    /// To the exit of this kernel function (`fexit`). Not all kernels support it.
    FunctionExit(&'static str),
    /// To the packets that sockets in any cgroup send or receive. Requires CAP_NET_ADMIN and a cgroup2 hierarchy, and
    /// leaves the programs of others attached.
    CgroupSkb(Direction),
    /// To a clock on each CPU, at this frequency in hertz.
    CpuClock(u64),
    /// To this iterator (`bpf_iter_NAME`). It runs once, over the objects that are older than the agent, when its turn
    /// in `HOOKS` comes: list it last.
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
            Self::Slices(name) => write!(f, "in slices of time, tp_btf {name}"),
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
