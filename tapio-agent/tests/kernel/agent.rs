//! What holds for all observers: programs that load, counts, rights, what outlives the agent, where its words go.

mod attach;
mod counts;
mod heartbeat;
mod hooks;
mod lockdown;
mod maps;
mod rights;
mod sink;
mod snapshot;
