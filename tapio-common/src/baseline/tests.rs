extern crate std;
use std::vec::Vec;

use super::*;

const LIMITS: Limits = Limits::DEFAULT;

/// How many of `values` are spikes, and how many are shifts.
fn spikes_and_shifts(baseline: &mut Baseline, values: &[u64], limits: &Limits) -> [usize; 2] {
    let mut counts = [0, 0];
    for (row, value) in values.iter().enumerate() {
        match baseline.observe(*value, row as u64, limits) {
            Verdict::Spike => counts[0] += 1,
            Verdict::Shift => counts[1] += 1,
            Verdict::Learning | Verdict::Normal => {}
        }
    }
    counts
}

/// A baseline of 5 000 plus and minus 40.
fn settled() -> Baseline {
    let mut baseline = Baseline::default();
    for row in 0..200 {
        baseline.observe(if row % 2 == 0 { 4960 } else { 5040 }, row, &LIMITS);
    }
    baseline
}

#[test]
fn learns_mean_and_deviation() {
    let baseline = settled();
    assert!((4990..=5010).contains(&baseline.mean()), "{}", baseline.mean());
    assert!((35..=45).contains(&baseline.deviation()), "{}", baseline.deviation());
    assert_eq!(baseline.samples(), 200);
}

#[test]
fn first_samples_only_train() {
    let mut baseline = Baseline::default();
    for row in 0..16 {
        assert_eq!(baseline.observe(5000, row, &LIMITS), Verdict::Learning);
    }
    assert_eq!(baseline.observe(5000, 16, &LIMITS), Verdict::Normal);
}

#[test]
fn an_odd_first_sample_is_forgotten() {
    let mut baseline = Baseline::default();
    let mut values = [5000; 60];
    values[0] = 50_000;
    assert_eq!(spikes_and_shifts(&mut baseline, &values, &LIMITS), [0, 0]);
}

#[test]
fn a_spike_does_not_train() {
    let mut baseline = settled();
    let before = baseline;
    assert_eq!(baseline.observe(41_000, 200, &LIMITS), Verdict::Spike);
    assert_eq!(baseline.mean(), before.mean());
    assert_eq!(baseline.samples(), before.samples());
}

#[test]
fn a_spike_is_over_ratio_deviations_and_floor() {
    assert_eq!(settled().observe(9_900, 200, &LIMITS), Verdict::Normal, "not twice the mean");
    assert_eq!(settled().observe(10_100, 200, &LIMITS), Verdict::Spike);
    let floor = Limits { floor: 6_000, ..LIMITS };
    assert_eq!(settled().observe(10_100, 200, &floor), Verdict::Normal, "within the floor");
    let deviations = Limits { deviations: 255, ..LIMITS };
    assert_eq!(settled().observe(10_100, 200, &deviations), Verdict::Normal);
}

#[test]
fn over_the_ceiling_is_a_spike_whatever_was_learned() {
    let limits = Limits { ceiling: 20_000, ..LIMITS };
    let mut new = Baseline::default();
    assert_eq!(new.observe(20_001, 0, &limits), Verdict::Spike);
    assert_eq!(new, Baseline::default());

    // The level moves above the ceiling: a shift once, and a spike ever after.
    let mut baseline = settled();
    assert_eq!(spikes_and_shifts(&mut baseline, &[30_000; 50], &limits), [49, 1]);
    assert_eq!(baseline.mean(), 30_000);
}

#[test]
fn a_new_level_is_reported_once_and_learned() {
    for level in [3_000, 5_300, 9_000, 80_000] {
        let mut baseline = settled();
        let mut shifts = Vec::new();
        for row in 200..400 {
            if baseline.observe(level, row, &LIMITS) == Verdict::Shift {
                shifts.push((row, baseline.since(row)));
            }
        }
        assert_eq!(shifts, [(204, 200)], "level {level}");
        assert_eq!(baseline.mean(), level);
    }
}

#[test]
fn one_stray_sample_does_not_end_a_run() {
    let mut baseline = settled();
    let values = [9_000, 9_000, 9_000, 5_000, 9_000, 9_000, 9_000, 9_000];
    assert_eq!(spikes_and_shifts(&mut baseline, &values, &LIMITS), [0, 1]);
    assert_eq!(baseline.since(7), 0);
}

#[test]
fn noise_that_outgrows_the_band_is_learned() {
    let mut baseline = settled();
    let values: Vec<u64> = (0..2_000_u64).map(|row| 3_500 + row * 7_919 % 3_000).collect();
    assert_eq!(spikes_and_shifts(&mut baseline, &values, &LIMITS), [0, 0]);
    assert!((600..900).contains(&baseline.deviation()), "{}", baseline.deviation());
}

#[test]
fn a_restless_series_needs_a_longer_run_unless_it_is_far_away() {
    let mut baseline = Baseline::default();
    for row in 0..1_500 {
        baseline.observe(if row % 3 == 0 { 5_030 } else { 5_000 }, row, &LIMITS);
    }
    assert!(baseline.unrest() > 240, "{}", baseline.unrest());
    let count = |level| {
        let mut baseline = baseline;
        (1..100).find(|row| baseline.observe(level, *row, &LIMITS) == Verdict::Shift)
    };
    assert_eq!((count(5_070), count(9_000)), (Some(10), Some(7)));
}

#[test]
fn levels_that_a_run_was_far_from_are_no_return() {
    let mut baseline = settled();
    for (level, returns) in [(9_000, 0), (5_000, 1), (9_100, 2), (5_000, 3), (7_000, 0)] {
        let shifts = spikes_and_shifts(&mut baseline, &[level; 20], &LIMITS)[1];
        assert_eq!((shifts, (baseline.run >> 12) & 0xf), (1, returns), "{level}");
    }
}

#[test]
fn within_the_floor_nothing_is_abnormal_and_beyond_it_a_level_is_new() {
    let limits = Limits { floor: 2_000, ..LIMITS };
    for (level, shifts) in [(6_950, 0), (3_050, 0), (7_200, 1), (2_800, 1)] {
        let mut baseline = settled();
        assert_eq!(spikes_and_shifts(&mut baseline, &[level; 50], &limits), [0, shifts], "{level}");
    }
}

#[test]
fn a_copy_without_the_run_has_all_but_the_run() {
    let mut baseline = settled();
    spikes_and_shifts(&mut baseline, &[9_000; 4], &LIMITS);
    let mut copy = baseline.without_run();
    assert_eq!((copy.mean(), copy.samples()), (baseline.mean(), baseline.samples()));
    assert_eq!(spikes_and_shifts(&mut copy, &[9_000; 4], &LIMITS), [0, 0]);
    assert_eq!(spikes_and_shifts(&mut baseline, &[9_000], &LIMITS), [0, 1]);
}

#[test]
fn a_series_of_zeros_is_normal_until_it_is_not() {
    let mut baseline = Baseline::default();
    assert_eq!(spikes_and_shifts(&mut baseline, &[0; 100], &LIMITS), [0, 0]);
    assert_eq!(baseline.observe(1, 100, &LIMITS), Verdict::Spike);
}
