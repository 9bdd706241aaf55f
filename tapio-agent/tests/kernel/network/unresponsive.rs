//! Established connections with a peer that vanished without a FIN or a reset.

use std::{net::SocketAddr, time::Duration};

use crate::support::{Link, Process, Tapio, needs_a_kernel, process::Connection};

/// The interval between retransmissions doubles each time. The fifth comes after six seconds, or later if
/// delayed acknowledgements have raised the kernel's RTT estimate.
const PATIENCE: Duration = Duration::from_secs(40);

/// A connection over a link that has carried data in both directions.
fn connection(
    link: &Link,
    server: &mut Process,
    client: &mut Process,
    port: u16,
) -> (SocketAddr, Connection) {
    let to = link.server_at(port);
    let listener = server.listen(&to.to_string());
    let connection = client.connect(to).unwrap();
    let accepted = server.accept(listener);
    client.send(connection, 500);
    server.receive(accepted, 500);
    server.send(accepted, 300);
    client.receive(connection, 300);
    (to, connection)
}

#[test]
fn a_peer_that_vanished_is_reported_while_the_client_hangs() {
    needs_a_kernel!();
    let link = Link::new();
    let tapio = Tapio::start();
    let mut server = Process::start_in(&link.server, "vanishes");
    let mut client = Process::start_in(&link.client, "hangs");
    let (to, connection) = connection(&link, &mut server, &mut client, 4701);
    let _cut = link.cut();
    client.send(connection, 100);

    tapio.expect_within(PATIENCE, |o| o.is_to(to));
    let reported = tapio.expect_one(|o| o.is_to(to)).named("peer_unresponsive").of(&client);
    assert_eq!(reported.text("direction"), "outbound");
    assert_eq!(reported.text("error"), "", "the kernel still tries");
    assert_eq!((reported.number("bytes_acked"), reported.number("bytes_received")), (500, 300));
    reported.has("retransmits", 3..6);
    reported.has("idle_ms", 1_000..40_000);
}

#[test]
fn a_peer_that_the_kernel_gave_up_is_reported_with_the_error() {
    needs_a_kernel!();
    let link = Link::new();
    // The kernel gives up before the stall would be reported.
    link.sysctl("net.ipv4.tcp_retries2", 2);
    let tapio = Tapio::start();
    let mut server = Process::start_in(&link.server, "vanishes");
    let mut client = Process::start_in(&link.client, "is-given-up");
    let (to, connection) = connection(&link, &mut server, &mut client, 4702);
    let _cut = link.cut();
    client.send(connection, 100);

    tapio.expect_within(PATIENCE, |o| o.is_to(to));
    let reported = tapio.expect_one(|o| o.is_to(to)).named("peer_unresponsive").of(&client);
    assert_eq!(reported.text("error"), "ETIMEDOUT");
    assert_eq!(reported.text("direction"), "outbound");
    assert_eq!(reported.number("bytes_acked"), 500);
}
