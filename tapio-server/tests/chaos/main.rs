//! The tests of the agents' delivery under chaos, with the real server in place of their gateway: it is killed, stopped
//! and cut off, and so are agents. What was accepted is in its journal, once, that of each run in order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "../../../tapio-delivery/tests/chaos/agent.rs"]
mod agent;
mod arrivals;
#[path = "../../../tapio-delivery/tests/chaos/chaos.rs"]
mod chaos;
#[path = "../../../tapio-delivery/tests/chaos/full.rs"]
mod full;
mod gateway;
#[path = "../../../tapio-delivery/tests/chaos/outage.rs"]
mod outage;
#[path = "../../../tapio-delivery/tests/chaos/proxy.rs"]
mod proxy;
#[path = "../../../tapio-delivery/tests/chaos/role.rs"]
mod role;
