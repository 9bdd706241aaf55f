//! Traffic that must not be reported: healthy traffic, and the agent's own.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use crate::support::{Link, Process, Service, Tapio, needs_a_kernel};

/// Minimum duration of the load: one round, or `QUIET_SECONDS`.
fn duration() -> Duration {
    let seconds = std::env::var("QUIET_SECONDS").map_or(0, |seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds)
}

#[test]
fn healthy_load_makes_no_occurrence() {
    needs_a_kernel!();
    let link = Link::new();
    let tapio = Tapio::start();
    let mut server = Process::start_in(&link.server, "web-server");
    let mut client = Process::start_in(&link.client, "web-client");
    let mut to = Vec::new();
    for port in 4401..4404 {
        to.push(link.server_at(port));
        server.serve(&link.server_at(port).to_string(), Service::echo(700));
    }
    // Short connections and a long one, small messages and a large transfer.
    let long = client.connect(to[0]).unwrap();
    let end = Instant::now() + duration();
    loop {
        for _ in 0..20 {
            let short = client.connect(to[1]).unwrap();
            client.request(short, Service::echo(700), 5, 1);
            client.close(short);
            client.request(long, Service::echo(700), 10, 2);
        }
        let bulk = client.connect(to[2]).unwrap();
        client.request(bulk, Service::echo(700 * 1000), 20, 0);
        client.close(bulk);
        if Instant::now() >= end {
            break;
        }
    }

    tapio.expect_none(|o| {
        to.iter().any(|service| o.is_to(*service) || o.is_from(link.client_ip(), service.port()))
    });
}

#[test]
fn the_agent_does_not_judge_itself() {
    needs_a_kernel!();
    // A gateway that refuses: its port was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway: SocketAddr = free.local_addr().unwrap();
    drop(free);
    let tapio = Tapio::start_with(&[&format!("--polku={gateway}")], "");
    tapio.expect_log("polku", "refused");
    // Another process that does the same is reported, and nothing else is.
    let mut other = Process::start("same-gateway");
    assert_eq!(other.connect(gateway).unwrap_err(), "ECONNREFUSED");

    tapio.expect_one(|o| o.is_to(gateway)).named("connection_refused").of(&other);
}
