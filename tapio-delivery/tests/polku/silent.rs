//! A gateway that goes silent without closing its connection.

use std::time::Duration;

use tapio_delivery::{
    State,
    polku::{Polku, Timings},
};

use crate::{
    ANY,
    agent::{Agent, settings, until},
    all_sent,
    server::{Server, Shared},
};

#[tokio::test]
async fn pings_tell_that_nobody_is_there_any_more() {
    let shared = Shared::default();
    let server = Server::start(ANY, &shared);
    let address = server.address;
    let timings = Timings { keep_alive: Duration::from_millis(500), ..Timings::default() };
    let polku = Polku::new(&settings(&[("endpoint", &address.to_string())]), None, timings);
    let mut agent = Agent::with(polku.unwrap().unwrap());
    agent.send(3);
    let ledger = agent.settled().await;
    all_sent(&agent, &shared, &ledger);
    server.fall_silent();
    let lost = |state: &State| state.to_string().contains("the connection broke");
    let state = until(|| agent.status().state, lost).await.to_string();
    assert!(state.contains("keep-alive timed out"), "{state}");
}
