//! Lost and retransmitted segments, and slow handshakes.

use std::{net::SocketAddr, time::Duration};

use crate::support::{Link, Occurrence, Process, Service, Tapio, needs_a_kernel};

/// Many segments, and a reply that confirms their arrival.
const UPLOAD: Service = Service { request_bytes: 100_000, reply_bytes: 10, max_delay_ms: 0 };
/// Handshakes that make a baseline, and some more.
const HANDSHAKES: usize = 30;

#[test]
fn a_burst_of_retransmitted_segments_is_reported_once() {
    needs_a_kernel!();
    let link = Link::new();
    let to = link.server_at(4301);
    let tapio = Tapio::start();
    let mut server = Process::start_in(&link.server, "takes-all");
    server.serve(&to.to_string(), UPLOAD);
    let mut client = Process::start_in(&link.client, "sends-again");
    let connection = client.connect(to).unwrap();
    // Clean traffic first.
    client.request(connection, UPLOAD, 30, 1);
    link.lossy();
    client.request(connection, UPLOAD, 10, 0);
    link.clear();

    let burst = |o: &Occurrence| o.is_to(to) && o.kind.ends_with("burst");
    let reported = tapio.expect_one(burst).of(&client);
    assert!(reported.number("retransmits") >= 10);
    assert!(reported.number("segments") > reported.number("retransmits"));
    assert!(reported.baseline("mean") < 20.0, "of 1024");
}

#[test]
fn a_few_retransmitted_segments_are_no_burst() {
    needs_a_kernel!();
    let link = Link::new();
    let to = link.server_at(4302);
    let tapio = Tapio::start();
    let mut server = Process::start_in(&link.server, "takes-all");
    server.serve(&to.to_string(), Service::SINK);
    let mut client = Process::start_in(&link.client, "sends-again");
    let connection = client.connect(to).unwrap();
    client.begin_trickle(connection, 50, 5_000, 5);
    client.end().unwrap();
    for _ in 0..3 {
        client.begin_trickle(connection, 20, 500, 30);
        let cut = link.cut();
        // Long enough for a segment or two.
        std::thread::sleep(Duration::from_millis(40));
        drop(cut);
        client.end().unwrap();
    }

    tapio.expect_none(|o| o.is_to(to) && o.kind.ends_with("burst"));
}

#[test]
fn a_slow_handshake_is_reported_once_with_what_was_normal() {
    needs_a_kernel!();
    let link = Link::new();
    let to = link.server_at(4303);
    let tapio = Tapio::start();
    let mut server = Process::start_in(&link.server, "listens");
    let _listener = server.serve(&to.to_string(), Service::SINK);
    let mut client = Process::start_in(&link.client, "connects");
    let handshake = |client: &mut Process| {
        let connection = client.connect(to).unwrap();
        client.close(connection);
    };
    (0..HANDSHAKES).for_each(|_| handshake(&mut client));
    // The first SYN is lost; the kernel sends the next one a second later.
    let cut = link.cut();
    client.begin_connect(to);
    std::thread::sleep(Duration::from_millis(300));
    drop(cut);
    client.end_connect().unwrap();
    (0..HANDSHAKES).for_each(|_| handshake(&mut client));

    let reported = tapio.expect_one(|o| o.is_to(to)).named("connect_slow").of(&client);
    reported.has("handshake_us", 1_000_000..3_000_000);
    assert_eq!(reported.number("syns"), 2);
    assert!(reported.baseline("mean") < 10_000.0);
    assert!(reported.baseline("samples") >= 16.0);
}

#[test]
fn a_new_destination_that_is_slow_to_connect_is_no_news() {
    needs_a_kernel!();
    let link = Link::new();
    let to: SocketAddr = link.server_at(4304);
    let tapio = Tapio::start();
    let mut server = Process::start_in(&link.server, "listens");
    server.serve(&to.to_string(), Service::SINK);
    let mut client = Process::start_in(&link.client, "connects");
    let cut = link.cut();
    client.begin_connect(to);
    std::thread::sleep(Duration::from_millis(300));
    drop(cut);
    client.end_connect().unwrap();

    tapio.expect_none(|o| o.is_to(to));
}
