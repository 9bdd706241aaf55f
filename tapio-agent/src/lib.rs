//! Tapio's agent: loads the kernel programs, judges what they let through, names it and delivers it.
#![forbid(unsafe_code)]

pub mod clock;
pub mod detection;
pub mod kernel;
pub mod metrics;
pub mod observer;
pub mod occurrence;
pub mod pipeline;
pub mod replay;
pub mod sink;

include!(concat!(env!("OUT_DIR"), "/objects.rs"));
