//! Sizes for people.

use std::fmt;

/// A size in bytes, in a unit that suits it: `9.5 MiB`, `412 MiB`.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KIB: f64 = 1024.0;
        let (value, unit) = match self.0 as f64 {
            b if b < KIB => (b, "B"),
            b if b < KIB * KIB => (b / KIB, "KiB"),
            b if b < KIB * KIB * KIB => (b / KIB / KIB, "MiB"),
            b => (b / KIB / KIB / KIB, "GiB"),
        };
        let places = usize::from(value < 9.95 && unit != "B");
        write!(f, "{value:.places$} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_unit_that_people_would_use() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (42 << 20, "42 MiB"), (3 << 29, "1.5 GiB")]
        {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
