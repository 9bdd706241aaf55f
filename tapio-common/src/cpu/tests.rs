extern crate std;

use std::vec::Vec;

use super::*;

const MS: u64 = 1_000_000;
const WINDOW_NS: u64 = 2_000 * MS;
/// The cgroup that waits, and another one.
const OWN: u64 = 7;
const OTHER: u64 = 9;

fn settings() -> Settings {
    Settings {
        delay: Limits { run: 12, floor: 200_000, ..Limits::DEFAULT },
        min_wait_ns: MS,
        window_ns: WINDOW_NS,
        sustain: 3,
        cooldown_ns: 0,
    }
}

fn wait(ns: u64) -> Wait {
    Wait { ns, cgroup_id: OWN, instead: OTHER, throttled_ns: 0 }
}

/// Consecutive windows of one track, and the time.
struct Run(Track, u64);

impl Run {
    /// A cgroup that has waited so long in each second.
    fn learned(ms_per_second: u64) -> Self {
        let mut run = Self(Track { began_ns: 3_600_000 * MS, ..Track::default() }, 3_600_000 * MS);
        for window in 0..40 {
            let closed = run.window(ms_per_second, OTHER);
            let expected = if window < 16 { WindowVerdict::Learning } else { WindowVerdict::Normal };
            assert_eq!(closed, expected, "{window}");
        }
        run
    }

    /// A window of waits of 5 ms.
    fn window(&mut self, ms_per_second: u64, instead: u64) -> WindowVerdict {
        let end = self.1 + WINDOW_NS;
        let count = ms_per_second * 2 / 5;
        for _ in 0..count {
            self.1 += WINDOW_NS / (count + 1);
            self.0.add(&Wait { instead, ..wait(5 * MS) }, self.1);
        }
        self.1 = end;
        assert!(self.0.window_ended(end, WINDOW_NS));
        self.0.began_ns = end;
        let closed = self.0.close(WINDOW_NS, end, &settings(), &mut Baseline::default());
        self.0.begin();
        closed
    }

    fn windows(&mut self, count: usize, ms_per_second: u64) -> Vec<WindowVerdict> {
        (0..count).map(|_| self.window(ms_per_second, OTHER)).collect()
    }
}

fn outliers(verdicts: &[WindowVerdict]) -> Vec<usize> {
    let is_outlier =
        |(at, verdict): (usize, &WindowVerdict)| (*verdict == WindowVerdict::Outlier).then_some(at);
    verdicts.iter().enumerate().filter_map(is_outlier).collect()
}

#[test]
fn a_new_neighbour_is_reported_once_however_long_it_stays() {
    for before in [0, 20] {
        let mut run = Run::learned(before);
        assert_eq!(outliers(&run.windows(200, 600)), [2]);
        // It goes, and another one comes.
        assert_eq!(outliers(&run.windows(100, before)), [0; 0]);
        assert_eq!(outliers(&run.windows(50, 700)).len(), 1);
    }
}

#[test]
fn what_was_always_so_is_nothing() {
    let mut run = Run::learned(900);
    assert_eq!(outliers(&run.windows(200, 950)), [0; 0]);
}

#[test]
fn little_is_nothing_however_much_more_than_before_it_is() {
    let mut run = Run::learned(0);
    assert_eq!(outliers(&run.windows(100, 150)), [0; 0]);
}

#[test]
fn a_moment_is_nothing() {
    let mut run = Run::learned(10);
    for _ in 0..10 {
        assert_eq!(outliers(&run.windows(2, 800)), [0; 0]);
        assert_eq!(outliers(&run.windows(20, 10)), [0; 0]);
    }
}

#[test]
fn waits_for_ones_own_tasks_and_for_nobody_do_not_count() {
    for instead in [OWN, 0] {
        let mut run = Run::learned(0);
        let closed: Vec<_> = (0..20).map(|_| run.window(900, instead)).collect();
        assert_eq!(outliers(&closed), [0; 0]);
    }
}

#[test]
fn waits_for_a_quota_are_not_a_neighbours() {
    let mut track = Track::default();
    let mut now = 3_600_000 * MS;
    // Ten tasks are throttled together for 80 ms in each period, and then run one after the other, for 3 ms each.
    for period in 0..50 {
        now += 100 * MS;
        for nth in 0..10 {
            let throttled_ns = (period + 1) * 80 * MS;
            track.add(&Wait { throttled_ns, ..wait((80 + nth * 3) * MS) }, now + nth * 3 * MS);
        }
    }
    assert_eq!((track.waits.count, track.waits.sum_ns), (0, 0));
    assert!(track.waits.quota_ns > 50 * 800 * MS, "{track:?}");
    // Later waits are for others again.
    track.add(&Wait { throttled_ns: track.throttled_ns, ..wait(5 * MS) }, now + 300 * MS);
    assert_eq!((track.waits.count, track.waits.sum_ns), (1, 5 * MS));
}

#[test]
fn who_ran_instead_is_counted_by_the_time_waited() {
    let mut track = Track::default();
    for nth in 0..100_u64 {
        let (instead, ns) = if nth % 4 == 0 { (3, MS) } else { (OTHER, 4 * MS) };
        track.add(&Wait { instead, ..wait(ns) }, nth * 20 * MS);
    }
    assert_eq!(track.waits.instead.most(50), Some((OTHER, 92)));
    assert_eq!((track.waits.count, track.waits.longest_ns), (100, 4 * MS));
    assert_eq!(track.waits.us_per_second(2_000 * MS), 162_500);
}

#[test]
fn who_ran_instead_is_counted_for_as_long_as_it_lasts() {
    let mut run = Run::learned(0);
    run.windows(2, 600);
    assert_eq!(run.0.waits.instead.most(100), Some((OTHER, 100)));
    assert_eq!((run.0.waits.count, run.0.waits.instead.all), (0, 2 * 1_200 * MS));
    run.windows(1, 0);
    assert_eq!(run.0.waits, Waits::default());
}

#[test]
fn a_cgroup_that_hardly_runs_has_long_windows() {
    let mut track = Track::default();
    // What was before the first window is in none.
    track.add(&wait(5 * MS), 4_999 * MS);
    assert!(!track.window_ended(5_000 * MS, WINDOW_NS));
    assert_eq!(track.waits, Waits::default());
    track.add(&wait(5 * MS), 5_100 * MS);
    assert!(!track.window_ended(6_999 * MS, WINDOW_NS) && track.window_ended(65_000 * MS, WINDOW_NS));
    assert_eq!(track.waits.us_per_second(60_000 * MS), 83);
}

#[test]
fn who_hardly_ran_and_who_hardly_gets_to_run_are_reported_in_the_third_window() {
    // One slice in ten seconds teaches; then one in ten seconds, each after a wait as long as that.
    let mut run = Run(Track { began_ns: 3_600_000 * MS, ..Track::default() }, 3_600_000 * MS);
    let mut closed = Vec::new();
    for window in 0..40_u64 {
        run.1 += 10_000 * MS;
        let is_late = window >= 20;
        run.0.add(&if is_late { wait(10_000 * MS) } else { Wait { instead: 0, ..wait(0) } }, run.1);
        assert!(run.0.window_ended(run.1, WINDOW_NS));
        run.0.began_ns = run.1;
        closed.push(run.0.close(10_000 * MS, run.1, &settings(), &mut Baseline::default()));
        if outliers(&closed).len() == 1 && run.0.outlier_windows == 3 {
            assert_eq!(run.1 - run.0.since_ns, 24_000 * MS, "two windows before the end of the first");
        }
        run.0.begin();
    }
    assert_eq!(outliers(&closed), [22]);
}
