//! Names from a real API server, with exactly the permissions that are shipped: those of `deploy/tapio.yaml`. And what else
//! is in `deploy`, as that server takes it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod chart;
mod cluster;
mod doctor;
mod manifests;
mod peers;
mod pods;
mod support;
mod trouble;
