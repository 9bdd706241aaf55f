//! The same faults by netem, which delays and drops packets that no queue would.

use crate::support::{Link, Pair, Process, Service, Tapio, needs_a_kernel, skip};

/// As in `rtt`: samples that make a baseline; that make a spike; that make a shift.
const CALM: usize = 100;
const SHORT: usize = 12;
const LASTING: usize = 48;
/// Longer than a peer may delay an acknowledgement.
const SLOW: &str = "delay 100ms";
/// Many segments, and a reply that confirms their arrival.
const UPLOAD: Service = Service { request_bytes: 100_000, reply_bytes: 10, max_delay_ms: 0 };

/// Emulates a network, or ends the test if the kernel cannot.
macro_rules! emulate {
    ($link:expr, $network:expr) => {
        if let Err(why) = $link.emulate($network) {
            skip!("{why}");
        }
    };
}

#[test]
fn a_short_delay_is_one_spike() {
    needs_a_kernel!();
    let tapio = Tapio::start();
    let mut pair = Pair::connected(4801);
    pair.request(CALM);
    emulate!(pair.link, SLOW);
    pair.request(SHORT);
    pair.link.clear();
    pair.request(CALM);

    let reported = tapio.expect_one(|o| pair.is_client(o)).named("rtt_spike").of(&pair.client);
    reported.has("rtt_us", 90_000..250_000);
    assert!(reported.baseline("ratio") > 2.0);
}

#[test]
fn a_lasting_delay_is_one_shift() {
    needs_a_kernel!();
    let tapio = Tapio::start();
    let mut pair = Pair::connected(4802);
    pair.request(CALM);
    emulate!(pair.link, SLOW);
    pair.request(LASTING);

    let reported = tapio.expect_one(|o| pair.is_client(o)).named("rtt_shift").of(&pair.client);
    reported.has("rtt_us", 90_000..250_000);
    tapio.expect_none(|o| pair.is_server(o));
}

#[test]
fn jitter_from_the_start_is_normal() {
    needs_a_kernel!();
    let mut pair = Pair::connected(4803);
    emulate!(pair.link, "delay 20ms 5ms");
    let tapio = Tapio::start();
    pair.request(3 * CALM);

    tapio.expect_none(|o| pair.is_client(o) || pair.is_server(o));
}

#[test]
fn heavy_loss_is_a_burst_of_retransmitted_segments() {
    needs_a_kernel!();
    let link = Link::new();
    link.without_offload();
    let to = link.server_at(4804);
    let tapio = Tapio::start();
    let mut server = Process::start_in(&link.server, "takes-all");
    server.serve(&to.to_string(), UPLOAD);
    let mut client = Process::start_in(&link.client, "sends-again");
    let connection = client.connect(to).unwrap();
    // Clean traffic first.
    client.request(connection, UPLOAD, 30, 1);
    emulate!(link, "loss 20%");
    client.request(connection, UPLOAD, 10, 0);
    link.clear();

    // Its duration is random, and each second has a separate burst.
    let reported = tapio.expect_some(|o| o.is_to(to) && o.kind.ends_with("burst"));
    let reported = reported.named("retransmit_burst").of(&client);
    assert!(reported.number("retransmits") >= 10);
    // In a window of pure recovery, all segments are retransmissions.
    assert!(reported.number("segments") >= reported.number("retransmits"));
}

#[test]
fn total_loss_is_a_timeout() {
    needs_a_kernel!();
    let link = Link::new();
    link.sysctl("net.ipv4.tcp_syn_retries", 1);
    link.sysctl("net.ipv4.tcp_syn_linear_timeouts", 0);
    let to = link.server_at(4805);
    let tapio = Tapio::start();
    let mut client = Process::start_in(&link.client, "waits-in-vain");
    // This connect precedes any loss.
    assert_eq!(client.connect(to).unwrap_err(), "ECONNREFUSED");
    emulate!(link, "loss 100%");
    assert_eq!(client.connect(to).unwrap_err(), "ETIMEDOUT");

    let reported = tapio.expect_one(|o| o.is_to(to) && o.kind.ends_with("timeout"));
    assert_eq!(reported.named("connection_timeout").of(&client).number("syns"), 2);
}
