//! Real clients: the C libraries and Go.

use super::{GIVEN_UP, Stage};
use crate::support::{
    Process, Tapio, needs_a_kernel,
    resolver::{Client, lookup_by},
    skip,
};

/// Asks this resolver alone, and gives up soon.
fn resolv_conf(stage: &Stage) -> String {
    format!("nameserver {}\noptions timeout:1 attempts:2\n", stage.resolver.ip())
}

fn fails_and_is_not_answered(client: Client) {
    for (name, kind) in [("servfail.example.", "dns_failure"), ("drop.example.", "dns_timeout")] {
        let mut stage = Stage::new();
        let tapio = Tapio::start_observer("dns");
        // Go asks again with another id, which is a look-up of its own as long as no answer was seen.
        stage.ask("ok.example").unwrap();
        let asked = match lookup_by(client, &stage.link.client, None, &resolv_conf(&stage), name) {
            Ok(asked) => asked,
            Err(reason) => skip!("{reason}"),
        };
        let reported = tapio.expect_within(GIVEN_UP, |o| o.is_to(stage.resolver));
        let reported = reported.named(kind).of_pid(asked.pid);
        assert_eq!(reported.comm(), asked.comm);
        assert_eq!(reported.text("question"), name.trim_end_matches('.'));
        let ended = tapio.end();
        let others = ended.occurrences.iter().filter(|o| o.is_to(stage.resolver)).count();
        assert_eq!(others, 1, "{name}");
    }
}

#[test]
fn glibc_fails_and_is_not_answered() {
    needs_a_kernel!();
    fails_and_is_not_answered(Client::Glibc);
}

#[test]
fn busybox_fails_and_is_not_answered() {
    needs_a_kernel!();
    fails_and_is_not_answered(Client::Busybox);
}

#[test]
fn go_fails_and_is_not_answered() {
    needs_a_kernel!();
    fails_and_is_not_answered(Client::Go);
}

#[test]
fn musl_fails_and_is_not_answered() {
    needs_a_kernel!();
    for (name, kind) in [("servfail.example.", "dns_failure"), ("drop.example.", "dns_timeout")] {
        let stage = Stage::new();
        let mut client =
            Process::start_with_resolv_conf(&stage.link.client, "resolves", &resolv_conf(&stage));
        let tapio = Tapio::start_observer("dns");
        assert!(client.resolve(name).is_err());
        let reported = tapio.expect_within(GIVEN_UP, |o| o.is_to(stage.resolver));
        reported.named(kind).of(&client).says("question", name.trim_end_matches('.'));
        let ended = tapio.end();
        assert_eq!(ended.occurrences.iter().filter(|o| o.is_to(stage.resolver)).count(), 1, "{name}");
    }
}
