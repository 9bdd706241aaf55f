//! What the kernel programs and the agent share: the layout of events, the keys of
//! readings, and the one baseline. `no_std`, no allocation, no unsafe code.
#![no_std]
#![forbid(unsafe_code)]

pub mod baseline;
