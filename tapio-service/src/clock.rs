//! The boot clock, which kernel programs stamp events with, the time of day, and CPU time.

use std::{cell::Cell, time::Duration};

use rustix::time::{ClockId, clock_getres, clock_gettime};

/// Nanoseconds of the boot clock.
#[must_use]
pub fn boot_ns() -> u64 {
    nanoseconds(ClockId::Boottime)
}

/// The time of day, nanoseconds since 1970 UTC, at which the boot clock showed `boot_ns`. The offset between
/// the two clocks is read now, so a later step of the time of day shifts the result. Further calls by the
/// same thread within one kernel tick (at most 10 ms) reuse the offset, which takes a fifth of the time.
#[must_use]
pub fn unix_ns(boot_ns: u64) -> u64 {
    thread_local!(static READ: Cell<(u64, u64)> = const { Cell::new((0, 0)) });
    let tick = nanoseconds(ClockId::MonotonicCoarse);
    let (mut read_in, mut between) = READ.get();
    if read_in != tick {
        (read_in, between) = (tick, nanoseconds(ClockId::Realtime).saturating_sub(self::boot_ns()));
        READ.set((read_in, between));
    }
    boot_ns.saturating_add(between)
}

/// The length of the kernel's tick, which is the resolution of its coarse clocks.
#[must_use]
pub fn tick_ns() -> u64 {
    clock_getres(ClockId::MonotonicCoarse).tv_nsec as u64
}

/// The CPU time of this process, with all its threads.
#[must_use]
pub fn process_cpu() -> Duration {
    Duration::from_nanos(nanoseconds(ClockId::ProcessCPUTime))
}

/// The CPU time of this thread.
#[must_use]
pub fn thread_cpu() -> Duration {
    Duration::from_nanos(nanoseconds(ClockId::ThreadCPUTime))
}

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}
