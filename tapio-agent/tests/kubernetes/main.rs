//! Names from a real API server, with exactly the shipped permissions: those of `deploy/tapio.yaml`. Also
//! checks the rest of `deploy` against that server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod chart;
mod cluster;
mod doctor;
mod manifests;
mod peers;
mod pods;
mod scheduler;
mod support;
mod trouble;
