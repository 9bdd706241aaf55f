//! The DNS observer's section of the configuration.

use tapio_common::{baseline::Limits, dns};
use tapio_service::setting::{Count, MS, Ratio, SEC, Time, US, settings};

use super::{Names, ports::Ports};

settings! {
    /// Thresholds of the DNS observer. Its kernel programs judge, so a change takes effect at the next start.
    pub struct Settings {
        /// The ports of resolvers, at most four. Backends of a cluster's resolver may listen on 1053 or 5353.
        pub ports: Ports = Ports::default(),
        /// How names are shown: full, cut to the last three labels, or as a hash.
        pub names: Names = Names::Full,
        /// A look-up that takes longer is network.dns_slow, whatever is normal.
        pub slow: Time<MS, { 600 * SEC }> = Time::of_ns(SEC),
        /// Latency, per resolver: network.dns_slow. What is judged is the lowest latency of four answers, since a
        /// resolver answers from its cache or asks another.
        pub latency: Latency = Latency::default(),
        /// Look-ups that end in NXDOMAIN, per workload: network.dns_nxdomain_burst.
        pub nxdomain: Nxdomain = Nxdomain::default(),
        /// How long a workload stays quiet about a resolver after an anomaly of a kind; those suppressed are counted
        /// into the next one.
        pub cooldown: Time<MS, { 3_600 * SEC }> = Time::of_ns(SEC),
    }
}

settings! {
    /// When the latency of a resolver is abnormal.
    pub struct Latency {
        /// How much over the mean is never too much.
        pub floor: Time<0, { 60 * SEC }> = Time::of_ns(20 * MS),
        /// How many readings over the mean, with hardly one between that is not, are a new level, which is then
        /// learned. A restless series takes more, the fewer the further away the level is.
        pub run: Count<2, 100> = Count::of(Limits::DEFAULT.run as u32),
        /// How many readings teach a baseline before it judges.
        pub min_samples: Count<2, 10_000> = Count::of(Limits::DEFAULT.min_samples),
    }
}

settings! {
    /// When look-ups of names that do not exist are abnormal. Steps of a search list do not count where another step
    /// succeeds.
    pub struct Nxdomain {
        /// Length of a window.
        pub window: Time<SEC, { 600 * SEC }> = Time::of_ns(10 * SEC),
        /// How many over the mean of a window are never too many.
        pub floor: Count<1, 1_000_000> = Count::of(30),
        /// How many times the mean is too much.
        pub ratio: Ratio<110, 10_000> = Ratio::of_percent(300),
        /// How many windows teach a baseline before it judges. Until then only a workload is reported that resolves
        /// nothing.
        pub min_samples: Count<2, 10_000> = Count::of(6),
    }
}

impl Settings {
    /// The settings in the form that the kernel programs take.
    #[must_use]
    pub fn kernel(&self) -> dns::Settings {
        dns::Settings {
            latency: Limits {
                floor: self.latency.floor.as_ns() / US,
                run: self.latency.run.get() as u8,
                min_samples: self.latency.min_samples.get(),
                ..Limits::DEFAULT
            },
            nxdomain: Limits {
                floor: self.nxdomain.floor.get().into(),
                ratio_percent: self.nxdomain.ratio.as_percent() as u16,
                min_samples: self.nxdomain.min_samples.get(),
                ..Limits::DEFAULT
            },
            nxdomain_window_ns: self.nxdomain.window.as_ns(),
            slow_us: self.slow.as_ns() / US,
            cooldown_ns: self.cooldown.as_ns(),
            ports: self.ports.kernel(),
        }
    }
}
