extern crate std;

use std::vec::Vec;

use super::*;

const WINDOW_NS: u64 = 10_000_000_000;

fn settings() -> Settings {
    let cpi = Limits { ratio_percent: 150, run: 12, floor: 128, ..Limits::DEFAULT };
    Settings {
        cpi,
        load: Limits::DEFAULT,
        window_ns: WINDOW_NS,
        min_cpu_ns: WINDOW_NS / 20,
        sustain: 3,
        cooldown_ns: 0,
    }
}

/// `percent` of one CPU, at `cpi_percent` cycles per 100 instructions.
fn usage(percent: u64, cpi_percent: u64) -> Usage {
    let ns = WINDOW_NS / 100 * percent;
    Usage {
        cycles: ns,
        instructions: ns * 100 / cpi_percent,
        ns,
        counted_ns: ns,
        slices: 1000,
        ..Usage::default()
    }
}

/// Consecutive windows of one track, and the time.
struct Run(Track, u64);

impl Run {
    fn learned(percent: u64, cpi_percent: u64) -> Self {
        let mut run = Self(Track::default(), 0);
        for window in 0..40 {
            let closed = run.close(usage(percent, cpi_percent + window % 3));
            assert_eq!(
                closed,
                if window < 16 { WindowVerdict::Learning } else { WindowVerdict::Normal },
                "{window}"
            );
        }
        run
    }

    fn close(&mut self, usage: Usage) -> WindowVerdict {
        self.1 += WINDOW_NS;
        self.0.close(&usage, WINDOW_NS, self.1, &settings(), &mut Baseline::default())
    }
}

#[test]
fn a_noisy_neighbour_is_reported_after_sustain_windows() {
    // The same work takes twice the CPU time, or the same CPU time does half of the work.
    for percent in [80, 40] {
        let mut run = Run::learned(40, 100);
        let began = run.1;
        let reported: Vec<_> = (0..4).map(|_| run.close(usage(percent, 200))).collect();
        assert_eq!(
            reported,
            [WindowVerdict::Normal, WindowVerdict::Normal, WindowVerdict::Outlier, WindowVerdict::Outlier],
            "{percent}"
        );
        assert_eq!(run.0.since_ns, began);
        assert_eq!(run.close(usage(40, 100)), WindowVerdict::Normal);
        assert_eq!(run.0.outlier_windows, 0);
    }
}

#[test]
fn another_load_is_not_compared_and_is_learned_if_it_stays() {
    let mut run = Run::learned(50, 100);
    // A tenth of the work, with cold caches.
    let closed: Vec<_> = (0..40).map(|_| run.close(usage(6, 300))).collect();
    assert!(
        closed.iter().all(|closed| matches!(closed, WindowVerdict::Learning | WindowVerdict::Normal)),
        "{closed:?}"
    );
    assert_eq!(closed.last(), Some(&WindowVerdict::Normal));
    assert_eq!(run.close(usage(6, 900)), WindowVerdict::Normal);
    assert_eq!(run.close(usage(6, 900)), WindowVerdict::Normal);
    assert_eq!(run.close(usage(6, 900)), WindowVerdict::Outlier);
}

#[test]
fn another_load_that_follows_a_small_rise_is_not_compared() {
    // The small rise is of the same run as the load, which so becomes normal a few windows after it came.
    for rise in 0..4 {
        let mut run = Run::learned(10, 100);
        for _ in 0..rise {
            run.close(usage(11, 100));
        }
        let closed: Vec<_> = (0..40).map(|_| run.close(usage(100, 300))).collect();
        assert!(!closed.contains(&WindowVerdict::Outlier), "{rise}: {closed:?}");
        assert_eq!(closed.last(), Some(&WindowVerdict::Normal));
    }
}

#[test]
fn comparable_load_is_by_cpu_time_or_by_instructions() {
    let few = |percent, count| Usage { instructions: count, ..usage(percent, 100) };
    let mut run = Run(Track::default(), 0);
    for _ in 0..20 {
        run.close(few(6, 100));
    }
    assert_eq!(run.close(few(60, 1_000)), WindowVerdict::Learning, "ten times both");
    assert_eq!(
        run.close(few(60, 100)),
        WindowVerdict::Normal,
        "as many in ten times the CPU time: the first of three windows"
    );
    assert_eq!(run.0.outlier_windows, 1);
}

#[test]
fn a_level_that_stays_becomes_normal() {
    let mut run = Run::learned(50, 100);
    let over = (0..60).filter(|_| run.close(usage(50, 200)) == WindowVerdict::Outlier).count();
    assert_eq!(over, 10, "from the third window of the run to its twelfth");
}

#[test]
fn a_window_that_ran_or_was_counted_too_little_is_not_judged() {
    let mut run = Run::learned(50, 100);
    assert_eq!(run.close(usage(4, 900)), WindowVerdict::Idle);
    assert_eq!(run.close(Usage { slices: 15, ..usage(50, 900) }), WindowVerdict::Idle);
    let half = usage(50, 900);
    assert_eq!(run.close(Usage { counted_ns: half.ns / 5, ..half }), WindowVerdict::Learning);
    assert_eq!(run.close(Usage { instructions: 0, ..half }), WindowVerdict::Learning);
    assert_eq!(run.close(Usage::default()), WindowVerdict::Idle);
    // Half of the time is enough: cycles and instructions were counted in the same half.
    for _ in 0..2 {
        run.close(Usage {
            cycles: half.cycles / 2,
            instructions: half.instructions / 2,
            counted_ns: half.ns / 2,
            ..half
        });
    }
    assert_eq!(run.0.outlier_windows, 2);
}

#[test]
fn a_window_with_a_gap_is_discarded() {
    let mut track = Track { began_ns: 1, ..Track::default() };
    track.usage.add(&usage(50, 100));
    assert!(!track.window_ended(WINDOW_NS, WINDOW_NS));
    assert!(track.window_ended(WINDOW_NS + 1, WINDOW_NS));
    assert!(!track.window_ended(3 * WINDOW_NS, WINDOW_NS));
    assert_eq!(track.usage, Usage::default());
    assert_eq!(track.began_ns, 3 * WINDOW_NS);
}

#[test]
fn a_node_is_slower_than_its_mix_only_if_its_cgroups_are() {
    let node = Usage { cycles: 1000, known_cycles: 900, expected_cycles: 900, ..Usage::default() };
    assert!(!node.is_slower_than_its_mix(150));
    assert!(Usage { expected_cycles: 600, ..node }.is_slower_than_its_mix(150));
    assert!(!Usage { known_cycles: 400, expected_cycles: 100, ..node }.is_slower_than_its_mix(150));
}

#[test]
fn slices_add_up() {
    let mut sum = Usage { known_cycles: 7, expected_cycles: 8, ..usage(10, 100) };
    sum.add(&usage(10, 100));
    assert_eq!(sum, Usage { known_cycles: 7, expected_cycles: 8, slices: 2000, ..usage(20, 100) });
}
