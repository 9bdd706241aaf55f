//! The node observer's section of the configuration.

use tapio_common::{baseline, node::cycles};
use tapio_service::setting::{Count, MS, Percent, Ratio, SEC, Time, settings};

use crate::observer::gauge::Sustained;

/// Deviations from the mean below this are never abnormal: an eighth of a cycle per instruction.
const CPI_FLOOR: u64 = 128;

settings! {
    /// Thresholds of the node observer.
    pub struct Settings {
        /// How often cgroups are looked at. Where they are so many that this takes more than half a percent of a
        /// CPU, less often; where the kernel says that tasks wait, at once.
        pub interval: Time<{ 100 * MS }, { 300 * SEC }> = Time::of_ns(5 * SEC),
        /// Memory that cannot be dropped: node.memory_pressure, node.oom_predicted.
        pub memory: Memory = Memory::default(),
        /// Share of the periods in which a group had used up its quota, against its past: node.cpu_throttled.
        pub cpu: Past = Past { sustain: Count::of(2), ..Past::default() },
        /// Share of the time in which some task waited for memory, against its past: node.memory_pressure.
        pub memory_waiting: Past = Past::default(),
        /// Share of the time in which some task waited for input or output, against its past: node.io_pressure.
        pub io_waiting: Past = Past { floor: Percent::of(20), ..Past::default() },
        /// Cycles per instruction of a group, and of the node, against their past: node.cpi_outlier, node.ipc_degraded.
        /// The kernel program judges, so a change takes effect at the next start.
        pub cycles: Cycles = Cycles::default(),
    }
}

settings! {
    /// When cycles per instruction are too many.
    pub struct Cycles {
        /// How long what is counted is summed up before it is judged.
        pub window: Time<{ SEC }, { 300 * SEC }> = Time::of_ns(10 * SEC),
        /// A group that used less than this of one CPU in a window is not judged.
        pub share: Percent = Percent::of(5),
        /// How many times the mean is too much.
        pub ratio: Ratio<110, 10_000> = Ratio::of_percent(150),
        /// How many mean deviations over the mean are too much.
        pub deviations: Count<1, 100> = Count::of(4),
        /// How many windows in a row it has to last.
        pub sustain: Count<1, 100> = Count::of(3),
        /// How many off the mean on one side are a new level, which is then learned.
        pub run: Count<2, 100> = Count::of(12),
        /// How many teach a baseline before it judges.
        pub min_samples: Count<2, 10_000> = Count::of(16),
        /// How long a group is not reported again.
        pub cooldown: Time<0, { 3_600 * SEC }> = Time::of_ns(60 * SEC),
    }
}

settings! {
    /// When memory is short.
    pub struct Memory {
        /// What share of a group's limit is too much.
        pub share: Percent = Percent::of(80),
        /// What share of the node's memory is too much: of all there is, what is not available.
        pub node_share: Percent = Percent::of(90),
        /// How long before it that running out of memory is reported at most.
        pub horizon: Time<{ 10 * SEC }, { 3_600 * SEC }> = Time::of_ns(600 * SEC),
        /// How steady growth has to be: 100% is a straight line.
        pub confidence: Percent = Percent::of(80),
    }
}

settings! {
    /// When a share is abnormal for what it was before.
    pub struct Past {
        /// How much over the mean is never too much.
        pub floor: Percent = Percent::of(10),
        /// How many times the mean is too much.
        pub ratio: Ratio<110, 10_000> = Ratio::of_percent(200),
        /// How many mean deviations over the mean are too much.
        pub deviations: Count<1, 100> = Count::of(4),
        /// How many looks in a row it has to last.
        pub sustain: Count<1, 100> = Count::of(3),
        /// How many off the mean on one side are a new level, which is then learned.
        pub run: Count<2, 100> = Count::of(12),
        /// How many teach a baseline before it judges.
        pub min_samples: Count<2, 10_000> = Count::of(16),
    }
}

/// The settings in the units that samples are judged in.
#[derive(Debug)]
pub(super) struct Limits {
    /// Share of a cgroup's limit, in 1/1024.
    pub(super) share: u64,
    /// Share of the node's memory, in 1/1024.
    pub(super) node_share: u64,
    pub(super) horizon_s: u64,
    /// From 0 to 1.
    pub(super) confidence: f64,
    /// Limits for shares in 1/1024, as the next two.
    pub(super) cpu: Sustained,
    pub(super) memory: Sustained,
    pub(super) io: Sustained,
    /// The window for cycles and instructions.
    pub(super) window_ns: u64,
    /// How long a cgroup is not reported again for them.
    pub(super) cooldown_ns: u64,
}

impl Settings {
    pub(super) fn limits(&self) -> Limits {
        Limits {
            share: self.memory.share.of_1024().into(),
            node_share: self.memory.node_share.of_1024().into(),
            horizon_s: self.memory.horizon.as_ns() / SEC,
            confidence: f64::from(self.memory.confidence.of_1024()) / 1024.0,
            cpu: self.cpu.share(),
            memory: self.memory_waiting.share(),
            io: self.io_waiting.share(),
            window_ns: self.cycles.window.as_ns(),
            cooldown_ns: self.cycles.cooldown.as_ns(),
        }
    }
}

impl Cycles {
    /// The settings in the form that the kernel program takes. Their ranges fit the narrower types.
    pub(super) fn kernel(&self) -> cycles::Settings {
        let load = baseline::Limits { min_samples: self.min_samples.get(), ..baseline::Limits::DEFAULT };
        let cpi = baseline::Limits {
            ratio_percent: self.ratio.as_percent() as u16,
            deviations: self.deviations.get() as u8,
            run: self.run.get() as u8,
            floor: CPI_FLOOR,
            ..load
        };
        let window_ns = self.window.as_ns();
        cycles::Settings {
            cpi,
            load,
            window_ns,
            min_cpu_ns: window_ns / 1024 * u64::from(self.share.of_1024()),
            sustain: self.sustain.get().into(),
            cooldown_ns: self.cooldown.as_ns(),
        }
    }
}

impl Past {
    // The ranges of the settings fit the narrower types.
    fn share(&self) -> Sustained {
        let limits = baseline::Limits {
            ratio_percent: self.ratio.as_percent() as u16,
            deviations: self.deviations.get() as u8,
            run: self.run.get() as u8,
            min_samples: self.min_samples.get(),
            floor: self.floor.of_1024().into(),
            ..baseline::Limits::DEFAULT
        };
        Sustained { limits, sustain: self.sustain.get() }
    }
}
