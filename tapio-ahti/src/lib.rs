//! The engine of the central side: facts in, incidents with their causes out. It does no I/O and reads no clock.
#![forbid(unsafe_code)]
