//! The agent on this machine's own kernel: real programs, real faults, and what it says about them.
//!
//! Each test names a fault and asserts the one occurrence that it makes: what, where to, and whose. They need
//! root, and run one after another (`--test-threads=1`); one that cannot run here prints
//! `SKIP <test>: <reason>`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod connect;
mod container;
mod counts;
mod cycles;
mod hooks;
mod learned;
mod lockdown;
mod loss;
mod netem;
mod node;
mod owner;
mod quiet;
mod reset;
mod rights;
mod rtt;
mod sink;
mod support;
