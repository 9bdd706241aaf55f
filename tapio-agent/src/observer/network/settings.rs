//! The network observer's section of the configuration.

use tapio_common::{baseline::Limits, network};
use tapio_service::setting::{Count, MS, Off, Percent, Ratio, SEC, Time, US, settings};

settings! {
    /// Thresholds of the network observer. Its kernel programs judge, so a change takes effect at the next start.
    pub struct Settings {
        /// Round trips, per destination: network.rtt_spike, network.rtt_shift. A latency is abnormal when it is
        /// over the mean by all of ratio, deviations and floor, or over the ceiling.
        pub rtt: Latency = Latency::default(),
        /// Handshakes, per destination: network.connect_slow. No ceiling: a far destination is
        /// slow by nature.
        pub connect: Latency = Latency {
            floor: Time::of_ns(10 * MS),
            ceiling: Off(None),
            ..Latency::default()
        },
        /// Retransmitted segments, per destination: network.retransmit_burst. What is judged is their share in a
        /// window: it is abnormal when it is over the mean by all of min_share, ratio and deviations.
        pub retransmit: Retransmit = Retransmit::default(),
        /// How long a destination stays quiet after an anomaly of a kind; those suppressed are counted into the
        /// next one.
        pub cooldown: Time<MS, { 3_600 * SEC }> = Time::of_ns(SEC),
    }
}

settings! {
    /// When a latency is abnormal.
    pub struct Latency {
        /// How many times the mean is too much.
        pub ratio: Ratio<110, 10_000> = Ratio::of_percent(Limits::DEFAULT.ratio_percent as u32),
        /// How many mean deviations over the mean are too much.
        pub deviations: Count<1, 100> = Count::of(Limits::DEFAULT.deviations as u32),
        /// How much over the mean is never too much: keeps jitter on fast paths quiet.
        pub floor: Time<0, { 60 * SEC }> = Time::of_ns(2 * MS),
        /// What is too much whatever was learned.
        pub ceiling: Off<Time<MS, { 600 * SEC }>> = Off(Some(Time::of_ns(500 * MS))),
        /// How many off the mean on one side, with hardly one between that is not, are a shift: a new level, which
        /// is then learned. A restless series takes more, the fewer the further away the level is.
        pub run: Count<2, 100> = Count::of(Limits::DEFAULT.run as u32),
        /// How many teach a baseline before it judges.
        pub min_samples: Count<2, 10_000> = Count::of(Limits::DEFAULT.min_samples),
    }
}

settings! {
    /// When sending again is abnormal.
    pub struct Retransmit {
        /// Length of a window.
        pub window: Time<{ 100 * MS }, { 60 * SEC }> = Time::of_ns(SEC),
        /// How many retransmitted segments in a window make a burst at least.
        pub min_segments: Count<1, 1_000_000> = Count::of(10),
        /// What share of the segments sent makes a burst at least; so much over the mean is never too much, too.
        pub min_share: Percent = Percent::of(5),
        /// How many times the mean is too much.
        pub ratio: Ratio<110, 10_000> = Ratio::of_percent(Limits::DEFAULT.ratio_percent as u32),
        /// How many mean deviations over the mean are too much.
        pub deviations: Count<1, 100> = Count::of(Limits::DEFAULT.deviations as u32),
        /// How many windows off the mean on one side, with hardly one between that is not, are a new level, which
        /// is then learned. A restless series takes more, the fewer the further away the level is.
        pub run: Count<2, 100> = Count::of(Limits::DEFAULT.run as u32),
        /// How many windows teach a baseline before it judges.
        pub min_samples: Count<2, 10_000> = Count::of(Limits::DEFAULT.min_samples),
    }
}

impl Settings {
    /// The settings in the form that the kernel programs take.
    #[must_use]
    pub fn kernel(&self) -> network::Settings {
        network::Settings {
            rtt: self.rtt.kernel(),
            connect: self.connect.kernel(),
            retransmit: self.retransmit.kernel(),
            retransmit_window_ns: self.retransmit.window.as_ns(),
            retransmit_min_segments: self.retransmit.min_segments.get().into(),
            retransmit_min_share: self.retransmit.min_share.of_1024().into(),
            cooldown_ns: self.cooldown.as_ns(),
        }
    }
}

// The ranges of the settings fit the narrower types of the kernel programs.
impl Latency {
    /// The limits in microseconds.
    fn kernel(&self) -> Limits {
        Limits {
            ratio_percent: self.ratio.as_percent() as u16,
            deviations: self.deviations.get() as u8,
            run: self.run.get() as u8,
            min_samples: self.min_samples.get(),
            floor: self.floor.as_ns() / US,
            ceiling: self.ceiling.0.map_or(0, |ceiling| ceiling.as_ns() / US),
        }
    }
}

impl Retransmit {
    /// The limits for shares, in 1/1024.
    fn kernel(&self) -> Limits {
        Limits {
            ratio_percent: self.ratio.as_percent() as u16,
            deviations: self.deviations.get() as u8,
            run: self.run.get() as u8,
            min_samples: self.min_samples.get(),
            floor: self.min_share.of_1024().into(),
            ..Limits::DEFAULT
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_gets_the_documented_units() {
        let kernel = Settings::default().kernel();
        assert_eq!((kernel.rtt.ratio_percent, kernel.rtt.floor, kernel.rtt.ceiling), (200, 2_000, 500_000));
        assert_eq!((kernel.connect.floor, kernel.connect.ceiling), (10_000, 0));
        assert_eq!((kernel.retransmit.floor, kernel.retransmit_min_share), (51, 51));
        assert_eq!((kernel.retransmit_window_ns, kernel.cooldown_ns), (1_000_000_000, 1_000_000_000));
        assert_eq!(kernel.rtt, Limits { floor: 2_000, ceiling: 500_000, ..Limits::DEFAULT });
    }
}
