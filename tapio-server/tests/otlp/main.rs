//! The receiver for OpenTelemetry, over real sockets: requests of clients and of agents, and those that it refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "../../../tapio-delivery/tests/otlp/agent.rs"]
#[allow(dead_code, reason = "each test uses a part")]
mod agent;
#[path = "../../../tapio-delivery/tests/sinks/certificates.rs"]
#[allow(dead_code, reason = "each test uses a part")]
mod certificates;
#[path = "../../../tapio-delivery/tests/otlp/collector.rs"]
#[allow(dead_code, reason = "each test uses a part")]
mod collector;
mod facts;
#[path = "../../../xtask/src/kube/program.rs"]
#[allow(dead_code, reason = "a part of it is the task's")]
mod program;
mod refusals;
mod sender;
mod signals;
#[path = "../../../tapio-delivery/tests/sinks/agent.rs"]
#[allow(dead_code, reason = "each test uses a part")]
mod sinks;
#[path = "../server/support.rs"]
#[allow(dead_code, reason = "each test uses a part")]
mod support;
#[path = "../../../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "where the cache is")]
mod toolchain;
