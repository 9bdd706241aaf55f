//! Delivery with every fault at once: all accepted occurrences arrive, at least once and those of a run in order, and the
//! counters balance. Gateway and agent are separate processes, which the tests really kill.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod agent;
mod arrivals;
mod chaos;
mod full;
mod gateway;
mod outage;
mod proxy;
mod role;
mod spool;
