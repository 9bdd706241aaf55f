//! The pages, in a real browser: Chromium, driven by chromedriver, with what was recorded on a real cluster.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod access;
#[path = "../../../xtask/src/axe.rs"]
#[allow(dead_code, reason = "a part of it is the task's")]
mod axe;
mod browser;
#[path = "../server/client.rs"]
#[allow(dead_code, reason = "a part of it is the gateway's")]
mod client;
mod facts;
mod hostile;
mod http;
mod keys;
mod live;
mod login;
mod many;
mod pictures;
/// What the client sends where it does not matter.
mod sending {
    pub(crate) use tapio_occurrence::samples::occurrence;
}
mod site;
mod slow;
mod states;
#[path = "../server/support.rs"]
#[allow(dead_code, reason = "each test uses a part")]
mod support;
#[path = "../../../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "where the cache is")]
mod toolchain;
mod without;
