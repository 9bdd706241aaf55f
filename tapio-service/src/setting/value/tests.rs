use proptest::prelude::*;

use super::*;

type Any = Time<0, { u64::MAX }>;

#[test]
fn times() {
    for (text, ns, again) in [
        ("2ms", 2 * MS, "2ms"),
        ("500us", 500 * US, "500us"),
        ("30s", 30 * SEC, "30s"),
        ("10m", 600 * SEC, "10m"),
        ("1.5s", 1_500 * MS, "1500ms"),
        ("90 s", 90 * SEC, "90s"),
        ("1ns", 1, "1ns"),
        ("0s", 0, "0s"),
        ("0ms", 0, "0s"),
        ("24h", 86_400 * SEC, "24h"),
    ] {
        let time = text.parse::<Any>().unwrap();
        assert_eq!((time.as_ns(), time.to_string().as_str()), (ns, again), "{text}");
    }
    for bad in [
        "",
        "5",
        "5 parsecs",
        "ms",
        "-5ms",
        "5MS",
        "1e3ms",
        "0.5ns",
        "99999999999h",
        ".5s",
        "5.s",
        "1.2.3s",
        "5msx",
        "5\u{b5}s",
    ] {
        let Wrong(why) = bad.parse::<Any>().unwrap_err();
        assert!(why.contains("ns, us, ms, s, m, h"), "{why}");
    }
    let Wrong(why) = "11s".parse::<Time<MS, { 10 * SEC }>>().unwrap_err();
    assert_eq!(why, "`11s` is not a duration from 1ms to 10s (units: ns, us, ms, s, m, h)");
}

#[test]
fn sizes() {
    type Size = Bytes<1, { 64 << 30 }>;
    for (text, bytes, again) in [
        ("64MiB", 64 << 20, "64MiB"),
        ("64 MB", 64_000_000, "64MB"),
        ("1.5GiB", 3 << 29, "1536MiB"),
        ("512B", 512, "512B"),
        ("3kB", 3_000, "3kB"),
    ] {
        let size = text.parse::<Size>().unwrap();
        assert_eq!((size.get(), size.to_string().as_str()), (bytes, again), "{text}");
    }
    for bad in ["", "64", "64M", "64mib", "-1MiB", "0B", "65GiB", "0.5B"] {
        assert!(bad.parse::<Size>().is_err(), "{bad}");
    }
    let Wrong(why) = "1MiB".parse::<Bytes<{ 8 * MIB }, { 64 << 30 }>>().unwrap_err();
    assert_eq!(why, "`1MiB` is not a size from 8MiB to 64GiB (units: B, kB, MB, GB, KiB, MiB, GiB)");
}

#[test]
fn numbers() {
    assert_eq!("6".parse::<Count<2, 100>>(), Ok(Count(6)));
    for bad in ["1", "101", "6.0", "six", "", "-6", "99999999999999"] {
        assert!(bad.parse::<Count<2, 100>>().is_err(), "{bad}");
    }
    for (text, percent, again) in
        [("2", 200, "2.0"), ("2.0", 200, "2.0"), ("1.25", 125, "1.25"), ("1.05", 105, "1.05")]
    {
        let ratio = text.parse::<Ratio<101, 10_000>>().unwrap();
        assert_eq!((ratio.as_percent(), ratio.to_string().as_str()), (percent, again));
    }
    for bad in
        ["1", "0.5", "1.255", "200%", "nan", "inf", "1e1", "1000000000000000000000000000000000000000000"]
    {
        assert!(bad.parse::<Ratio<101, 10_000>>().is_err(), "{bad}");
    }
    assert_eq!("5%".parse::<Percent>().unwrap().of_1024(), 51);
    assert_eq!("100%".parse::<Percent>().unwrap().of_1024(), 1024);
    for bad in ["5", "101%", "0.5%", "-1%", "%"] {
        assert!(bad.parse::<Percent>().is_err(), "{bad}");
    }
}

#[test]
fn what_is_shown_cannot_write_to_the_terminal() {
    assert_eq!(shown("a\u{1b}[2J"), "a\\u{1b}[2J");
    assert_eq!(shown(&"x".repeat(81)), "x".repeat(80) + "...");
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in ".{0,40}") {
        let _ = text.parse::<Any>();
        let _ = text.parse::<Ratio<0, { u32::MAX }>>();
        let _ = text.parse::<Percent>();
    }

    #[test]
    fn what_is_printed_is_read_again(ns: u64) {
        let time = Any::of_ns(ns);
        prop_assert_eq!(time.to_string().parse::<Any>(), Ok(time));
    }
}
