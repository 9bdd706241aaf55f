//! The children of the self-test. A child tells its parent on standard output, one word and its value a line, and ends when
//! its parent ends.

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

/// The part that a child plays.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    /// Its name, which no other has.
    pub name: &'static str,
    /// Plays it, with these arguments.
    pub run: fn(&[String]) -> anyhow::Result<()>,
}

/// The command name of the children: agents that run on this host report it.
pub const COMM: &CStr = c"tapio-fault";
/// Where `ip netns` keeps the names.
pub(super) const NAMESPACES: &str = "/var/run/netns";

impl Act {
    /// Plays it in this process.
    ///
    /// # Errors
    /// It cannot be played here; the parent is told, too.
    pub fn play(&self, arguments: &[String]) -> anyhow::Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        set_name(COMM)?;
        let played = (self.run)(arguments);
        match &played {
            Ok(()) => tell("done", "")?,
            Err(error) => tell("failed", format_args!("{error:#}"))?,
        }
        played
    }
}

/// Tells the parent.
///
/// # Errors
/// It is gone.
pub fn tell(word: &str, value: impl std::fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{word} {value}")?;
    out.flush()
}

/// Says this word, and waits to be told to go on.
///
/// # Errors
/// The parent is gone.
pub fn wait_after(word: &str) -> io::Result<()> {
    tell(word, "")?;
    io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

/// Goes into a network namespace by its name.
///
/// # Errors
/// There is none, or no right.
pub fn enter(namespace: &str) -> anyhow::Result<()> {
    let file = File::open(Path::new(NAMESPACES).join(namespace)).context("the namespace is not there")?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .context("no way into the namespace")
}
