//! Reading objects as JSON: fields by path, times, quantities.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

/// One second.
pub(super) const SECOND_NS: u64 = 1_000_000_000;
/// The longest text that is taken from an object as it is, in bytes.
pub(super) const MAX_TEXT_BYTES: usize = 256;

/// The text at a JSON pointer; `None` if it is absent or empty.
pub(super) fn text<'a>(value: &'a Value, path: &str) -> Option<&'a str> {
    value.pointer(path)?.as_str().filter(|text| !text.is_empty())
}

/// The number at a JSON pointer.
pub(super) fn number(value: &Value, path: &str) -> Option<u64> {
    value.pointer(path)?.as_u64()
}

/// The entries of the list at a JSON pointer.
pub(super) fn list<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(path).and_then(Value::as_array).into_iter().flatten()
}

/// The time at a JSON pointer, nanoseconds since 1970 UTC.
pub(super) fn time(value: &Value, path: &str) -> Option<u64> {
    let time: Timestamp = text(value, path)?.parse().ok()?;
    u64::try_from(time.as_nanosecond()).ok()
}

/// Nanoseconds since 1970 UTC; `None` for an earlier time.
pub(super) fn unix_ns(time: &Time) -> Option<u64> {
    u64::try_from(time.0.as_nanosecond()).ok()
}

/// The condition of this type in an object's status.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(object, "/status/conditions").find(|condition| text(condition, "/type") == Some(kind))
}

/// At most [`MAX_TEXT_BYTES`] of a text; a mark shows that it was longer.
pub(super) fn capped(text: &str) -> String {
    if text.len() <= MAX_TEXT_BYTES {
        return text.to_owned();
    }
    let mut end = MAX_TEXT_BYTES;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}… ({} bytes)", text.get(..end).unwrap_or_default(), text.len())
}

/// A quantity of Kubernetes in thousandths, rounded up: `100m` is 100, `1Ki` is 1,024,000. `None` if it is none, or is
/// negative or too large.
pub(super) fn thousandths(quantity: &str) -> Option<u64> {
    let end = quantity.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(quantity.len());
    let (digits, suffix) = quantity.split_at_checked(end)?;
    let number: f64 = digits.parse().ok()?;
    let factor = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        "Pi" => 1_125_899_906_842_624.0,
        "Ei" => 1_152_921_504_606_846_976.0,
        other => 10_f64.powi(other.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    // A product such as 0.1 * 1000 may be a little above the whole number that it stands for.
    let value = (number * factor * 1000.0 - 1e-6).ceil().max(0.0);
    (value < 1.8e19).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for (quantity, expected) in [
            ("100m", Some(100)),
            ("0.1", Some(100)),
            ("2", Some(2_000)),
            ("1500u", Some(2)),
            ("512Mi", Some(512 * 1_048_576 * 1000)),
            ("1e3", Some(1_000_000)),
            ("1E", None),
            ("", None),
            ("-1", None),
            ("many", None),
            ("1Zi", None),
        ] {
            assert_eq!(thousandths(quantity), expected, "{quantity}");
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(capped("short"), "short");
        let cut = capped(&"ä".repeat(200));
        assert!(cut.starts_with("ää") && cut.ends_with("… (400 bytes)"), "{cut}");
        assert!(capped(&("x".to_owned() + &"ä".repeat(200))).len() < MAX_TEXT_BYTES + 20);
    }
}
