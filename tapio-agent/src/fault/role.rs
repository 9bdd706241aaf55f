//! The children of the self-test. A child writes its progress to standard output for its parent, one word and its value
//! per line. The kernel kills it when its parent exits.

use std::{
    ffi::CStr,
    fs::File,
    io::{self, BufRead as _, Write as _},
    os::fd::AsFd as _,
    path::Path,
};

use anyhow::Context as _;
use rustix::{
    process::{Signal, set_parent_process_death_signal},
    thread::{LinkNameSpaceType, move_into_link_name_space, set_name},
};

/// The role of a child in a fault.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    /// Its name, unique among the roles of all observers.
    pub name: &'static str,
    /// Runs it with these arguments.
    pub run: fn(&[String]) -> anyhow::Result<()>,
}

/// The command name of the children, which occurrences about them show.
pub const COMM: &CStr = c"tapio-fault";
/// The directory in which `ip netns` keeps namespaces by name.
pub(super) const NAMESPACES: &str = "/var/run/netns";

impl Role {
    /// Runs it in this process and sends the result to the parent.
    ///
    /// # Errors
    /// The role failed. The parent receives the error, too.
    pub fn start(&self, arguments: &[String]) -> anyhow::Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        set_name(COMM)?;
        let result = (self.run)(arguments);
        match &result {
            Ok(()) => send("done", "")?,
            Err(error) => send("failed", format_args!("{error:#}"))?,
        }
        result
    }
}

/// Sends a word and its value to the parent.
///
/// # Errors
/// The parent is gone.
pub fn send(word: &str, value: impl std::fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{word} {value}")?;
    out.flush()
}

/// Sends this word and waits until the parent resumes this process.
///
/// # Errors
/// The parent is gone.
pub fn send_and_wait(word: &str) -> io::Result<()> {
    send(word, "")?;
    io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

/// Enters a network namespace by name.
///
/// # Errors
/// It does not exist, or this process lacks CAP_SYS_ADMIN.
pub fn enter(namespace: &str) -> anyhow::Result<()> {
    let file =
        File::open(Path::new(NAMESPACES).join(namespace)).context("the network namespace does not exist")?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .context("cannot enter the network namespace")
}
