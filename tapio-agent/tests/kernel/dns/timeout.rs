//! Questions that are not answered.

use std::time::Duration;

use super::{A, AAAA, GIVEN_UP, Stage};
use crate::support::{Tapio, needs_a_kernel, resolver::Ask};

/// Three queries, 0.7 s apart.
const THRICE: Ask = Ask::ONCE.waiting(Duration::from_millis(700)).trying(3);

#[test]
fn a_look_up_that_is_not_answered_is_reported_once() {
    needs_a_kernel!();
    let mut stage = Stage::new();
    let tapio = Tapio::start_observer("dns");
    for kind in [A, AAAA] {
        let asked = stage.client.ask(stage.resolver, "drop.example", kind, THRICE);
        assert_eq!(asked, Err("TIMEOUT".to_owned()));
    }
    tapio.expect_within(GIVEN_UP, |o| o.is_to(stage.resolver));
    let [reported] = stage.of(tapio.end()).try_into().expect("one occurrence");
    let reported = reported.named("dns_timeout").of(&stage.client);
    assert_eq!((reported.text("question"), reported.text("question_type")), ("drop.example", "A, AAAA"));
    assert_eq!(reported.number("queries"), 3);
    // From the first query to five seconds after the last.
    reported.has("elapsed_us", 6_000_000..8_000_000);
}

#[test]
fn answers_with_another_id_and_garbage_are_no_answers() {
    needs_a_kernel!();
    let tapio = Tapio::start_observer("dns");
    let mut stages = ["wrongid.example", "garbage.example"].map(|name| (name, Stage::new()));
    for (name, stage) in &mut stages {
        assert_eq!(stage.client.ask(stage.resolver, name, A, THRICE), Err("TIMEOUT".to_owned()));
    }
    for (name, stage) in stages {
        let reported = tapio.expect_within(GIVEN_UP, |o| o.is_to(stage.resolver));
        reported.named("dns_timeout").of(&stage.client).says("question", name);
    }
}

#[test]
fn a_retry_that_succeeds_is_one_slow_look_up() {
    needs_a_kernel!();
    let mut stage = Stage::new();
    let tapio = Tapio::start_observer("dns");
    let asked = stage.client.ask(stage.resolver, "drop1.example", A, THRICE);
    assert_eq!(asked, Ok(0));
    tapio.expect_some(|o| o.is_to(stage.resolver));
    let [reported] = stage.of(tapio.end()).try_into().expect("one occurrence");
    let reported = reported.named("dns_slow").of(&stage.client);
    assert_eq!(reported.number("queries"), 2);
    reported.has("elapsed_us", 700_000..1_500_000);
}
