//! Tapio's agent: loads the kernel programs, judges what they let through, names it and delivers it.
#![forbid(unsafe_code)]

pub mod admin;
pub mod cli;
pub mod config;
pub mod enrich;
pub mod metrics;
pub mod observer;
pub mod occurrence;
pub mod setting;
pub mod sink;
