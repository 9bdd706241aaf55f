//! Times as text.

/// A time as `2026-11-20T02:18:18.123456789Z`, always with nine digits. By hand, since a general formatter takes
/// longer than the rest of an occurrence.
#[derive(Clone, Copy, Debug)]
pub struct Timestamp([u8; 30]);

impl Timestamp {
    /// Of nanoseconds since 1970 UTC; every `u64` is before the year 2555.
    #[must_use]
    pub fn new(unix_ns: u64) -> Self {
        let (seconds, nanos) = (unix_ns / 1_000_000_000, unix_ns % 1_000_000_000);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil(days);
        let mut text = *b"0000-00-00T00:00:00.000000000Z";
        let pairs = [
            (0, year / 100),
            (2, year % 100),
            (5, month),
            (8, day),
            (11, second / 3600),
            (14, second / 60 % 60),
            (17, second % 60),
            (20, nanos / 10_000_000),
            (22, nanos / 100_000 % 100),
            (24, nanos / 1000 % 100),
            (26, nanos / 10 % 100),
        ];
        for (place, pair) in pairs {
            text[place..place + 2].copy_from_slice(&PAIRS[pair as usize]);
        }
        text[28] = PAIRS[(nanos % 10) as usize][1];
        Self(text)
    }

    /// The whole of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The same, in ASCII.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The time of day, UTC, to the millisecond: `02:18:18.123`.
    #[must_use]
    pub fn time_of_day(&self) -> &str {
        self.as_str().get(11..23).unwrap_or_default()
    }
}

/// `00` to `99`.
const PAIRS: [[u8; 2]; 100] = {
    let mut all = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        all[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    all
};

/// Year, month and day of a day since 1970, in the Gregorian calendar (Hinnant, "chrono-compatible low-level
/// date algorithms", `civil_from_days`).
const fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + (month <= 2) as u64, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_what_a_calendar_library_says() {
        let mut rng = fastrand::Rng::with_seed(3);
        let edges =
            [0, 951_782_399_999_999_999, 951_782_400_000_000_000, 4_107_542_399_000_000_001, u64::MAX];
        for unix_ns in edges.into_iter().chain((0..20_000).map(|_| rng.u64(..))) {
            let at = jiff::Timestamp::from_nanosecond(i128::from(unix_ns)).unwrap();
            assert_eq!(Timestamp::new(unix_ns).as_str(), format!("{at:.9}"));
        }
        assert_eq!(Timestamp::new(1_790_000_000_123_999_999).time_of_day(), "14:13:20.123");
    }
}
