//! Resolvers that answer late.

use super::{A, Stage};
use crate::support::{Tapio, needs_a_kernel, resolver::Ask};

#[test]
fn a_look_up_that_takes_long_is_reported_once() {
    needs_a_kernel!();
    let mut stage = Stage::new();
    let tapio = Tapio::start_observer("dns");
    let asked = stage.client.ask(stage.resolver, "slow1200.example", A, Ask::ONCE.waiting(super::GIVEN_UP));
    assert_eq!(asked, Ok(0));
    let reported = tapio.expect_one(|o| o.is_to(stage.resolver)).named("dns_slow").of(&stage.client);
    reported.has("elapsed_us", 1_200_000..3_000_000);
    assert_eq!(reported.number("queries"), 1);
    reported.has_no("baseline");
}

#[test]
fn a_resolver_that_became_slower_is_reported_once_with_its_normal_latency() {
    needs_a_kernel!();
    let mut stage = Stage::new();
    let tapio = Tapio::start_observer("dns");
    // 16 readings of four answers teach the baseline, and five show the new level.
    for number in 0..80 {
        assert_eq!(stage.ask(&format!("ok{number}.example")), Ok(0));
    }
    stage.server.dns_mode("delay 60");
    for number in 0..40 {
        assert_eq!(stage.ask(&format!("ok{number}.example")), Ok(0));
    }
    let reported = tapio.expect_one(|o| o.is_to(stage.resolver)).named("dns_slow").of(&stage.client);
    reported.has("latency_us", 50_000..200_000);
    assert!(reported.baseline("mean") < 50_000.0);
    assert!(reported.message().contains(": DNS answers at "), "{}", reported.message());
}
