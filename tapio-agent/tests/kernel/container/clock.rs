//! The wall clock may be set at any time. It belongs to the whole machine, so these tests run in a guest.

use super::{of, start};
use crate::support::{Process, guest::Clock, needs_a_guest};

const HOUR: i64 = 3600;
/// Tolerance in seconds for a busy emulated CPU.
const SLACK: i64 = 60;

#[track_caller]
fn is_near(seconds: i64, expected: i64) {
    assert!(seconds.abs_diff(expected) < SLACK as u64, "{seconds}, and it was {expected}");
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[test]
fn what_is_reported_has_the_time_of_day_that_it_is() {
    needs_a_guest!();
    let (before, back, forth) = (super::container!(), super::container!(), super::container!());
    let tapio = start();
    let aborts = |cgroup| {
        let mut child = Process::start("child");
        child.enter(cgroup);
        child.die("abort");
        let reported = tapio.expect_one(of(cgroup)).is("container.crash").of(&child);
        is_near(reported.unix_seconds(), now());
        reported.has("ran_ms", 0..SLACK as u64 * 1000);
    };
    aborts(&before);
    let clock = Clock::step(-HOUR);
    aborts(&back);
    drop(clock);
    let _clock = Clock::step(24 * HOUR);
    aborts(&forth);
}

/// The duration of a stop comes from a clock that nobody sets.
#[test]
fn durations_do_not_step_with_the_time_of_day() {
    needs_a_guest!();
    for seconds in [-HOUR, HOUR] {
        let cgroup = super::container!();
        let tapio = start();
        let mut main = Process::start_as_init("deaf");
        main.enter(&cgroup);
        let mut runtime = Process::start("runtime");
        runtime.kill(15, main.pid());
        let _clock = Clock::step(seconds);
        runtime.kill(9, main.pid());
        main.await_death();

        let reported = tapio.expect_one(of(&cgroup)).is("container.killed").of(&main).by(&runtime);
        let reported = reported.says("asked_signal", "SIGTERM").severe("warning");
        reported.has("asked_ms", 0..SLACK as u64 * 1000);
        reported.has("ran_ms", reported.number("asked_ms")..SLACK as u64 * 1000);
        is_near(reported.unix_seconds(), now());
    }
}
