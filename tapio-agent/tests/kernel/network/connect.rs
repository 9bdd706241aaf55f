//! Connects that fail: refused, timed out, given up, no route to host.

use std::{net::SocketAddr, time::Duration};

use crate::support::{
    Cgroup, Link, Namespace, Process, Tapio, Version, is_confidential, needs_a_kernel, skip,
};

/// An address and port without a listener: one had it a moment ago.
pub(crate) fn closed_port(host: &str) -> SocketAddr {
    let mut process = Process::start("had-a-port");
    let listener = process.listen(&format!("{host}:0"));
    process.stop_listening(listener);
    format!("{host}:{}", listener.port).parse().unwrap()
}

#[test]
fn a_refused_connect_is_reported_once_with_its_process() {
    needs_a_kernel!();
    for host in ["127.0.0.1", "[::1]"] {
        let to = closed_port(host);
        let tapio = Tapio::start();
        let mut client = Process::start("refused-client");
        assert_eq!(client.connect(to).unwrap_err(), "ECONNREFUSED");

        let reported = tapio.expect_one(|o| o.is_to(to)).named("connection_refused").of(&client);
        assert_eq!(reported.text("error"), "ECONNREFUSED");
        assert_eq!(reported.text("direction"), "outbound");
        assert_eq!(reported.count, 1);
    }
}

#[test]
fn a_connect_of_a_thread_is_its_processs() {
    needs_a_kernel!();
    let to = closed_port("127.0.0.1");
    let tapio = Tapio::start();
    let mut client = Process::start("checkout");
    let threads = ["pool-1-thread-3", "pool-1-thread-4", "tokio-rt-worker"];
    let by = if is_confidential() { 1 } else { threads.len() };
    for thread in &threads[..by] {
        assert_eq!(client.connect_in_thread(thread, to).unwrap_err(), "ECONNREFUSED");
    }
    let reported = tapio.expect_one(|o| o.is_to(to)).named("connection_refused");
    if is_confidential() {
        return assert_eq!(reported.comm(), "pool-1-thread-3");
    }
    reported.of(&client);
}

#[test]
fn an_ipv4_address_in_an_ipv6_socket_is_shown_as_ipv4() {
    needs_a_kernel!();
    let to = closed_port("127.0.0.1");
    let mapped = format!("[::ffff:127.0.0.1]:{}", to.port()).parse().unwrap();
    let tapio = Tapio::start();
    let mut client = Process::start("mapped-client");
    assert_eq!(client.connect(mapped).unwrap_err(), "ECONNREFUSED");

    let reported = tapio.expect_one(|o| o.peer().is_some_and(|peer| peer.port() == to.port()));
    let reported = reported.named("connection_refused").of(&client);
    assert_eq!(reported.peer(), Some(to));
    assert_eq!(reported.text("local_address"), "127.0.0.1");
}

#[test]
fn a_container_is_named() {
    needs_a_kernel!();
    match Cgroup::container(Version::Two) {
        Ok(cgroup) => is_named(&cgroup),
        Err(reason) => skip!("{reason}"),
    }
}

#[test]
fn a_container_is_named_by_its_groups_of_version_1() {
    needs_a_kernel!();
    match Cgroup::container(Version::One) {
        Ok(cgroup) => is_named(&cgroup),
        Err(reason) => skip!("{reason}"),
    }
}

fn is_named(cgroup: &Cgroup) {
    let to = closed_port("127.0.0.1");
    let tapio = Tapio::start();
    let mut client = Process::start("contained");
    client.enter(cgroup);
    assert_eq!(client.connect(to).unwrap_err(), "ECONNREFUSED");

    tapio.expect_one(|o| o.is_to(to)).named("connection_refused").of(&client).in_container(cgroup);
}

#[test]
fn a_black_hole_is_a_timeout_with_its_syns() {
    needs_a_kernel!();
    let link = Link::new();
    link.sysctl("net.ipv4.tcp_syn_retries", 1);
    // Newer kernels send some SYNs a second apart before they back off; older ones lack this setting.
    link.sysctl("net.ipv4.tcp_syn_linear_timeouts", 0);
    let to = link.server_at(4001);
    let tapio = Tapio::start();
    let mut client = Process::start_in(&link.client, "waits-in-vain");
    let _cut = link.cut();
    assert_eq!(client.connect(to).unwrap_err(), "ETIMEDOUT");

    let reported = tapio.expect_one(|o| o.is_to(to)).named("connection_timeout").of(&client);
    assert_eq!(reported.text("error"), "ETIMEDOUT");
    assert_eq!(reported.number("syns"), 2);
    reported.has("elapsed_us", 2_900_000..6_000_000);
}

#[test]
fn giving_up_after_a_syn_was_sent_again_is_a_timeout() {
    needs_a_kernel!();
    let link = Link::new();
    let to = link.server_at(4002);
    let tapio = Tapio::start();
    let mut client = Process::start_in(&link.client, "gives-up");
    let _cut = link.cut();
    assert_eq!(client.connect_within(to, Duration::from_millis(1600)).unwrap_err(), "gave up");

    let reported = tapio.expect_one(|o| o.is_to(to)).named("connection_timeout").of(&client);
    assert_eq!(reported.text("error"), "", "the kernel had no error");
    assert_eq!(reported.number("syns"), 2);
    reported.has("elapsed_us", 1_590_000..4_000_000);
}

#[test]
fn giving_up_before_any_syn_was_sent_again_is_nothing() {
    needs_a_kernel!();
    let link = Link::new();
    let to = link.server_at(4003);
    let tapio = Tapio::start();
    let mut client = Process::start_in(&link.client, "happy-eyeballs");
    let _cut = link.cut();
    assert_eq!(client.connect_within(to, Duration::from_millis(300)).unwrap_err(), "gave up");

    tapio.expect_none(|o| o.is_to(to));
}

#[test]
fn giving_up_early_again_and_again_is_a_timeout() {
    needs_a_kernel!();
    let link = Link::new();
    let to = link.server_at(4010);
    let tapio = Tapio::start();
    let mut server = Process::start_in(&link.server, "answers");
    server.listen(&to.to_string());
    let mut client = Process::start_in(&link.client, "impatient");
    let give_up = |client: &mut Process, times| {
        let _cut = link.cut();
        for _ in 0..times {
            assert_eq!(client.connect_within(to, Duration::from_millis(150)).unwrap_err(), "gave up");
        }
    };
    // A successful connect in between ends the series.
    give_up(&mut client, 2);
    let connection = client.connect(to).unwrap();
    client.close(connection);
    give_up(&mut client, 2);
    tapio.expect_none(|o| o.is_to(to));

    give_up(&mut client, 1);
    let reported = tapio.expect_one(|o| o.is_to(to)).named("connection_timeout").of(&client);
    assert_eq!((reported.number("given_up"), reported.number("syns")), (3, 1));
}

#[test]
fn a_destination_without_a_route_is_unreachable() {
    needs_a_kernel!();
    let link = Link::new();
    let tapio = Tapio::start();
    if tapio.has_logged("tcp_v4_connect: unsupported") {
        skip!("a connect without a route is seen at the end of tcp_v4_connect: no fentry, or lockdown");
    }
    for to in ["203.0.113.9:4011", "[2001:db8::9]:4011", "[::ffff:203.0.113.10]:4011"] {
        let to: SocketAddr = to.parse().unwrap();
        let mut client = Process::start_in(&link.client, "has-no-route");
        // Over IPv6 the error depends on the interface's neighbour table.
        let error = client.connect(to).unwrap_err();
        assert!(["ENETUNREACH", "EHOSTUNREACH"].contains(&&*error), "{error}");

        let shown = SocketAddr::new(to.ip().to_canonical(), to.port());
        let reported = tapio.expect_one(|o| o.is_to(shown)).named("connection_unreachable").of(&client);
        assert_eq!((reported.text("error"), reported.text("direction")), (&*error, "outbound"));
        assert!(!reported.has_data("syns") && !reported.has_data("local_port"), "none was sent");
        assert_eq!(reported.count, 1);
    }
}

#[test]
fn a_connect_for_which_no_local_port_is_left_is_reported_with_its_error() {
    needs_a_kernel!();
    let link = Link::new();
    link.sysctl("net.ipv4.ip_local_port_range", "40000 40001");
    let to = link.server_at(4009);
    let mut server = Process::start_in(&link.server, "has-many");
    server.listen(&to.to_string());
    let tapio = Tapio::start();
    let mut client = Process::start_in(&link.client, "has-too-many");
    let _first = client.connect(to).unwrap();
    let _second = client.connect(to).unwrap();
    assert_eq!(client.connect(to).unwrap_err(), "EADDRNOTAVAIL");

    let reported = tapio.expect_one(|o| o.is_to(to)).named("connection_unreachable").of(&client);
    assert_eq!(reported.text("error"), "EADDRNOTAVAIL");
    reported.has_no("local_port");
}

#[test]
fn a_host_that_is_not_there_is_unreachable() {
    needs_a_kernel!();
    let link = Link::new();
    // Without this, the kernel solicits a neighbour three times, a second apart.
    link.sysctl("net.ipv4.neigh.DEVICE.retrans_time_ms", 100);
    link.sysctl("net.ipv6.neigh.DEVICE.retrans_time_ms", 100);
    for absent in [link.v4(9), link.v6(9)] {
        let to = SocketAddr::new(absent, 4004);
        let tapio = Tapio::start();
        let mut client = Process::start_in(&link.client, "to-nobody");
        assert_eq!(client.connect(to).unwrap_err(), "EHOSTUNREACH");

        let reported = tapio.expect_one(|o| o.is_to(to)).named("connection_unreachable").of(&client);
        assert_eq!(reported.text("error"), "EHOSTUNREACH");
    }
}

#[test]
fn what_is_forbidden_on_the_way_is_unreachable() {
    needs_a_kernel!();
    let link = Link::new();
    // The server is a router that forwards nothing.
    link.server.sysctl("net.ipv4.ip_forward", 1);
    link.server.sysctl("net.ipv6.conf.all.forwarding", 1);
    for (network, host, router, errno, error) in [
        ("203.0.113.0/24", "203.0.113.9", link.v4(2), "EHOSTUNREACH", "EHOSTUNREACH"),
        ("2001:db8:ffff::/48", "2001:db8:ffff::9", link.v6(2), "errno 13", "EACCES"),
    ] {
        link.server.ip(&format!("route add prohibit {network}"));
        link.client.ip(&format!("route add {network} via {router}"));
        let to = SocketAddr::new(host.parse().unwrap(), 4008);
        let tapio = Tapio::start();
        let mut client = Process::start_in(&link.client, "forbidden");
        assert_eq!(client.connect(to).unwrap_err(), errno);

        let reported = tapio.expect_one(|o| o.is_to(to)).named("connection_unreachable").of(&client);
        assert_eq!(reported.text("error"), error);
    }
}

#[test]
fn a_storm_is_one_occurrence_at_once_and_all_of_it_is_counted() {
    needs_a_kernel!();
    const CONNECTS: u64 = 200;
    let namespace = Namespace::new();
    let to = SocketAddr::from(([127, 0, 0, 1], 4005));
    let tapio = Tapio::start();
    let mut client = Process::start_in(&namespace, "storms");
    for _ in 0..CONNECTS {
        assert_eq!(client.connect(to).unwrap_err(), "ECONNREFUSED");
    }
    assert_eq!(tapio.expect_one(|o| o.is_to(to)).named("connection_refused").of(&client).count, 1);

    // A count suppressed in the kernel is carried by the next event of the same key.
    assert_eq!(client.connect(to).unwrap_err(), "ECONNREFUSED");
    let ended = tapio.end();
    let reported = ended.occurrences.iter().filter(|o| o.is_to(to));
    assert_eq!(reported.map(|o| o.count).sum::<u64>(), CONNECTS + 1);
}
