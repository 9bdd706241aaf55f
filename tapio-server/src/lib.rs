//! The central side of Tapio, with its roles: receives facts, and keeps them in a journal.
#![forbid(unsafe_code)]

pub mod ahti;
pub mod cli;
pub mod config;
pub mod facts;
mod files;
pub mod journal;
pub mod metrics;
pub mod notify;
pub mod polku;
pub mod portti;
pub mod role;
pub mod route;
pub mod server;
mod tls;
