//! What an observer brings to the kernel: its compiled programs, and what they need.

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
    /// To the end of this function of the kernel (`fexit`), which not all kernels allow.
    FunctionExit(&'static str),
}
