//! Names from a real API server, with exactly the permissions that are shipped: `deploy/base/clusterrole.yaml`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod peers;
mod pods;
mod support;
mod trouble;
