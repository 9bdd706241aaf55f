//! The central side of Tapio, with its roles.
#![forbid(unsafe_code)]

pub mod facts;
pub mod portti;
