//! Value types. Each has its range in its type, so that every value that exists is valid.

use std::{
    fmt::{self, Display},
    str::FromStr,
    time::Duration,
};

use serde::de::Deserializer;
use tapio_occurrence::printable::printable;

use super::{Form, Trail, Wrong, section};

/// A value of the configuration, with the same text form in files, environment and flags.
pub trait Value: Sized + Display + FromStr<Err = Wrong> {
    /// The valid values, for people: `2 to 100`.
    fn expected() -> String;

    /// The valid values, for programs.
    fn form() -> Form;

    /// Reads it from a file, in its text form.
    ///
    /// # Errors
    /// An error of the file format, or [`Wrong`] as a custom error.
    fn read<'de, D: Deserializer<'de>>(from: D, at: &Trail) -> Result<Self, D::Error> {
        section::read_scalar(from, at)
    }
}

/// One microsecond, for the ranges of [`Time`].
pub const US: u64 = 1_000;
/// One millisecond.
pub const MS: u64 = 1_000 * US;
/// One second.
pub const SEC: u64 = 1_000 * MS;

const TIME_UNITS: &[(&str, u64)] =
    &[("h", 3_600 * SEC), ("m", 60 * SEC), ("s", SEC), ("ms", MS), ("us", US), ("ns", 1)];

/// A duration between two bounds in nanoseconds, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time<const MIN_NS: u64, const MAX_NS: u64>(u64);

impl<const MIN_NS: u64, const MAX_NS: u64> Time<MIN_NS, MAX_NS> {
    /// A duration in nanoseconds, clamped to the range.
    #[must_use]
    pub const fn of_ns(ns: u64) -> Self {
        Self(clamp(ns, MIN_NS, MAX_NS))
    }

    /// Nanoseconds.
    #[must_use]
    pub const fn as_ns(self) -> u64 {
        self.0
    }

    /// The duration as the standard library's type.
    #[must_use]
    pub const fn get(self) -> Duration {
        Duration::from_nanos(self.0)
    }
}

impl<const MIN_NS: u64, const MAX_NS: u64> Value for Time<MIN_NS, MAX_NS> {
    fn expected() -> String {
        format!("a duration from {} to {} (units: ns, us, ms, s, m, h)", time(MIN_NS), time(MAX_NS))
    }

    fn form() -> Form {
        quantities(TIME_UNITS)
    }
}

impl<const MIN_NS: u64, const MAX_NS: u64> FromStr for Time<MIN_NS, MAX_NS> {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let ns = quantity(text, TIME_UNITS).filter(|ns| (MIN_NS..=MAX_NS).contains(ns));
        ns.map(Self).ok_or_else(|| not::<Self>(text))
    }
}

impl<const MIN_NS: u64, const MAX_NS: u64> Display for Time<MIN_NS, MAX_NS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&time(self.0))
    }
}

/// 2^20 bytes, for the ranges of [`Bytes`].
pub const MIB: u64 = 1 << 20;

/// Units, the greatest first.
const SIZE_UNITS: &[(&str, u64)] = &[
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", MIB),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

/// A size between two bounds in bytes, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Bytes<MIN, MAX> {
    /// A size in bytes, clamped to the range.
    #[must_use]
    pub const fn of(bytes: u64) -> Self {
        Self(clamp(bytes, MIN, MAX))
    }

    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> Value for Bytes<MIN, MAX> {
    fn expected() -> String {
        format!("a size from {} to {} (units: B, kB, MB, GB, KiB, MiB, GiB)", size(MIN), size(MAX))
    }

    fn form() -> Form {
        quantities(SIZE_UNITS)
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Bytes<MIN, MAX> {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let bytes = quantity(text, SIZE_UNITS).filter(|bytes| (MIN..=MAX).contains(bytes));
        bytes.map(Self).ok_or_else(|| not::<Self>(text))
    }
}

impl<const MIN: u64, const MAX: u64> Display for Bytes<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&size(self.0))
    }
}

/// A whole number between two bounds, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Count<MIN, MAX> {
    /// The number, clamped to the range.
    #[must_use]
    pub const fn of(number: u32) -> Self {
        Self(clamp(number as u64, MIN as u64, MAX as u64) as u32)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32> Value for Count<MIN, MAX> {
    fn expected() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }

    fn form() -> Form {
        Form::Whole(MIN.into(), MAX.into())
    }
}

impl<const MIN: u32, const MAX: u32> FromStr for Count<MIN, MAX> {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let number = text.parse().ok().filter(|number| (MIN..=MAX).contains(number));
        number.map(Self).ok_or_else(|| not::<Self>(text))
    }
}

impl<const MIN: u32, const MAX: u32> Display for Count<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A ratio with two decimals, between two bounds in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ratio<const MIN_PERCENT: u32, const MAX_PERCENT: u32>(u32);

impl<const MIN_PERCENT: u32, const MAX_PERCENT: u32> Ratio<MIN_PERCENT, MAX_PERCENT> {
    /// The ratio of this percentage, clamped to the range.
    #[must_use]
    pub const fn of_percent(percent: u32) -> Self {
        Self(clamp(percent as u64, MIN_PERCENT as u64, MAX_PERCENT as u64) as u32)
    }

    /// The ratio in percent.
    #[must_use]
    pub const fn as_percent(self) -> u32 {
        self.0
    }
}

impl<const MIN_PERCENT: u32, const MAX_PERCENT: u32> Value for Ratio<MIN_PERCENT, MAX_PERCENT> {
    fn expected() -> String {
        let (min, max) = (Self(MIN_PERCENT), Self(MAX_PERCENT));
        format!("a ratio from {min} to {max}, at most two decimals")
    }

    fn form() -> Form {
        Form::Number(f64::from(MIN_PERCENT) / 100.0, f64::from(MAX_PERCENT) / 100.0)
    }
}

impl<const MIN_PERCENT: u32, const MAX_PERCENT: u32> FromStr for Ratio<MIN_PERCENT, MAX_PERCENT> {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let percent = decimal(text, 100).and_then(|percent| u32::try_from(percent).ok());
        let percent = percent.filter(|percent| (MIN_PERCENT..=MAX_PERCENT).contains(percent));
        percent.map(Self).ok_or_else(|| not::<Self>(text))
    }
}

impl<const MIN_PERCENT: u32, const MAX_PERCENT: u32> Display for Ratio<MIN_PERCENT, MAX_PERCENT> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 100, self.0 % 100);
        match (rest / 10, rest % 10) {
            (tenths, 0) => write!(f, "{whole}.{tenths}"),
            _ => write!(f, "{whole}.{rest:02}"),
        }
    }
}

/// A share of a whole, in whole percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u32);

impl Percent {
    /// A percentage; at most 100.
    #[must_use]
    pub const fn of(percent: u32) -> Self {
        Self(clamp(percent as u64, 0, 100) as u32)
    }

    /// The share in 1/1024, rounded to the nearest.
    #[must_use]
    pub const fn of_1024(self) -> u32 {
        (self.0 * 1024 + 50) / 100
    }
}

impl Value for Percent {
    fn expected() -> String {
        "a share from 0% to 100%, in whole percent".to_owned()
    }

    fn form() -> Form {
        Form::Text("(100|[0-9]{1,2}) *%".to_owned())
    }
}

impl FromStr for Percent {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let percent = quantity(text, &[("%", 1)]).filter(|percent| *percent <= 100);
        percent.and_then(|percent| u32::try_from(percent).ok()).map(Self).ok_or_else(|| not::<Self>(text))
    }
}

impl Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// Declares a value that is one of several words.
#[macro_export]
macro_rules! choices {
    (
        $(#[doc = $doc:literal])*
        pub enum $name:ident { $($(#[doc = $variant_doc:literal])* $variant:ident = $word:literal,)* }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $variant_doc])* $variant,)* }

        impl $name {
            const WORDS: &'static [&'static str] = &[$($word),*];
        }

        impl $crate::setting::Value for $name {
            fn expected() -> String {
                format!("one of {}", Self::WORDS.join(", "))
            }

            fn form() -> $crate::setting::Form {
                $crate::setting::Form::OneOf(Self::WORDS.to_vec())
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::setting::Wrong;

            fn from_str(text: &str) -> Result<Self, $crate::setting::Wrong> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err($crate::setting::unknown("value", text, Self::WORDS)),
                }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $word,)* })
            }
        }
    };
}

/// The error that the text is not what is expected.
pub(super) fn not<V: Value>(text: &str) -> Wrong {
    Wrong(format!("`{}` is not {}", shown(text), V::expected()))
}

/// A text from outside, shortened and escaped for a terminal.
pub fn shown(text: &str) -> String {
    const MAX_CHARS: usize = 80;
    let more = if text.chars().nth(MAX_CHARS).is_some() { "..." } else { "" };
    printable(&text.chars().take(MAX_CHARS).collect::<String>()).into_owned() + more
}

/// Parses a number with one of the units, into the smallest of them: a whole number, or a decimal that
/// results in one.
fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(end);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start_matches(' '))?;
    decimal(number, *factor)
}

/// The form of a number with one of the units.
fn quantities(units: &[(&str, u64)]) -> Form {
    let units: Vec<_> = units.iter().map(|(unit, _)| *unit).collect();
    Form::Text(format!(r"[0-9]+(\.[0-9]+)? *({})", units.join("|")))
}

/// `factor` times a decimal number, if the result is whole and fits.
fn decimal(text: &str, factor: u64) -> Option<u64> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let parts = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? };
    let parts = parts.checked_mul(u128::from(factor)).filter(|parts| parts % scale == 0)? / scale;
    let total = whole.parse::<u128>().ok()?.checked_mul(u128::from(factor))?.checked_add(parts)?;
    u64::try_from(total).ok()
}

/// Nanoseconds in the greatest unit that divides them.
fn time(ns: u64) -> String {
    whole(ns, TIME_UNITS).unwrap_or_else(|| "0s".to_owned())
}

/// Bytes in the greatest unit that divides them.
fn size(bytes: u64) -> String {
    whole(bytes, SIZE_UNITS).unwrap_or_else(|| "0B".to_owned())
}

/// A number in the first of the units that divides it; `None` for 0.
fn whole(number: u64, units: &[(&str, u64)]) -> Option<String> {
    let (name, unit) = units.iter().find(|(_, unit)| number != 0 && number.is_multiple_of(*unit))?;
    Some(format!("{}{name}", number / unit))
}

const fn clamp(number: u64, min: u64, max: u64) -> u64 {
    if number < min {
        min
    } else if number > max {
        max
    } else {
        number
    }
}

#[cfg(test)]
mod tests;
