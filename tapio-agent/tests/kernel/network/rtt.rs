//! Round trip times that rise: briefly, permanently, and on connections older than the agent; and rises that
//! are only apparent.

use std::{net::SocketAddr, time::Instant};

use crate::support::{Namespace, Pair, Process, Service, Tapio, needs_a_kernel, process::Connection};

/// Delay of a queued request: longer than a peer may delay an acknowledgement, and short enough that a shift
/// is detected before its first spike would be reported (two seconds).
const QUEUE_MS: u32 = 75;
/// A delay within the time that a peer may delay an acknowledgement.
const SHORT_QUEUE_MS: u32 = 20;
/// Samples that make a baseline, at four per reading, and some more.
const CALM: usize = 100;
/// The first one finds the queue empty. A reading is the least of the last eight samples, and is taken at
/// each fourth: eleven slow samples make one or two slow readings.
const SHORT: usize = 12;
/// More than a shift needs: nine readings if there was some flapping.
const LASTING: usize = 48;

impl Pair {
    /// Sends this many requests through a queue.
    fn slow_request(&mut self, times: usize) {
        self.queue(QUEUE_MS, times);
    }

    /// The same through a queue with another delay.
    fn queue(&mut self, queue_ms: u32, times: usize) {
        self.link.slow(queue_ms);
        self.request(times);
        self.link.clear();
    }
}

#[test]
fn a_short_rise_is_one_spike_of_the_clients_end() {
    needs_a_kernel!();
    let tapio = Tapio::start();
    let mut pair = Pair::connected(4201);
    pair.request(CALM);
    pair.slow_request(SHORT);
    pair.request(CALM);

    let reported = tapio.expect_one(|o| pair.is_client(o)).named("rtt_spike").of(&pair.client);
    assert_eq!(reported.text("direction"), "outbound");
    reported.has("rtt_us", 20_000..200_000);
    assert!(reported.baseline("mean") < 5_000.0);
    assert!(reported.baseline("ratio") > 2.0);
    // The server's data is acknowledged either with the next request, in the queue, or by a separate packet
    // that skips it; the kernel decides. So the server may see many slow samples, few, or none. With many it
    // may detect a level, which adds to the client's spike.
    let ended = tapio.end();
    let at_server: Vec<_> = ended.occurrences.into_iter().filter(|o| pair.is_server(o)).collect();
    assert!(at_server.len() <= 1, "{at_server:?}");
    for reported in at_server {
        assert_eq!(reported.of(&pair.server).kind, "network.rtt_shift");
    }
}

#[test]
fn a_lasting_rise_is_one_shift_of_the_clients_end_with_its_beginning() {
    needs_a_kernel!();
    let tapio = Tapio::start();
    let mut pair = Pair::connected(4202);
    pair.request(CALM);
    let begin = Instant::now();
    pair.slow_request(LASTING);
    let took = begin.elapsed();

    let reported = tapio.expect_one(|o| pair.is_client(o)).named("rtt_shift").of(&pair.client);
    reported.has("rtt_us", 20_000..200_000);
    assert!(reported.baseline("mean") < 5_000.0, "the level before");
    let since = u128::from(reported.number("since_ms"));
    assert!((1..took.as_millis()).contains(&since), "{since} ms of {took:?}");
    tapio.expect_none(|o| pair.is_server(o));
}

/// A peer that takes this long to answer would look the same. So a short rise is not reported, and a level
/// is, with its uncertainty.
#[test]
fn a_rise_that_the_peer_could_be_why_is_reported_as_a_level_only() {
    needs_a_kernel!();
    let tapio = Tapio::start();
    let mut pair = Pair::connected(4208);
    pair.request(CALM);
    pair.queue(SHORT_QUEUE_MS, SHORT);
    pair.request(CALM);
    tapio.expect_none(|o| pair.is_client(o));

    pair.queue(SHORT_QUEUE_MS, LASTING);
    let reported = tapio.expect_one(|o| pair.is_client(o)).named("rtt_shift").of(&pair.client);
    reported.has("rtt_us", 5_000..40_000);
    assert!(reported.number("certain_us") < reported.number("rtt_us"));
}

#[test]
fn a_connection_older_than_the_agent_is_judged_from_its_right_end() {
    needs_a_kernel!();
    let mut pair = Pair::connected(4203);
    pair.request(3);
    let tapio = Tapio::start();
    pair.request(CALM);
    pair.slow_request(LASTING);

    // The agent did not see who opened the connection.
    tapio.expect_one(|o| pair.is_client(o)).named("rtt_shift").of_no_process();
    tapio.expect_none(|o| pair.is_server(o));
}

#[test]
fn a_client_that_pauses_before_its_next_request_is_no_slow_network() {
    needs_a_kernel!();
    let tapio = Tapio::start();
    let mut pair = Pair::connected(4209);
    pair.request(CALM);
    for pause_ms in [5, 12, 30] {
        pair.request_with_pauses(LASTING, pause_ms);
    }
    tapio.expect_none(|o| pair.is_client(o) || pair.is_server(o));
}

/// On loopback every delay comes from the other side: it delays its acknowledgements, or its answers. The
/// floor is below that delay, and above any pause of a busy or emulated machine.
fn on_loopback(service: Service, load: impl FnOnce(&mut Process, Connection)) {
    let namespace = Namespace::new();
    let tapio = Tapio::start_with(&[], "observer: {network: {rtt: {floor: 15ms}}}");
    let to = SocketAddr::from(([127, 0, 0, 1], 4204));
    let mut server = Process::start_in(&namespace, "takes-its-time");
    server.serve(&to.to_string(), service);
    let mut client = Process::start_in(&namespace, "is-patient");
    let connection = client.connect(to).unwrap();
    load(&mut client, connection);

    tapio.expect_none(|o| o.is_to(to) || o.is_from(to.ip(), to.port()));
}

#[test]
fn a_server_that_thinks_before_it_answers_is_no_slow_network() {
    needs_a_kernel!();
    let service = Service { request_bytes: 100, reply_bytes: 100, max_delay_ms: 60 };
    on_loopback(service, |client, connection| client.request(connection, service, 150, 0));
}

#[test]
fn acknowledgements_held_back_for_small_writes_are_no_slow_network() {
    needs_a_kernel!();
    on_loopback(Service::SINK, |client, connection| {
        client.begin_trickle(connection, 60, 50, 100);
        client.end().unwrap();
    });
}

#[test]
fn bulk_is_no_slow_network() {
    needs_a_kernel!();
    on_loopback(Service::SINK, |client, connection| {
        client.begin_trickle(connection, 200, 1 << 20, 1);
        client.end().unwrap();
    });
}

#[test]
fn a_new_connection_does_not_start_over() {
    needs_a_kernel!();
    let tapio = Tapio::start();
    let mut pair = Pair::connected(4205);
    for _ in 0..8 {
        pair.request(24);
        pair.client.close(pair.connection);
        pair.connection = pair.client.connect(pair.to).unwrap();
    }
    pair.request(12);
    pair.slow_request(SHORT);
    pair.request(CALM);

    tapio.expect_one(|o| pair.is_client(o)).named("rtt_spike").of(&pair.client);
}

#[test]
fn each_namespace_has_a_loopback_of_its_own() {
    needs_a_kernel!();
    let service = Service::echo(1400);
    let tapio = Tapio::start();
    let to = SocketAddr::from(([127, 0, 0, 1], 4206));
    // A normal RTT of the second would be abnormal for the first.
    let mut pairs = Vec::new();
    for (delay_ms, comm) in [(0, "is-fast"), (70, "is-slow")] {
        let namespace = Namespace::new();
        if delay_ms > 0 {
            namespace.slow_loopback(delay_ms);
        }
        let mut server = Process::start_in(&namespace, comm);
        server.serve(&to.to_string(), service);
        let mut client = Process::start_in(&namespace, comm);
        let connection = client.connect(to).unwrap();
        client.request(connection, service, if delay_ms == 0 { 200 } else { 60 }, 0);
        pairs.push((client, server, namespace));
    }

    tapio.expect_none(|o| o.is_to(to) || o.is_from(to.ip(), to.port()));
}
