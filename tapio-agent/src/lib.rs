//! Tapio's agent: loads the kernel programs, judges the events that they emit, names them and delivers them.
#![forbid(unsafe_code)]

pub mod agent;
pub mod cgroupfs;
pub mod cli;
pub mod config;
pub mod detection;
pub mod doctor;
pub mod enrich;
pub mod fault;
pub mod filesystems;
pub mod kernel;
pub mod metrics;
mod namespaces;
pub mod observer;
pub mod pipeline;
pub mod privileges;
pub mod replay;
pub mod scrape;
pub mod selftest;
mod slices;
pub mod snapshot;
pub mod source;

include!(concat!(env!("OUT_DIR"), "/objects.rs"));
