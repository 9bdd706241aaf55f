//! The API by clients that others made: one that is made from its description, and the official one of MCP, against the real
//! server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod at;
#[path = "../../../tapio-delivery/tests/sinks/certificates.rs"]
#[allow(dead_code, reason = "a part of it is the sinks'")]
mod certificates;
#[path = "../server/client.rs"]
#[allow(dead_code, reason = "a part of it is the gateway's")]
mod client;
mod description;
#[path = "../pages/facts.rs"]
#[allow(dead_code, reason = "a part of it is the pages'")]
mod facts;
mod grpc;
mod mcp;
#[path = "../../../xtask/src/python.rs"]
#[allow(dead_code, reason = "a part of it is the task's")]
mod python;
mod script;
/// What the client sends where it does not matter.
mod sending {
    pub(crate) use tapio_occurrence::samples::occurrence;
}
#[path = "../pages/site.rs"]
#[allow(dead_code, reason = "a part of it is the pages'")]
mod site;
#[path = "../server/support.rs"]
#[allow(dead_code, reason = "each test uses a part")]
mod support;
mod tls;
#[path = "../../../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "where the cache is")]
mod toolchain;
