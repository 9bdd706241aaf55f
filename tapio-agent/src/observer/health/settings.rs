//! The health observer's section of the configuration.

use std::time::Duration;

use tapio_common::baseline;
use tapio_service::setting::{Count, MS, Ratio, SEC, Time, settings};

use crate::observer::gauge::Sustained;

settings! {
    /// Thresholds of the health observer, and when it looks.
    pub struct Settings {
        /// How long results of system calls are looked at. As long as they are, each system call of the machine takes some
        /// 140 ns more.
        pub slice: Time<{ 10 * MS }, { 60 * SEC }> = Time::of_ns(100 * MS),
        /// How often they are looked at, on average.
        pub interval: Time<{ 100 * MS }, { 3_600 * SEC }> = Time::of_ns(10 * SEC),
        /// How long they are looked at once more, a second after something began to fail. At most once in six intervals.
        pub second_slice: Time<{ 10 * MS }, { 60 * SEC }> = Time::of_ns(2 * SEC),
        /// How long the windows are in which the usual rate of a workload is learned that fails now and then: at that rate, one
        /// report a window stands for all.
        pub expected_window: Time<{ 10 * SEC }, { 86_400 * SEC }> = Time::of_ns(600 * SEC),
        /// How many failures a minute over the mean are never too much.
        pub floor: Count<1, 1_000_000> = Count::of(60),
        /// How many times the mean is too much.
        pub ratio: Ratio<110, 10_000> = Ratio::of_percent(200),
        /// How many slices in a row it has to last.
        pub sustain: Count<1, 100> = Count::of(2),
        /// How many off the mean on one side are a new level, which is then learned.
        pub run: Count<2, 100> = Count::of(12),
        /// How many slices teach what is normal before anything is reported.
        pub min_samples: Count<2, 10_000> = Count::of(8),
    }
}

/// When system calls are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How long.
    pub slice: Duration,
    /// How often, on average.
    pub interval: Duration,
    /// How long once more, after something began to fail.
    pub second_slice: Duration,
}

/// The settings in the units that slices are judged in.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) expected_window_ns: u64,
    /// Limits for failures a minute.
    pub(super) failures: Sustained,
}

impl Settings {
    pub(super) fn plan(&self) -> Plan {
        Plan { slice: self.slice.get(), interval: self.interval.get(), second_slice: self.second_slice.get() }
    }

    // The ranges of the settings fit the narrower types.
    pub(super) fn limits(&self) -> Limits {
        let limits = baseline::Limits {
            ratio_percent: self.ratio.as_percent() as u16,
            run: self.run.get() as u8,
            min_samples: self.min_samples.get(),
            floor: self.floor.get().into(),
            ..baseline::Limits::DEFAULT
        };
        Limits {
            expected_window_ns: self.expected_window.as_ns(),
            failures: Sustained { limits, sustain: self.sustain.get() },
        }
    }
}
