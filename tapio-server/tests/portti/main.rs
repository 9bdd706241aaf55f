//! PORTTI, and who may read what, against a real API server, with exactly the permissions that are shipped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod changes;
mod elected;
mod events;
mod page;
mod permissions;
#[path = "../server/support.rs"]
#[allow(dead_code, reason = "a part of it is the other suite's")]
mod process;
mod quiet;
mod resume;
mod rights;
#[path = "../../../tapio-ahti/tests/visible/split.rs"]
mod split;
mod states;
mod support;
