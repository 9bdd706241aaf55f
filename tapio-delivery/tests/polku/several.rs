//! Several gateways: the sink uses the first that answers.

use std::{net::SocketAddr, time::Duration};

use tapio_delivery::State;

use crate::log::Log;
use tonic::Code;
use tracing::Level;

use crate::{
    ANY,
    agent::{Agent, until},
    server::{Manners, Server, Shared},
};

fn agent(addresses: &[SocketAddr]) -> Agent {
    Agent::to(&addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
}

/// Waits until the sink uses this one.
async fn uses(agent: &Agent, address: SocketAddr) {
    let used = Some(address.to_string());
    until(|| agent.status(), |status| status.state == State::Ok && status.endpoint == used).await;
    assert_eq!(serde_json::to_value(agent.status()).unwrap()["endpoint"], address.to_string());
}

/// Each event arrived at one of them at least, and nothing was lost.
fn all_arrived(agent: &Agent, gateways: [&Shared; 2]) {
    let (count, ledger) = (agent.ids.len() as u64, agent.status().ledger);
    assert_eq!((ledger.received, ledger.sent), (count, count), "{ledger:?}");
    let arrived = |id| gateways.iter().any(|gateway| gateway.seen().acknowledged.contains(id));
    assert!(agent.ids.iter().all(arrived), "an id did not arrive");
}

#[tokio::test]
async fn the_first_that_answers_is_used_until_it_is_lost() {
    let (log, _guard) = Log::start(Level::INFO);
    let (at_first, at_second) = (Shared::default(), Shared::default());
    let first = Server::start(ANY, &at_first).kill();
    let running = Server::start(ANY, &at_second);
    let second = running.address;
    let mut agent = agent(&[first, second]);
    uses(&agent, second).await;
    agent.send(700);
    agent.settled().await;
    assert_eq!((at_first.seen().streams, at_second.seen().events.len()), (0, 700));

    // The first gateway is back. The sink stays with the second until it is lost.
    let back = Server::start(first, &at_first);
    agent.send(700);
    agent.settled().await;
    assert_eq!((at_first.seen().streams, at_second.seen().events.len()), (0, 1400));
    at_second.manners().late = Duration::from_millis(50);
    agent.send(700);
    until(|| at_second.seen().events.len(), |events| *events > 1400).await;
    running.kill();
    uses(&agent, first).await;
    agent.settled().await;
    assert!(at_first.seen().streams == 1 && !at_first.seen().events.is_empty());

    // And the other way round.
    agent.send(300);
    back.kill();
    at_second.manners().late = Duration::ZERO;
    let _running = Server::start(second, &at_second);
    uses(&agent, second).await;
    agent.settled().await;
    all_arrived(&agent, [&at_first, &at_second]);
    assert_eq!(log.lines(&["gateway passed over", &first.to_string(), "cannot be reached"]), 2, "{log}");
    assert_eq!(log.lines(&["gateway passed over", &second.to_string()]), 0, "{log}");
}

#[tokio::test]
async fn the_trouble_of_each_is_reported_once() {
    let (log, _guard) = Log::start(Level::INFO);
    let (at_none, at_second) = (Shared::default(), Shared::default());
    let first = Server::start(ANY, &at_none).kill();
    let mut running = Server::start(ANY, &at_second);
    let mut agent = agent(&[first, running.address]);
    for _ in 0..3 {
        uses(&agent, running.address).await;
        agent.send(10);
        agent.settled().await;
        let address = running.kill();
        let both = |state: &State| {
            let state = state.to_string();
            state.contains(&format!("{first} cannot be reached"))
                && state.contains(&format!("{address} cannot"))
        };
        until(|| agent.status().state, both).await;
        assert_eq!(agent.status().endpoint, None);
        running = Server::start(address, &at_second);
    }
    agent.send(10);
    agent.settled().await;
    all_arrived(&agent, [&at_none, &at_second]);
    assert_eq!(log.lines(&["WARN", "gateway passed over"]), 1, "{log}");
}

/// The gateway accepts each stream and ends it without an answer, so the sink moves on to the next gateway.
#[tokio::test]
async fn a_gateway_that_gives_nothing_does_not_hold_up_what_another_takes() {
    let ends_with = Some((usize::MAX, Code::Unavailable));
    let (at_first, at_second) =
        (Shared::with(Manners { ends_with, ..Manners::default() }), Shared::default());
    let (first, second) = (Server::start(ANY, &at_first), Server::start(ANY, &at_second));
    let mut agent = agent(&[first.address, second.address]);
    uses(&agent, first.address).await;
    agent.send(500);
    agent.settled().await;
    uses(&agent, second.address).await;
    all_arrived(&agent, [&at_second, &at_second]);
    assert_eq!(at_first.seen().streams, 1);
}
