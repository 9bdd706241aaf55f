//! Healthy look-ups.

use std::time::Duration;

use super::{A, Stage};
use crate::support::{
    Tapio, needs_a_kernel,
    resolver::{Ask, Transport},
};

#[test]
fn healthy_look_ups_make_no_occurrence_and_each_is_counted() {
    needs_a_kernel!();
    let mut stage = Stage::new();
    let tapio = Tapio::start_observer("dns");
    for name in
        ["ok.example", "nodata.example", "case.example", "nx.example", "slow300.example", "big.example"]
    {
        stage.ask(name).unwrap();
    }
    // Truncated, then over TCP.
    stage.ask("trunc.example").unwrap();
    stage.ask_over(Transport::Tcp, "trunc.example").unwrap();
    // The same question again and again, which is answered each time.
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(600));
        stage.ask("ok.example").unwrap();
    }
    let ended = tapio.end();
    for (program, counts) in &ended.programs {
        assert_eq!(counts.seen, counts.accounted(), "{program}");
        // Over TCP a packet may be out of reach; other tests ask at the same time.
        assert!(counts.seen >= 10, "{program}: {counts:?}");
    }
    stage.expects_nothing(ended);
}

#[test]
fn thousands_of_look_ups_a_second_make_no_occurrence() {
    needs_a_kernel!();
    let mut stage = Stage::new();
    let tapio = Tapio::start_observer("dns");
    let count = flood(&mut stage);
    let ended = tapio.end();
    for (program, counts) in &ended.programs {
        assert!(counts.seen >= count.into(), "{program}: {counts:?}");
    }
    stage.expects_nothing(ended);
}

/// Returns how many look-ups there were, all of which were answered.
fn flood(stage: &mut Stage) -> u32 {
    let (count, per_second) = if crate::support::guest::is_one() { (1_000, 500) } else { (15_000, 5_000) };
    assert_eq!(stage.client.flood_dns(stage.resolver, "ok.example", count, per_second), Ok(count));
    count
}

#[test]
fn one_pause_of_a_busy_resolver_is_no_rise() {
    needs_a_kernel!();
    let mut stage = Stage::new();
    let tapio = Tapio::start_observer("dns");
    flood(&mut stage);
    // A hundred questions wait for the same thing.
    stage.server.dns_mode("stall 60");
    flood(&mut stage);
    stage.expects_nothing(tapio.end());
}

#[test]
fn a_question_that_is_given_up_is_nothing() {
    needs_a_kernel!();
    let mut stage = Stage::new();
    let tapio = Tapio::start_observer("dns");
    assert_eq!(
        stage.client.ask(stage.resolver, "slow400.example", A, Ask::ONCE.waiting(Duration::from_millis(50))),
        Err("TIMEOUT".to_owned())
    );
    tapio.expect_none(|o| o.is_to(stage.resolver));
}
