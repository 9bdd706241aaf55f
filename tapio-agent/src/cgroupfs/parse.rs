//! Parsers for the kernel's files. Malformed text yields no number.

use tapio_common::node::UNLIMITED;

/// Parses a file with a single number.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    digits(text)
}

/// Parses a cgroup v2 limit: a number or `max`.
pub(super) fn limit(text: &[u8]) -> Option<u64> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    if text == b"max" { Some(UNLIMITED) } else { digits(text) }
}

/// Parses a cgroup v1 limit. "No limit" is the greatest multiple of the page size.
pub(super) fn limit_v1(text: &[u8]) -> Option<u64> {
    // 2^63 - 1, rounded down to a page of at most 64 KiB.
    const NONE: u64 = (i64::MAX as u64) & !0xffff;
    number(text).map(|bytes| if bytes >= NONE { UNLIMITED } else { bytes })
}

/// Parses `cpu.max`: quota and period, microseconds.
pub(super) fn quota(text: &[u8]) -> Option<(u64, u64)> {
    let mut words = words(text);
    let (quota, period) = (words.next()?, words.next()?);
    Some((limit(quota)?, digits(period).filter(|period| *period > 0)?))
}

/// Parses `cpu.cfs_quota_us`, where -1 means no quota.
pub(super) fn quota_v1(text: &[u8]) -> Option<u64> {
    if text.strip_suffix(b"\n").unwrap_or(text) == b"-1" { Some(UNLIMITED) } else { number(text) }
}

/// The values of these keys in a file of lines `key value`, read in one pass. If a key occurs twice, the
/// first value counts.
pub(super) fn keyed<const N: usize>(text: &[u8], keys: [&str; N]) -> [Option<u64>; N] {
    let mut found = [None; N];
    for line in text.split(|byte| *byte == b'\n') {
        let mut words = words(line);
        let Some(key) = words.next() else { continue };
        let Some(at) = keys.iter().position(|known| known.as_bytes() == key) else { continue };
        if found[at].is_none() {
            found[at] = words.next().and_then(digits);
        }
    }
    found
}

/// The number at this position, counted from 0, of the line that begins with `first`.
pub(super) fn column(text: &[u8], first: &str, at: usize) -> Option<u64> {
    text.split(|byte| *byte == b'\n').find_map(|line| {
        let mut words = words(line);
        (words.next()? == first.as_bytes()).then(|| digits(words.nth(at.checked_sub(1)?)?)).flatten()
    })
}

/// The number of online CPUs in `/proc/stat`, which has one line for each.
pub(super) fn cpus(text: &[u8]) -> u64 {
    let is_one = |line: &&[u8]| {
        line.strip_prefix(b"cpu").is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_digit))
    };
    text.split(|byte| *byte == b'\n').filter(is_one).count() as u64
}

/// Parses a pressure file: microseconds in which some tasks waited, and in which all did.
pub(super) fn pressure(text: &[u8]) -> [Option<u64>; 2] {
    let mut found = [None; 2];
    for line in text.split(|byte| *byte == b'\n') {
        let mut words = words(line);
        let at = match words.next() {
            Some(b"some") => 0,
            Some(b"full") => 1,
            _ => continue,
        };
        found[at] = words.find_map(|word| digits(word.strip_prefix(b"total=")?));
    }
    found
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// `str::parse` would accept a leading `+`.
fn digits(word: &[u8]) -> Option<u64> {
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        sum.checked_mul(10)?.checked_add(digit.into())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_and_limits() {
        assert_eq!(number(b"4096\n"), Some(4096));
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(limit(b"max\n"), Some(UNLIMITED));
        assert_eq!(limit(b"134217728\n"), Some(134_217_728));
        for unlimited in ["9223372036854771712\n", "9223372036854710272\n", "9223372036854775807"] {
            assert_eq!(limit_v1(unlimited.as_bytes()), Some(UNLIMITED));
        }
        assert_eq!(limit_v1(b"67108864\n"), Some(67_108_864));
        for garbage in ["", "\n", "maximum", "-1", "+1", "1 2", "0x10", "18446744073709551616", "\u{661}"] {
            assert_eq!(number(garbage.as_bytes()), None, "{garbage}");
            assert_eq!(limit(garbage.as_bytes()), None, "{garbage}");
        }
    }

    #[test]
    fn quotas() {
        assert_eq!(quota(b"50000 100000\n"), Some((50_000, 100_000)));
        assert_eq!(quota(b"max 100000\n"), Some((UNLIMITED, 100_000)));
        assert_eq!(quota_v1(b"-1\n"), Some(UNLIMITED));
        assert_eq!(quota_v1(b"25000\n"), Some(25_000));
        for garbage in ["", "max", "50000 0", "100000 max", "-2 5"] {
            assert_eq!(quota(garbage.as_bytes()), None, "{garbage}");
        }
        assert_eq!(quota_v1(b"-2\n"), None);
    }

    #[test]
    fn keys_are_whole_words() {
        let stat = b"anon 1\nfile 2\nfile_mapped 3\nactive_file x\nfile 9\nnr_throttled 4";
        assert_eq!(
            keyed(stat, ["file", "anon", "active_file", "nr_throttled", "kernel"]),
            [Some(2), Some(1), None, Some(4), None]
        );
        assert_eq!(keyed(b"MemAvailable:   23461788 kB\n", ["MemAvailable:"]), [Some(23_461_788)]);
    }

    #[test]
    fn columns() {
        let cgroups = b"#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t3\t1\t1\nmemory\t4\t5\t1\n";
        assert_eq!(column(cgroups, "memory", 2), Some(5));
        assert_eq!((column(cgroups, "mem", 2), column(cgroups, "memory", 9)), (None, None));
        assert_eq!((column(cgroups, "#subsys_name", 2), column(b"", "memory", 0)), (None, None));
    }

    #[test]
    fn processors_that_are_on() {
        assert_eq!(cpus(b"cpu  9 9 9\ncpu0 4 5 6\ncpu2 5 4 3\nintr 7 1\nctxt 8\n"), 2);
        assert_eq!((cpus(b""), cpus(b"cpu  9\nxcpu1 9\n")), (0, 0));
    }

    #[test]
    fn pressure_of_all_kernels() {
        let both = b"some avg10=0.15 avg60=0.45 avg300=0.37 total=140091018\nfull avg10=0.08 avg60=0.27 avg300=0.19 total=91274921\n";
        assert_eq!(pressure(both), [Some(140_091_018), Some(91_274_921)]);
        assert_eq!(pressure(b"some avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"), [Some(7), None]);
        assert_eq!(pressure(b""), [None, None]);
        assert_eq!(pressure(b"some avg10=0.00 total=-7\nfull\n"), [None, None]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (number(&text), limit(&text), limit_v1(&text), quota(&text), quota_v1(&text));
            let _ = (pressure(&text), keyed(&text, ["some", "a"]));
        }

        #[test]
        fn what_the_kernel_writes_is_read(value: u64, other in 1_u64..) {
            let (line, pair) = (format!("{value}\n"), format!("{value} {other}\n"));
            prop_assert_eq!(number(line.as_bytes()), Some(value));
            prop_assert_eq!(quota(pair.as_bytes()), Some((value, other)));
            prop_assert_eq!(keyed(format!("a 1\nkey {value}\n").as_bytes(), ["key"]), [Some(value)]);
            let text = format!("some avg10=99.99 avg60=1.00 avg300=0.00 total={value}\nfull avg10=0.00 total={other}\n");
            prop_assert_eq!(pressure(text.as_bytes()), [Some(value), Some(other)]);
        }
    }
}
