//! Connections: how they begin and end, how long round trips take, what is lost, and whose they are.

pub(crate) mod connect;
mod loss;
mod netem;
mod owner;
mod quiet;
mod reset;
mod rtt;
mod unresponsive;
