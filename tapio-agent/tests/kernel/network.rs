//! Connections: how they open and close, round trip times, loss, and owners.

pub(crate) mod connect;
mod edges;
mod loss;
mod netem;
mod owner;
mod quiet;
mod reset;
mod rtt;
mod unresponsive;
