//! The CPU observer's section of the configuration.

use tapio_common::{baseline, cpu};
use tapio_service::setting::{Count, MS, Percent, Ratio, SEC, Time, Wrong, settings};

settings! {
    /// Thresholds of the CPU observer. Its kernel program judges, so a change takes effect at the next start.
    pub struct Settings {
        /// How long waits are summed up before they are judged.
        pub window: Time<{ 100 * MS }, { 300 * SEC }> = Time::of_ns(2 * SEC),
        /// A wait shorter than this is not counted: tasks that share a CPU run by turns of some milliseconds.
        pub min_wait: Time<0, { 10 * SEC }> = Time::of_ns(MS),
        /// What share of the time the tasks of a group may wait for others, however little it was before. Each task that
        /// waits counts.
        pub floor: Percent = Percent::of(20),
        /// How many times the mean is too much.
        pub ratio: Ratio<110, 10_000> = Ratio::of_percent(200),
        /// How many mean deviations over the mean are too much.
        pub deviations: Count<1, 100> = Count::of(4),
        /// How many windows in a row it has to last. At most run.
        pub sustain: Count<1, 100> = Count::of(3),
        /// How many off the mean on one side are a new level, which is then learned.
        pub run: Count<2, 100> = Count::of(12),
        /// How many teach a baseline before it judges.
        pub min_samples: Count<2, 10_000> = Count::of(16),
        /// How long a group is not reported again.
        pub cooldown: Time<0, { 3_600 * SEC }> = Time::of_ns(60 * SEC),
    }
}

impl Settings {
    /// See [`Observer::check`](crate::observer::Observer::check).
    pub(super) fn check(&self) -> Result<(), (&'static str, Wrong)> {
        if self.sustain.get() > self.run.get() {
            let reason = "must not be more than observer.cpu.run: a level that is learned is not reported";
            return Err(("sustain", Wrong(reason.to_owned())));
        }
        Ok(())
    }

    /// The settings in the form that the kernel program takes. Their ranges fit the narrower types.
    pub(super) fn kernel(&self) -> cpu::Settings {
        cpu::Settings {
            delay: baseline::Limits {
                ratio_percent: self.ratio.as_percent() as u16,
                deviations: self.deviations.get() as u8,
                run: self.run.get() as u8,
                min_samples: self.min_samples.get(),
                floor: u64::from(self.floor.of_1024()) * 1_000_000 / 1024,
                ..baseline::Limits::DEFAULT
            },
            min_wait_ns: self.min_wait.as_ns().max(1),
            window_ns: self.window.as_ns(),
            sustain: self.sustain.get().into(),
            cooldown_ns: self.cooldown.as_ns(),
        }
    }
}
