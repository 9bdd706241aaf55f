//! The central side of Tapio, with its roles.
#![forbid(unsafe_code)]
