use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 512 * MIB;

/// Samples a series every five seconds until it reaches the limit. Returns each forecast, with the time that
/// was really left.
fn watch(seconds: u64, value: impl Fn(f64) -> f64) -> Vec<(u64, Forecast)> {
    let mut trend = Trend::default();
    let mut said = Vec::new();
    for at in (0..seconds).step_by(5) {
        let value = (value(at as f64) * MIB as f64) as u64;
        if value >= LIMIT {
            break;
        }
        trend.add(at * SECOND + 7, value, LIMIT);
        said.extend(
            trend.forecast(LIMIT).filter(|f| f.confidence >= 0.8 && f.left_s <= 600).map(|f| (at, f)),
        );
    }
    said
}

/// Reproducible noise between -1 and 1.
fn noise(at: f64) -> f64 {
    ((at * 12.9898).sin() * 43_758.547).fract()
}

#[test]
fn a_leak_is_seen_long_before_its_end() {
    for end_s in [120_u64, 300, 900, 3_600, 18_000] {
        let leak = |t: f64| 20.0 + 492.0 * t / end_s as f64;
        let said = watch(end_s * 2, leak);
        let (at, first) = *said.first().unwrap_or_else(|| panic!("a leak of {end_s} s"));
        let left = end_s - at;
        assert!(left >= 30, "{left} s before the end of {end_s} s");
        assert!(first.left_s.abs_diff(left) <= left / 5 + 5, "{} s said, {left} s left", first.left_s);
        let per_minute = 492 * MIB * 60 / end_s;
        assert!(first.per_minute.abs_diff(per_minute) <= per_minute / 10, "{first:?}");
        assert!(first.confidence > 0.95);
    }
}

#[test]
fn noise_hides_no_leak() {
    let said = watch(2_000, |t| 20.0 + 492.0 * t / 600.0 + 4.0 * noise(t));
    assert!(said.first().is_some_and(|(at, _)| *at < 540), "{:?}", said.first());
}

#[test]
fn a_leak_after_a_long_plateau_is_seen() {
    let said = watch(20_000, |t| if t < 7_200.0 { 200.0 } else { 200.0 + (t - 7_200.0) * 0.5 });
    let (at, first) = said[0];
    assert!((7_300..7_790).contains(&at), "{at} {first:?}");
    assert!(first.left_s.abs_diff(7_824 - at) < 40, "{at} {first:?}");
}

#[test]
fn what_is_no_leak_is_not_said() {
    type Series = fn(f64) -> f64;
    let quiet: &[(&str, Series)] = &[
        ("a plateau", |_| 400.0),
        ("a noisy plateau", |t| 400.0 + 10.0 * noise(t)),
        ("a plateau just below the limit", |t| 505.0 + 2.0 * noise(t)),
        ("a warm-up that levels off", |t| 450.0 - 430.0 * (-t / 120.0).exp()),
        ("a slow one", |t| 480.0 - 460.0 * (-t / 1_200.0).exp()),
        ("one step", |t| if t < 600.0 { 100.0 } else { 460.0 }),
        ("steps, then none", |t| 100.0 + 80.0 * (t / 300.0).floor().min(3.0)),
        ("a heap collected every 20 s", |t| 100.0 + 300.0 * (t / 20.0).fract()),
        ("one every minute", |t| 100.0 + 200.0 * (t / 60.0).fract()),
        ("one every ten minutes", |t| 100.0 + 240.0 * (t / 600.0).fract()),
        ("a shallow one near the limit", |t| 440.0 + 40.0 * (t / 100.0).fract()),
        ("a wave", |t| 300.0 + 150.0 * (t / 300.0).sin()),
        ("a fall", |t| 500.0 - t / 40.0),
    ];
    for (what, series) in quiet {
        let said = watch(10_000, series);
        assert!(said.is_empty(), "{what}: {:?}", said.first());
    }
}

#[test]
fn after_a_heap_was_collected_its_rise_to_the_same_height_is_known() {
    // The first rise cannot be distinguished from a leak; the second can.
    let said = watch(20_000, |t| 40.0 + 440.0 * (t / 1_000.0).fract());
    assert!(said.iter().all(|(at, _)| *at < 1_000), "{:?}", said.last());
}

#[test]
fn another_limit_begins_anew() {
    let mut trend = Trend::default();
    for at in 0..30 {
        trend.add(at * 5 * SECOND, (100 + at * 13) * MIB, LIMIT);
    }
    assert!(trend.forecast(LIMIT).is_some());
    let limit = LIMIT + LIMIT / 8;
    assert!(!trend.add(150 * SECOND, 490 * MIB, limit));
    assert_eq!(trend.forecast(limit), None);
}

#[test]
fn a_limit_that_moves_with_the_swap_of_others_hides_no_leak() {
    let first = |limit: fn(u64) -> u64| {
        let mut trend = Trend::default();
        (0..200_u64).find_map(|sample| {
            trend.add(sample * 5 * SECOND, (20 * MIB) + sample * 5 * MIB / 2, limit(sample));
            trend.forecast(limit(sample)).map(|forecast| (sample, forecast.left_s, forecast.per_minute))
        })
    };
    let constant = first(|_| LIMIT);
    assert!(constant.is_some());
    assert_eq!(first(|sample| LIMIT - sample % 7 * 4096), constant, "by some pages");
    let (sample, ..) = first(|sample| LIMIT - sample % 3 * 8 * MIB).unwrap();
    assert!(sample <= constant.unwrap().0, "by the thirty-second part of it, and less is left");
}

proptest! {
    #[test]
    fn any_series_is_borne(samples in prop::collection::vec((any::<u64>(), any::<u64>()), 0..300), limit: u64) {
        let mut trend = Trend::default();
        for (at, value) in samples {
            trend.add(at, value, limit);
            if let Some(forecast) = trend.forecast(limit) {
                prop_assert!((0.0..=1.0).contains(&forecast.confidence));
            }
        }
    }
}
