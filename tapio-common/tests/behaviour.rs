//! What the baseline makes of series as they occur: noise, spikes, waves, steps, two levels. Each claim is for twenty
//! series with numbers of their own, the same in each run.

use std::f64::consts::TAU;

use tapio_common::baseline::{Baseline, Limits, Verdict};

const SERIES: u64 = 20;
const ROWS: u64 = 10_000;

/// A source of numbers that are the same in each run (SplitMix64).
struct Random(u64);

impl Random {
    /// Between 0 and 1.
    fn even(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Of a standard normal distribution (Box and Muller).
    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.even()).ln()).sqrt() * (TAU * self.even()).cos()
    }
}

/// An abnormal sample.
#[derive(Clone, Copy, Debug)]
struct Found {
    series: u64,
    row: u64,
    since: u64,
    verdict: Verdict,
}

/// Judges twenty series of `rows`, of which `value` gives one after another, about 1.
fn judged<F: FnMut(u64) -> f64>(rows: u64, limits: &Limits, series_of: impl Fn(Random) -> F) -> Vec<Found> {
    let mut found = Vec::new();
    for series in 0..SERIES {
        let mut baseline = Baseline::default();
        let mut value = series_of(Random(series));
        for row in 0..rows {
            let verdict = baseline.observe((value(row).max(0.0) * 1e6) as u64, row, limits);
            if matches!(verdict, Verdict::Spike | Verdict::Shift) {
                found.push(Found { series, row, since: baseline.since(row), verdict });
            }
        }
    }
    found
}

fn shifts<F: FnMut(u64) -> f64>(rows: u64, series_of: impl Fn(Random) -> F) -> Vec<Found> {
    let mut found = judged(rows, &Limits::DEFAULT, series_of);
    found.retain(|found| found.verdict == Verdict::Shift);
    found
}

/// Where a step after 1,000 rows was found: the median row after it. Each has to be found, and once if the series are
/// clean; in noise two of the new levels may be corrected.
fn found_after(is_clean: bool, level_of: impl Fn(&mut Random, bool) -> f64) -> u64 {
    let level_of = &level_of;
    let mut found = shifts(1_200, |mut random| move |row| level_of(&mut random, row >= 1_000));
    let shifts = found.len() as u64;
    assert!(shifts <= if is_clean { SERIES } else { SERIES + 2 }, "{found:?}");
    found.dedup_by_key(|found| found.series);
    let series: Vec<u64> = found.iter().map(|found| found.series).collect();
    assert_eq!(series, (0..SERIES).collect::<Vec<_>>(), "{found:?}");
    let exact = found.iter().filter(|found| found.since == 1_000).count();
    assert!(exact >= if is_clean { 20 } else { 16 }, "{exact} of 20 begin with their first sample");
    let mut after: Vec<u64> = found.iter().map(|found| found.row - 1_000).collect();
    after.sort_unstable();
    after[after.len() / 2]
}

/// Two levels, each of which lasts for `stay` samples on average, then `news` from row 9,000 on.
fn two_levels(upper: f64, noise: f64, stay: f64, news: f64) -> Vec<Found> {
    judged(ROWS, &Limits::DEFAULT, |mut random| {
        let mut is_upper = false;
        move |row| {
            is_upper ^= random.even() < 1.0 / stay;
            let level = if row >= 9_000 && news > 0.0 {
                news
            } else if is_upper {
                upper
            } else {
                1.0
            };
            level * (1.0 + noise * random.normal())
        }
    })
}

#[test]
fn noise_is_no_shift() {
    for deviation in [0.0, 0.001, 0.01, 0.1] {
        let found = shifts(ROWS, |mut random| move |_| 1.0 + deviation * random.normal());
        assert_eq!(found.len(), 0, "{deviation}: {found:?}");
    }
    let found = shifts(ROWS, |mut random| move |_| (0.3 * random.normal()).exp());
    assert_eq!(found.len(), 0, "{found:?}");
}

#[test]
fn spikes_are_no_shift() {
    for share in [0.02, 0.1] {
        let found = shifts(ROWS, |mut random| {
            move |_| (1.0 + 0.01 * random.normal()) * if random.even() < share { 5.0 } else { 1.0 }
        });
        // One, if a spike was among the last samples of learning.
        assert!(found.iter().all(|found| found.row < 30) && found.len() <= 1, "{share}: {found:?}");
    }
}

#[test]
fn bursts_that_end_are_hardly_ever_shifts() {
    let found = shifts(ROWS, |mut random| {
        let mut is_burst = false;
        move |_| {
            is_burst = random.even() < if is_burst { 0.7 } else { 0.01 };
            let burst = if is_burst { 0.3 * (0.8 * random.normal()).exp() } else { 0.0 };
            1.0 + 0.02 * random.normal() + burst
        }
    });
    assert!(found.len() < 150, "{} in 20 series, each with 100 bursts", found.len());
}

#[test]
fn a_slow_wave_makes_at_most_three_alarms_in_ten_thousand() {
    let found = shifts(ROWS, |mut random| {
        move |row| (1.0 + 0.1 * (TAU * row as f64 / 500.0).sin()) * (1.0 + 0.01 * random.normal())
    });
    assert!(found.len() as u64 <= 3 * SERIES, "{}", found.len());
}

#[test]
fn a_clean_step_is_found_once_with_its_beginning() {
    for level in [0.5, 1.02, 1.5, 10.0] {
        assert_eq!(found_after(true, |_, is_after| if is_after { level } else { 1.0 }), 4, "{level}");
    }
}

#[test]
fn a_small_step_is_found_in_little_noise() {
    let after = found_after(false, |random, is_after| {
        (if is_after { 1.02 } else { 1.0 }) * (1.0 + 0.002 * random.normal())
    });
    assert!(after <= 5, "{after}");
}

#[test]
fn the_larger_a_step_the_sooner_it_is_found_in_a_restless_series() {
    let after = |level: f64, noise: f64| {
        found_after(false, |random, is_after| {
            (if is_after { level } else { 1.0 }) * (noise * random.normal()).exp()
        })
    };
    assert_eq!(after(1.5, 0.01), 6);
    assert!((6..=7).contains(&after(1.1, 0.01)));
    assert!(after(10.0, 0.3) <= 9);
}

#[test]
fn two_levels_that_alternate_are_one_normal_after_a_while() {
    for stay in [2.0, 5.0, 20.0, 50.0] {
        for upper in [1.5, 5.0] {
            let found = two_levels(upper, 0.01, stay, 0.0);
            let late = found.iter().filter(|found| found.row >= ROWS / 2).count();
            assert!(
                found.len() as u64 <= 25 * SERIES && late as u64 <= 4 * SERIES,
                "{upper} {stay}: {late} of {}",
                found.len()
            );
        }
    }
}

#[test]
fn a_third_level_is_news() {
    for news in [0.5, 3.0, 7.0] {
        let found = two_levels(1.5, 0.01, 20.0, news);
        let series: Vec<u64> = found
            .iter()
            .filter(|found| found.row >= 9_000 && found.verdict == Verdict::Shift)
            .inspect(|found| assert!(found.row < 9_025, "{found:?}"))
            .map(|found| found.series)
            .collect();
        assert_eq!(series, (0..SERIES).collect::<Vec<_>>(), "{news}");
    }
}

#[test]
fn a_level_that_comes_back_after_a_long_time_is_news() {
    let found = shifts(ROWS, |_| |row| if row % 1_000 < 500 { 1.0 } else { 1.5 });
    assert_eq!(found.len() as u64, SERIES * 19);
}

/// Health checks that are reset, retransmissions: so many in each window, in some more than in others.
#[test]
fn a_rate_that_alternates_is_normal_and_more_is_news() {
    let limits = Limits { floor: 50_000_000, ..Limits::DEFAULT };
    for (period, busy) in [(2, 1), (3, 1), (3, 2), (6, 3), (40, 20)] {
        let found = judged(2_000, &limits, |_| move |row| if row % period < busy { 60.0 } else { 0.0 });
        assert!(found.iter().all(|found| found.row < 1_000), "{busy} of {period}");
        let found = judged(2_000, &limits, |_| {
            move |row| {
                if row >= 1_000 {
                    400.0
                } else if row % period < busy {
                    60.0
                } else {
                    0.0
                }
            }
        });
        let news = found.iter().filter(|found| found.row >= 1_000 && found.verdict == Verdict::Shift);
        assert_eq!(news.count() as u64, SERIES, "{busy} of {period}");
    }
}
