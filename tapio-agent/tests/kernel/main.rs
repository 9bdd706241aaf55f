//! The agent on this machine's own kernel: real programs, real faults, and what it says about them.
//!
//! One module an observer, and one for what holds for all of them. Each test names a fault and asserts the one occurrence that it makes: what, where to, and whose. They need
//! root, and run one after another (`--test-threads=1`); one that cannot run here prints
//! `SKIP <test>: <reason>`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod agent;
mod container;
mod network;
mod node;
mod support;
