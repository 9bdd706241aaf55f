//! The link observer's section of the configuration.

use tapio_common::{baseline, link};
use tapio_service::setting::{Count, MS, Ratio, SEC, Time, settings};

use crate::observer::gauge::Sustained;

settings! {
    /// Thresholds of the link observer.
    pub struct Settings {
        /// How often the counters of network namespaces are looked at. Where they are so many that this takes more than a
        /// thousandth of a CPU, less often.
        pub interval: Time<{ 500 * MS }, { 300 * SEC }> = Time::of_ns(10 * SEC),
        /// How long the windows are in which the usual rate of link.listen_overflow is learned: at that rate, one report a
        /// window stands for all.
        pub expected_window: Time<{ 10 * SEC }, { 86_400 * SEC }> = Time::of_ns(600 * SEC),
        /// How long a gateway that does not answer stays quiet after link.neighbor_failed; failures meanwhile are counted into
        /// the next one.
        pub cooldown: Time<MS, { 3_600 * SEC }> = Time::of_ns(60 * SEC),
        /// Devices that lose their carrier again and again: link.flapping.
        pub flapping: Flapping = Flapping::default(),
        /// Packets dropped in a minute, by reason, against their past: link.packet_drops.
        pub drops: Drops = Drops::default(),
    }
}

settings! {
    /// When a device is flapping.
    pub struct Flapping {
        /// How often it has to lose its carrier within the window.
        pub losses: Count<2, 1_000> = Count::of(5),
        /// How long the window is.
        pub window: Time<SEC, { 86_400 * SEC }> = Time::of_ns(600 * SEC),
    }
}

settings! {
    /// When drops are abnormal for what they were before.
    pub struct Drops {
        /// How many a minute over the mean are never too much.
        pub floor: Count<1, 1_000_000> = Count::of(600),
        /// How many times the mean is too much.
        pub ratio: Ratio<110, 10_000> = Ratio::of_percent(200),
        /// How many looks in a row it has to last.
        pub sustain: Count<1, 100> = Count::of(2),
        /// How many off the mean on one side are a new level, which is then learned.
        pub run: Count<2, 100> = Count::of(12),
        /// How many teach a baseline before it judges.
        pub min_samples: Count<2, 10_000> = Count::of(8),
    }
}

/// The settings in the units that samples are judged in.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) expected_window_ns: u64,
    /// A device that loses its carrier so often is flapping,
    pub(super) losses: usize,
    /// if it does within this time.
    pub(super) losses_within_ns: u64,
    /// Limits for packets a minute.
    pub(super) drops: Sustained,
}

impl Settings {
    /// The settings in the form that the kernel program takes.
    #[must_use]
    pub fn kernel(&self) -> link::Settings {
        link::Settings { cooldown_ns: self.cooldown.as_ns() }
    }

    // The ranges of the settings fit the narrower types.
    pub(super) fn limits(&self) -> Limits {
        let drops = &self.drops;
        let limits = baseline::Limits {
            ratio_percent: drops.ratio.as_percent() as u16,
            run: drops.run.get() as u8,
            min_samples: drops.min_samples.get(),
            floor: drops.floor.get().into(),
            ..baseline::Limits::DEFAULT
        };
        Limits {
            expected_window_ns: self.expected_window.as_ns(),
            losses: self.flapping.losses.get() as usize,
            losses_within_ns: self.flapping.window.as_ns(),
            drops: Sustained { limits, sustain: drops.sustain.get() },
        }
    }
}
