//! The boot clock, which the kernel programs stamp events with, the time of day, and a thread's time on a processor.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the boot clock.
#[must_use]
pub fn boot_ns() -> u64 {
    nanoseconds(ClockId::Boottime)
}

/// The time of day, nanoseconds since 1970 UTC, at which the boot clock showed `boot_ns`. Both clocks are read
/// now, so a step of the time of day since then moves the answer along.
#[must_use]
pub fn unix_ns(boot_ns: u64) -> u64 {
    let offset = nanoseconds(ClockId::Realtime).saturating_sub(self::boot_ns());
    boot_ns.saturating_add(offset)
}

/// How long this thread has been on a processor.
#[must_use]
pub fn thread_cpu() -> Duration {
    Duration::from_nanos(nanoseconds(ClockId::ThreadCPUTime))
}

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}
