//! The engine of the central side: facts in, incidents with their causes out.
//!
//! It does no I/O and reads no clock: time comes with the facts, and the same facts give the same answer.
#![forbid(unsafe_code)]

pub mod about;
pub mod answer;
pub mod attention;
pub mod blast;
pub mod calibration;
pub mod changes;
pub mod correlate;
mod coverage;
mod engine;
mod explain;
mod fact;
mod finding;
mod findings;
mod graph;
pub mod incident;
mod incidents;
mod lags;
mod links;
mod rule;
pub mod schema;
mod story;
mod usual;
mod verdicts;
pub mod visible;

pub use engine::{Engine, Ledger, Limits, Stock};
pub use explain::Without;
pub use fact::Refused;
pub use rule::{Error, Rules};

#[cfg(test)]
mod tests;
