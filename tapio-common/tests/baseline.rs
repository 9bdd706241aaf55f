//! Properties of the baseline that hold for every series.

use proptest::prelude::*;
use tapio_common::baseline::{Baseline, Limits, MAX_VALUE, Verdict};

/// Arbitrary limits, including nonsense.
fn any_limits() -> impl Strategy<Value = Limits> {
    let value = || prop_oneof![Just(0), 0_u64..10_000, any::<u64>()];
    let samples = prop_oneof![0_u32..300, any::<u32>()];
    (any::<u16>(), any::<u8>(), any::<u8>(), samples, value(), value()).prop_map(
        |(ratio_percent, deviations, run, min_samples, floor, ceiling)| Limits {
            ratio_percent,
            deviations,
            run,
            min_samples,
            floor,
            ceiling,
        },
    )
}

/// Values of every size, with levels that last.
fn any_series() -> impl Strategy<Value = Vec<u64>> {
    let value = prop_oneof![0_u64..20, 900_u64..1_100, 0_u64..10_000_000, any::<u64>()];
    prop::collection::vec((value, 1_usize..30), 0..30)
        .prop_map(|levels| levels.into_iter().flat_map(|(value, times)| vec![value; times]).collect())
}

/// Levels with noise of up to a sixteenth, far from the edges of the range.
fn noisy_levels() -> impl Strategy<Value = Vec<u64>> {
    let level = (1_u64 << 30..1_u64 << 36, prop::collection::vec(0_u64..1 << 26, 1..60));
    prop::collection::vec(level, 1..8).prop_map(|levels| {
        levels
            .into_iter()
            .flat_map(|(level, noise)| noise.into_iter().map(move |extra| level + extra))
            .collect()
    })
}

#[test]
fn fits_a_map_value() {
    assert!(size_of::<Baseline>() <= 32);
    assert_eq!(size_of::<Limits>(), 24);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// For the samples that it handles, the common case does the same as the whole judgement.
    #[test]
    fn learn_if_normal_agrees_with_judge(state: [u8; 32], series in any_series(), limits in any_limits()) {
        for mut baseline in [Baseline::default(), bytemuck::pod_read_unaligned(&state)] {
            for limits in [limits, Limits::DEFAULT] {
                for (now, value) in series.iter().enumerate() {
                    let mut short = baseline;
                    let verdict = baseline.judge(*value, now as u64, &limits);
                    if short.learn_if_normal(*value, &limits) {
                        prop_assert_eq!(verdict, Verdict::Normal);
                        prop_assert_eq!(short, baseline);
                    }
                }
            }
        }
    }

    /// Tests are built with overflow checks, so this also shows that nothing overflows.
    #[test]
    fn never_panics(state: [u8; 32], series in any_series(), now: u64, limits in any_limits()) {
        for mut baseline in [Baseline::default(), bytemuck::pod_read_unaligned(&state)] {
            for value in &series {
                baseline.observe(*value, now, &limits);
                baseline.observe(*value, now, &Limits::DEFAULT);
                prop_assert!(baseline.mean() <= MAX_VALUE + 1);
                prop_assert!(baseline.deviation() <= MAX_VALUE + 1);
            }
        }
    }

    #[test]
    fn mean_stays_within_the_samples(series in any_series(), limits in any_limits()) {
        let mut baseline = Baseline::default();
        let (mut least, mut most) = (u64::MAX, 0);
        for (row, value) in series.iter().enumerate() {
            let value = *value.min(&MAX_VALUE);
            (least, most) = (least.min(value), most.max(value));
            baseline.observe(value, row as u64, &limits);
            if baseline.samples() > 0 {
                prop_assert!((least..=most).contains(&baseline.mean()));
            }
        }
    }

    #[test]
    fn a_constant_series_is_never_abnormal(value: u64, length in 0_u64..2_000, limits in any_limits()) {
        let limits = Limits { ceiling: 0, ..limits };
        let mut baseline = Baseline::default();
        for row in 0..length {
            let verdict = baseline.observe(value, row, &limits);
            prop_assert!(matches!(verdict, Verdict::Learning | Verdict::Normal));
        }
    }

    #[test]
    fn the_unit_changes_nothing(series in noisy_levels(), scale in 0_u32..=10, floor in 0_u64..1 << 30) {
        let limits = Limits { floor, ceiling: 3 << 34, ..Limits::DEFAULT };
        let scaled_limits = Limits { floor: floor << scale, ceiling: limits.ceiling << scale, ..limits };
        let (mut baseline, mut scaled) = (Baseline::default(), Baseline::default());
        for (row, value) in series.iter().enumerate() {
            prop_assert_eq!(
                baseline.observe(*value, row as u64, &limits),
                scaled.observe(*value << scale, row as u64, &scaled_limits)
            );
            prop_assert_eq!(baseline.since(row as u64), scaled.since(row as u64));
        }
    }

    #[test]
    fn a_spike_does_not_move_the_mean(series in any_series(), limits in any_limits()) {
        let mut baseline = Baseline::default();
        for (row, value) in series.iter().enumerate() {
            let before = baseline;
            if baseline.observe(*value, row as u64, &limits) == Verdict::Spike {
                prop_assert_eq!(baseline.mean(), before.mean());
                prop_assert_eq!(baseline.samples(), before.samples());
            }
        }
    }

    #[test]
    fn a_level_change_is_reported_once(before in 1_000_u64..1 << 40, after in 1_000_u64..1 << 40) {
        prop_assume!(before.abs_diff(after) > before / 8);
        let mut baseline = Baseline::default();
        for row in 0..100 {
            baseline.observe(before, row, &Limits::DEFAULT);
        }
        let shifts: Vec<u64> = (100..300)
            .filter(|row| baseline.observe(after, *row, &Limits::DEFAULT) == Verdict::Shift)
            .collect();
        prop_assert_eq!(shifts, [104]);
        prop_assert_eq!(baseline.since(300), 100);
        prop_assert_eq!(baseline.mean(), after);
    }

    #[test]
    fn two_levels_that_alternate_become_normal(
        low in 100_u64..1 << 30,
        times in 2_u64..50,
        dwell in 1_u64..=4,
        stay in 1_u64..=4,
    ) {
        let mut baseline = Baseline::default();
        let stay = stay.clamp(dwell.div_ceil(2), dwell * 2);
        let period = dwell + stay;
        let reported = (0..period * 400)
            .filter(|row| {
                let value = if row % period < dwell { low } else { low * times };
                let verdict = baseline.observe(value, *row, &Limits::DEFAULT);
                *row >= period * 200 && matches!(verdict, Verdict::Spike | Verdict::Shift)
            })
            .count();
        prop_assert_eq!(reported, 0);
    }

    #[test]
    fn one_request_in_ten_stays_abnormal(low in 100_u64..1 << 30, times in 10_u64..50) {
        let mut baseline = Baseline::default();
        let spikes = (0..10_000)
            .filter(|row| {
                let value = if row % 10 == 9 { low * times } else { low };
                baseline.observe(value, *row, &Limits::DEFAULT) == Verdict::Spike
            })
            .count();
        prop_assert!(spikes > 950, "{spikes}");
    }

    #[test]
    fn since_is_never_in_the_future(series in any_series(), limits in any_limits(), start in 0_u64..1 << 60) {
        let mut baseline = Baseline::default();
        for (row, value) in series.iter().enumerate() {
            let now = start + row as u64 * 1_000;
            if baseline.observe(*value, now, &limits) == Verdict::Shift {
                prop_assert!((start..=now).contains(&baseline.since(now)));
            }
            prop_assert!(baseline.since(now) <= now);
        }
    }
}
