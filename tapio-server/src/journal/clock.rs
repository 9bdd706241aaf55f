//! The time of day.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970 UTC.
pub(super) fn unix_s() -> u64 {
    since_1970().as_secs()
}

/// Microseconds since 1970 UTC.
pub(super) fn unix_us() -> u64 {
    u64::try_from(since_1970().as_micros()).unwrap_or(u64::MAX)
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
