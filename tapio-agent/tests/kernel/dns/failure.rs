//! Resolvers that answer with an error, and ports without a resolver.

use super::{A, AAAA, Stage};
use crate::support::{
    Cgroup, Process, Tapio, Version,
    lockdown::reads_all_of_a_packet,
    needs_a_kernel,
    resolver::{Ask, Transport},
    skip,
};

#[test]
fn each_error_is_reported_once_with_its_process_and_its_question() {
    needs_a_kernel!();
    let mut stage = Stage::new();
    let tapio = Tapio::start_observer("dns");
    for (number, code) in [(1, "FORMERR"), (2, "SERVFAIL"), (4, "NOTIMP"), (5, "REFUSED")] {
        let name = format!("{}.shop.example", code.to_lowercase());
        assert_eq!(stage.ask(&name), Ok(number));
        let reported = tapio.expect_one(|o| o.is_to(stage.resolver) && o.text("error") == code);
        let reported = reported.named("dns_failure").of(&stage.client);
        assert_eq!((reported.text("question"), reported.text("question_type")), (&*name, "A"));
        assert_eq!((reported.text("transport"), reported.count), ("udp", 1));
        assert_eq!(reported.text("local_address"), stage.link.client_ip().to_string());
        assert_eq!(
            reported.message(),
            format!(
                "asks[{}]: DNS look-up of {name} (A) at {} failed: {code}",
                stage.client.pid(),
                stage.resolver
            )
        );
    }
}

#[test]
fn both_questions_of_a_look_up_and_its_retries_are_one() {
    needs_a_kernel!();
    let mut stage = Stage::new();
    let tapio = Tapio::start_observer("dns");
    for kind in [A, AAAA, A, AAAA] {
        assert_eq!(stage.client.ask(stage.resolver, "servfail.example", kind, Ask::ONCE), Ok(2));
    }
    // The cool-down suppresses some of them, which is the number of the next.
    let reported = tapio.expect_one(|o| o.is_to(stage.resolver)).named("dns_failure").of(&stage.client);
    assert_eq!(reported.text("question"), "servfail.example");
}

#[test]
fn a_resolver_at_an_ipv6_address_is_named() {
    needs_a_kernel!();
    let mut stage = Stage::new();
    let resolver = stage.server.serve_dns(&format!("[{}]:53", stage.link.v6(2)));
    // Until the addresses of the link are resolved.
    assert_eq!(stage.client.ask(resolver, "ok.example", AAAA, Ask::ONCE.trying(5)), Ok(0));
    let tapio = Tapio::start_observer("dns");
    assert_eq!(stage.client.ask(resolver, "servfail.example", AAAA, Ask::ONCE), Ok(2));
    let reported = tapio.expect_one(|o| o.is_to(resolver)).named("dns_failure").of(&stage.client);
    assert_eq!(reported.text("local_address"), stage.link.v6(1).to_string());
    assert_eq!(reported.text("question_type"), "AAAA");
}

#[test]
fn an_unconnected_socket_is_seen() {
    needs_a_kernel!();
    let mut stage = Stage::new();
    let tapio = Tapio::start_observer("dns");
    assert_eq!(stage.ask_over(Transport::Unconnected, "refused.example"), Ok(5));
    tapio.expect_one(|o| o.is_to(stage.resolver)).named("dns_failure").of(&stage.client);
}

#[test]
fn a_look_up_over_tcp_is_seen() {
    needs_a_kernel!();
    if !reads_all_of_a_packet() {
        skip!("this kernel does not let programs read all of a packet");
    }
    let mut stage = Stage::new();
    let tapio = Tapio::start_observer("dns");
    assert_eq!(stage.ask_over(Transport::Tcp, "servfail.example"), Ok(2));
    let reported = tapio.expect_one(|o| o.is_to(stage.resolver)).named("dns_failure").of(&stage.client);
    assert_eq!(reported.text("transport"), "tcp");
}

#[test]
fn a_port_without_a_resolver_is_reported_with_the_error() {
    needs_a_kernel!();
    let mut stage = Stage::new();
    let tapio = Tapio::start_observer("dns");
    for host in [stage.link.v4(2), stage.link.v6(2)] {
        // An address of the server on which nothing listens: it has one more.
        let other = match host {
            std::net::IpAddr::V4(_) => stage.link.v4(9),
            std::net::IpAddr::V6(_) => stage.link.v6(9),
        };
        let prefix = if other.is_ipv4() { 24 } else { 64 };
        let nodad = if other.is_ipv4() { "" } else { " nodad" };
        stage.link.server.ip(&format!("address add {other}/{prefix} dev wire{nodad}"));
        let nobody = (other, 53).into();
        let asked = stage.client.ask(nobody, "ok.example", A, Ask::ONCE);
        assert_eq!(asked, Err("ECONNREFUSED".to_owned()));
        let reported = tapio.expect_one(|o| o.is_to(nobody)).named("dns_failure").of(&stage.client);
        assert_eq!(reported.text("error"), "ECONNREFUSED");
        assert!(
            reported.message().ends_with("failed: nothing answers at that port"),
            "{}",
            reported.message()
        );
    }
}

#[test]
fn a_container_is_named() {
    needs_a_kernel!();
    let cgroup = match Cgroup::container(Version::Two) {
        Ok(cgroup) => cgroup,
        Err(reason) => skip!("{reason}"),
    };
    let mut stage = Stage::new();
    let mut client = Process::start_in(&stage.link.client, "in-container");
    client.enter(&cgroup);
    let tapio = Tapio::start_observer("dns");
    assert_eq!(client.ask(stage.resolver, "servfail.example", A, Ask::ONCE), Ok(2));
    tapio.expect_one(|o| o.is_to(stage.resolver)).named("dns_failure").of(&client).in_container(&cgroup);
    assert_eq!(stage.ask("ok.example"), Ok(0));
}
