//! Common parts of Tapio's long-running programs: settings, log, admin endpoints, metrics, back-off, clocks.
#![forbid(unsafe_code)]

pub mod admin;
pub mod backoff;
pub mod clock;
pub mod config;
pub mod crash;
pub mod log;
pub mod metrics;
pub mod private;
pub mod setting;
pub mod span;
