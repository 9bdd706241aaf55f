//! Connections that the peer resets.

use std::net::SocketAddr;

use crate::support::{Namespace, Process, Service, Tapio, needs_a_kernel};

#[test]
fn a_reset_in_mid_transfer_is_reported_at_the_client() {
    needs_a_kernel!();
    let mut server = Process::start("resetting");
    let listener = server.listen("127.0.0.1:0");
    let to = SocketAddr::from(([127, 0, 0, 1], listener.port));
    let tapio = Tapio::start_as_shipped();
    let mut client = Process::start("was-reset");
    let connection = client.connect(to).unwrap();
    let accepted = server.accept(listener);
    client.send(connection, 1000);
    server.receive(accepted, 1000);
    server.send(accepted, 300);
    client.receive(connection, 300);
    server.reset(accepted);
    assert_eq!(client.await_end(connection), "ECONNRESET");

    let reported = tapio.expect_one(|o| o.peer().is_some_and(|peer| peer.port() == to.port()));
    let reported = reported.named("connection_reset").of(&client);
    assert_eq!(reported.peer(), Some(to));
    assert_eq!(reported.text("direction"), "outbound");
    assert_eq!(reported.number("bytes_received"), 300);
    assert_eq!(reported.number("bytes_acked"), 1000, "a SYN is no payload");
    reported.has("idle_ms", 0..1_000);
}

#[test]
fn a_connection_that_was_idle_before_it_was_reset_shows_for_how_long() {
    needs_a_kernel!();
    let mut server = Process::start("forgets");
    let listener = server.listen("127.0.0.1:0");
    let to = SocketAddr::from(([127, 0, 0, 1], listener.port));
    let tapio = Tapio::start_as_shipped();
    let mut client = Process::start("was-idle");
    let connection = client.connect(to).unwrap();
    let accepted = server.accept(listener);
    client.send(connection, 10);
    server.receive(accepted, 10);
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    server.reset(accepted);
    assert_eq!(client.await_end(connection), "ECONNRESET");

    let reported = tapio.expect_one(|o| o.is_to(to)).named("connection_reset").of(&client);
    reported.has("idle_ms", 1_300..4_000);
    assert_eq!((reported.number("bytes_acked"), reported.number("bytes_received")), (10, 0));
}

#[test]
fn a_reset_in_mid_transfer_is_reported_at_the_server() {
    needs_a_kernel!();
    let tapio = Tapio::start_as_shipped();
    let mut server = Process::start("serving");
    let listener = server.listen("[::1]:0");
    let to: SocketAddr = format!("[::1]:{}", listener.port).parse().unwrap();
    let mut client = Process::start("resetting");
    let connection = client.connect(to).unwrap();
    let accepted = server.accept(listener);
    client.send(connection, 700);
    server.receive(accepted, 700);
    client.reset(connection);
    assert_eq!(server.await_end(accepted), "ECONNRESET");

    let reported = tapio.expect_one(|o| o.is_to(to) || o.is_from(to.ip(), to.port()));
    let reported = reported.named("connection_reset").of(&server);
    assert_eq!(reported.peer().unwrap().port(), connection.client_port);
    assert_eq!(reported.text("direction"), "inbound");
    assert_eq!(reported.number("bytes_received"), 700);
}

#[test]
fn a_health_check_that_connects_and_resets_is_normal() {
    needs_a_kernel!();
    let tapio = Tapio::start_as_shipped();
    let namespace = Namespace::new();
    let mut server = Process::start_in(&namespace, "is-healthy");
    let listener = server.listen("127.0.0.1:4101");
    let to = SocketAddr::from(([127, 0, 0, 1], 4101));
    let mut client = Process::start_in(&namespace, "health-check");
    for _ in 0..5 {
        let connection = client.connect(to).unwrap();
        let accepted = server.accept(listener);
        client.reset(connection);
        assert_eq!(server.await_end(accepted), "ECONNRESET");
    }

    tapio.expect_none(|o| o.is_to(to) || o.is_from(to.ip(), to.port()));
}

#[test]
fn a_connection_that_is_closed_in_order_is_normal() {
    needs_a_kernel!();
    let tapio = Tapio::start_as_shipped();
    let mut server = Process::start("in-order");
    let listener = server.serve("127.0.0.1:0", Service::echo(500));
    let to = SocketAddr::from(([127, 0, 0, 1], listener.port));
    let mut client = Process::start("in-order");
    for _ in 0..5 {
        let connection = client.connect(to).unwrap();
        client.request(connection, Service::echo(500), 3, 0);
        client.close(connection);
    }

    tapio.expect_none(|o| o.is_to(to) || o.is_from(to.ip(), to.port()));
}
