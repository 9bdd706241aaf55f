//! Times, as pages give them: of day, and how long ago.

use tapio_occurrence::timestamp;

/// A time.
#[derive(Clone, Debug, Default)]
pub(super) struct Moment {
    /// As machines read it.
    pub(super) iso: String,
    /// The time of day; of another day with the day.
    pub(super) clock: String,
    /// How long ago.
    pub(super) age: String,
}

impl Moment {
    pub(super) fn new(unix_ns: u64, now_ns: u64) -> Self {
        let (iso, now) = (timestamp(unix_ns).to_string(), timestamp(now_ns).to_string());
        let part = |from, to| iso.get(from..to).unwrap_or_default();
        let clock = match part(0, 10) == now.get(..10).unwrap_or_default() {
            true => part(11, 19).to_owned(),
            false => format!("{} {}", part(5, 10), part(11, 19)),
        };
        let age = lasting(now_ns.saturating_sub(unix_ns));
        Self { clock, age, iso: format!("{}Z", part(0, 19)) }
    }
}

/// How long something lasts, in one unit.
pub(super) fn lasting(ns: u64) -> String {
    match ns / 1_000_000_000 {
        s if s < 90 => format!("{s} s"),
        s if s < 90 * 60 => format!("{} min", s / 60),
        s if s < 36 * 3_600 => format!("{} h", s / 3_600),
        s => format!("{} d", s / 86_400),
    }
}

/// How much later than another time, or earlier, to be put beside it.
pub(super) fn offset(ns: u64, from_ns: u64) -> String {
    let (sign, apart) = if ns >= from_ns { ('+', ns - from_ns) } else { ('−', from_ns - ns) };
    match apart {
        0 => "0 s".to_owned(),
        1..10_000_000_000 => format!("{sign}{:.1} s", apart as f64 / 1e9),
        _ => format!("{sign}{}", lasting(apart)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEC: u64 = 1_000_000_000;

    #[test]
    fn times_are_as_short_as_they_can_be() {
        let now = 1_795_000_000 * SEC;
        let at = |ago: u64| Moment::new(now - ago * SEC, now);
        assert_eq!(
            (&*at(89).age, &*at(90).age, &*at(5_400).age, &*at(200_000).age),
            ("89 s", "1 min", "1 h", "2 d")
        );
        assert_eq!((&*at(0).clock, &*at(0).iso), ("11:06:40", "2026-11-18T11:06:40Z"));
        assert_eq!(at(86_400).clock, "11-17 11:06:40");
        assert_eq!(Moment::new(now + SEC, now).age, "0 s");
    }

    #[test]
    fn offsets_have_their_sign() {
        assert_eq!(offset(8_200 * SEC / 1_000, 0), "+8.2 s");
        assert_eq!(offset(10 * SEC, 100 * SEC), "−1 min");
        assert_eq!(offset(5, 5), "0 s");
    }
}
