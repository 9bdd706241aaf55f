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
        least_ns: WINDOW_NS / 20,
        sustain: 3,
        cooldown_ns: 0,
    }
}

/// One CPU's worth: so much of it, in percent, at so many cycles for 100 instructions.
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

/// Windows of one track, one after another.
struct Run(Track, u64);

impl Run {
    fn learned(percent: u64, cpi_percent: u64) -> Self {
        let mut run = Self(Track::default(), 0);
        for window in 0..40 {
            let closed = run.close(usage(percent, cpi_percent + window % 3));
            assert_eq!(closed, if window < 16 { Closed::Learning } else { Closed::Normal }, "{window}");
        }
        run
    }

    fn close(&mut self, usage: Usage) -> Closed {
        self.1 += WINDOW_NS;
        self.0.close(&usage, WINDOW_NS, self.1, &settings(), &mut Baseline::default())
    }
}

#[test]
fn a_neighbour_that_takes_the_cache_is_reported_once_it_has_lasted() {
    // The same work takes twice the time, or the same time does half of the work.
    for percent in [80, 40] {
        let mut run = Run::learned(40, 100);
        let began = run.1;
        let reported: Vec<_> = (0..4).map(|_| run.close(usage(percent, 200))).collect();
        assert_eq!(reported, [Closed::Normal, Closed::Normal, Closed::Over, Closed::Over], "{percent}");
        assert_eq!(run.0.since_ns, began);
        assert_eq!(run.close(usage(40, 100)), Closed::Normal);
        assert_eq!(run.0.over, 0);
    }
}

#[test]
fn another_load_is_not_compared_and_is_learned_when_it_stays() {
    let mut run = Run::learned(50, 100);
    // A tenth of the work, with cold caches.
    let closed: Vec<_> = (0..40).map(|_| run.close(usage(6, 300))).collect();
    assert!(closed.iter().all(|closed| matches!(closed, Closed::Learning | Closed::Normal)), "{closed:?}");
    assert_eq!(closed.last(), Some(&Closed::Normal));
    assert_eq!(run.close(usage(6, 900)), Closed::Normal);
    assert_eq!(run.close(usage(6, 900)), Closed::Normal);
    assert_eq!(run.close(usage(6, 900)), Closed::Over);
}

#[test]
fn few_instructions_are_a_load_too() {
    let few = |percent, count| Usage { instructions: count, ..usage(percent, 100) };
    let mut run = Run(Track::default(), 0);
    for _ in 0..20 {
        run.close(few(6, 100));
    }
    assert_eq!(run.close(few(60, 1_000)), Closed::Learning, "ten times of both");
    assert_eq!(run.close(few(60, 100)), Closed::Normal, "as many, in ten times the time: not yet for long");
    assert_eq!(run.0.over, 1);
}

#[test]
fn a_level_that_stays_becomes_normal() {
    let mut run = Run::learned(50, 100);
    let over = (0..60).filter(|_| run.close(usage(50, 200)) == Closed::Over).count();
    assert_eq!(over, 10, "from the third window of the run to its twelfth");
}

#[test]
fn what_ran_too_little_or_was_not_counted_says_nothing() {
    let mut run = Run::learned(50, 100);
    assert_eq!(run.close(usage(4, 900)), Closed::Idle);
    assert_eq!(run.close(Usage { slices: 15, ..usage(50, 900) }), Closed::Idle);
    let half = usage(50, 900);
    assert_eq!(run.close(Usage { counted_ns: half.ns / 5, ..half }), Closed::Learning);
    assert_eq!(run.close(Usage { instructions: 0, ..half }), Closed::Learning);
    assert_eq!(run.close(Usage::default()), Closed::Idle);
    // Half of the time is enough: cycles and instructions are those of the same half.
    for _ in 0..2 {
        run.close(Usage {
            cycles: half.cycles / 2,
            instructions: half.instructions / 2,
            counted_ns: half.ns / 2,
            ..half
        });
    }
    assert_eq!(run.0.over, 2);
}

#[test]
fn a_gap_is_no_window() {
    let mut track = Track { began_ns: 1, ..Track::default() };
    track.usage.add(&usage(50, 100));
    assert!(!track.is_over(WINDOW_NS, WINDOW_NS));
    assert!(track.is_over(WINDOW_NS + 1, WINDOW_NS));
    assert!(!track.is_over(3 * WINDOW_NS, WINDOW_NS));
    assert_eq!(track.usage, Usage::default());
    assert_eq!(track.began_ns, 3 * WINDOW_NS);
}

#[test]
fn a_node_is_slow_beyond_its_mix_only_where_its_groups_are() {
    let node = Usage { cycles: 1000, known_cycles: 900, expected_cycles: 900, ..Usage::default() };
    assert!(!node.is_beyond_its_mix(150));
    assert!(Usage { expected_cycles: 600, ..node }.is_beyond_its_mix(150));
    assert!(!Usage { known_cycles: 400, expected_cycles: 100, ..node }.is_beyond_its_mix(150));
}

#[test]
fn slices_add_up() {
    let mut sum = Usage { known_cycles: 7, expected_cycles: 8, ..usage(10, 100) };
    sum.add(&usage(10, 100));
    assert_eq!(sum, Usage { known_cycles: 7, expected_cycles: 8, slices: 2000, ..usage(20, 100) });
}
