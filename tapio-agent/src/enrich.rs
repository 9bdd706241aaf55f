//! Identity: who an anomaly is about.

pub mod cgroups;
