//! Durations in messages.

use std::fmt;

/// Microseconds in a unit that suits their size.
pub(super) struct Micros(pub(super) u64);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            us @ 0..1_000 => write!(f, "{us} us"),
            us @ 1_000..10_000 => write!(f, "{:.1} ms", us as f64 / 1e3),
            us @ 10_000..1_000_000 => write!(f, "{} ms", us / 1_000),
            us => write!(f, "{:.1} s", us as f64 / 1e6),
        }
    }
}

/// `45 seconds`, `9 minutes`
pub(super) struct Seconds(pub(super) u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("1 second"),
            seconds @ 0..120 => write!(f, "{seconds} seconds"),
            seconds => write!(f, "{} minutes", (seconds + 30) / 60),
        }
    }
}
