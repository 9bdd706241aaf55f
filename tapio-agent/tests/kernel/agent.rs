//! Tests of all observers: programs load, counters add up, privileges, state that outlives the agent, and
//! output.

mod attach;
mod counts;
mod heartbeat;
mod hooks;
mod lockdown;
mod maps;
mod rights;
mod sink;
mod snapshot;
