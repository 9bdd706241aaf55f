//! The real server, as a process, with real clients: the agent's sink, and clients that misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod alerts;
mod answers;
mod attention;
#[path = "../../../tapio-delivery/tests/sinks/certificates.rs"]
#[allow(dead_code, reason = "each test uses a part")]
mod certificates;
mod cli;
mod client;
#[path = "../../../tapio-delivery/tests/otlp/collector.rs"]
#[allow(dead_code, reason = "each test uses a part")]
mod collector;
mod dashboard;
mod delivery;
mod disk;
mod hostile;
mod incoming;
mod kills;
mod many;
mod notify;
#[path = "../../../xtask/src/kube/program.rs"]
#[allow(dead_code, reason = "a part of it is the task's")]
mod program;
#[path = "../../../tapio-agent/tests/prometheus/queries.rs"]
mod queries;
mod receiver;
mod routes;
#[path = "../../../tapio-delivery/tests/polku/agent.rs"]
#[allow(dead_code, reason = "each test uses a part")]
mod sending;
#[path = "../../../tapio-delivery/tests/sinks/agent.rs"]
mod sinks;
mod support;
#[path = "../../../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "where the cache is")]
mod toolchain;
