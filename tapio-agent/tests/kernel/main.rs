//! The agent on this machine's own kernel: real programs, real faults, and the reports about them.
//!
//! There is one module per observer, and one for properties of all observers. Each test causes a fault and
//! asserts the one occurrence it makes: type, destination and owner. The tests need root and run one after
//! another (`--test-threads=1`); a test that cannot run here prints `SKIP <test>: <reason>`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod agent;
mod container;
mod cpu;
mod dns;
mod health;
mod link;
mod network;
mod node;
mod storage;
mod support;
