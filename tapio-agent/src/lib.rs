//! Tapio's agent: loads the kernel programs, judges what they let through, names it and delivers it.
#![forbid(unsafe_code)]

pub mod admin;
pub mod agent;
mod backoff;
pub mod cgroupfs;
pub mod cli;
pub mod clock;
pub mod config;
mod crash;
pub mod detection;
pub mod doctor;
pub mod enrich;
pub mod kernel;
pub mod learned;
pub mod log;
pub mod metrics;
pub mod observer;
pub mod occurrence;
pub mod pipeline;
pub mod printable;
mod private;
pub mod privileges;
pub mod replay;
pub mod selftest;
pub mod setting;
pub mod sink;
mod span;
pub mod telemetry;

include!(concat!(env!("OUT_DIR"), "/objects.rs"));
