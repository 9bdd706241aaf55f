//! Names that do not exist: steps of a search list, a name that is gone, and a burst.

use std::{thread, time::Duration};

use super::{A, AAAA, Stage};
use crate::support::{Tapio, needs_a_kernel, resolver::Ask};

/// Short windows, and few look-ups to learn from.
const QUICK: &str = "observer: { dns: { nxdomain: { window: 1s, floor: 20, min_samples: 2 } } }\n";

impl Stage {
    /// Looks up a name as a client with a search list does: the first entries do not have it.
    fn search(&mut self, name: &str) {
        for (domain, code) in [("prod.search.test", 3), ("search.test", 3), ("ok.test", 0)] {
            for kind in [A, AAAA] {
                let name = format!("{name}.{domain}");
                assert_eq!(self.client.ask(self.resolver, &name, kind, Ask::ONCE), Ok(code), "{name}");
            }
        }
    }
}

#[test]
fn the_steps_of_a_search_list_are_normal() {
    needs_a_kernel!();
    let mut stage = Stage::new();
    let tapio = Tapio::start_with(&["--observer=dns"], QUICK);
    for number in 0..200 {
        stage.search(&format!("redis{number}"));
    }
    tapio.expect_none(|o| o.is_to(stage.resolver));
}

#[test]
fn a_name_that_is_gone_is_reported_at_once_and_once() {
    needs_a_kernel!();
    let mut stage = Stage::new();
    let tapio = Tapio::start_observer("dns");
    stage.search("redis");
    stage.server.dns_mode("nx");
    for _ in 0..3 {
        for kind in [A, AAAA] {
            assert_eq!(stage.client.ask(stage.resolver, "redis.ok.test", kind, Ask::ONCE), Ok(3));
        }
    }
    let reported = tapio.expect_one(|o| o.is_to(stage.resolver)).named("dns_failure").of(&stage.client);
    assert_eq!((reported.text("question"), reported.text("error")), ("redis.ok.test", "NXDOMAIN"));
    assert!(reported.has_data("resolved_ms"));
    assert!(reported.message().contains("the name no longer exists (NXDOMAIN); it did "));
}

#[test]
fn a_burst_of_names_that_do_not_exist_is_reported_once() {
    needs_a_kernel!();
    let mut stage = Stage::new();
    let tapio = Tapio::start_with(&["--observer=dns"], QUICK);
    for _ in 0..3 {
        stage.search("redis");
        thread::sleep(Duration::from_millis(1_050));
    }
    for number in 0..60 {
        for domain in ["prod.search.test", "search.test", "elsewhere.test"] {
            assert_eq!(stage.ask(&format!("lost{number}.{domain}")), Ok(3));
        }
    }
    thread::sleep(Duration::from_millis(1_050));
    assert_eq!(stage.ask("ok.example"), Ok(0));
    let reported =
        tapio.expect_one(|o| o.is_to(stage.resolver)).named("dns_nxdomain_burst").of(&stage.client);
    // As many as a window has; a slow machine asks fewer in one.
    reported.has("absent", 21..181);
    assert!(reported.number("answers") >= reported.number("absent"));
}
