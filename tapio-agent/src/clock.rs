//! The boot clock, which the kernel programs stamp events with, and the time of day.

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

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}
