//! The storage observer's section of the configuration.

use tapio_common::{baseline::Limits, storage};
use tapio_service::setting::{Bytes, Count, MS, Percent, SEC, Time, US, settings};

settings! {
    /// Thresholds of the storage observer. Its kernel program judges, so a change takes effect at the next start.
    pub struct Settings {
        /// A request that takes longer is storage.io_slow, or storage.queue_saturated, whatever is normal.
        pub slow: Time<MS, { 600 * SEC }> = Time::of_ns(2 * SEC),
        /// Latency, per device and operation: storage.io_slow, storage.queue_saturated. What is judged is the shortest time
        /// of four requests.
        pub latency: Latency = Latency::default(),
        /// How long a device stays quiet after an anomaly of a kind; those suppressed are counted into the next one.
        pub cooldown: Time<MS, { 3_600 * SEC }> = Time::of_ns(SEC),
        /// File systems: storage.filesystem_full, storage.filesystem_readonly.
        pub filesystems: Filesystems = Filesystems::default(),
    }
}

settings! {
    /// When a file system is nearly full.
    pub struct Filesystems {
        /// How often file systems are looked at.
        pub interval: Time<{ 100 * MS }, { 3_600 * SEC }> = Time::of_ns(10 * SEC),
        /// A file system of which less than this share of the bytes, or of the inodes, is available is nearly full.
        pub free: Percent = Percent::of(5),
        /// A file system with at least so many bytes available is not nearly full, whatever their share.
        pub free_bytes: Bytes<0, { 1 << 50 }> = Bytes::of(20 << 30),
    }
}

settings! {
    /// When the latency of a device is abnormal.
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

impl Settings {
    /// The settings in the form that the kernel program takes.
    #[must_use]
    pub fn kernel(&self) -> storage::Settings {
        storage::Settings {
            latency: Limits {
                floor: self.latency.floor.as_ns() / US,
                run: self.latency.run.get() as u8,
                min_samples: self.latency.min_samples.get(),
                ..Limits::DEFAULT
            },
            slow_us: self.slow.as_ns() / US,
            cooldown_ns: self.cooldown.as_ns(),
        }
    }
}
