//! PORTTI against a real API server, with exactly the permissions that it is shipped with.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod changes;
mod page;
mod permissions;
mod quiet;
mod resume;
mod states;
mod support;
