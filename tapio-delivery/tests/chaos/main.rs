//! Delivery with everything going wrong: what was accepted arrives, at least once and in order, and the accounts
//! balance. Gateway and agent are processes of their own, which are killed for real.
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
