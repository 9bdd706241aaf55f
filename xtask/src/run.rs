//! `cargo xtask run`: Tapio on this host, from nothing.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context, Result, bail};

use crate::{machine, setup};

/// `run [-- ARGUMENTS]`
pub(crate) fn task(arguments: &[String]) -> Result<()> {
    let arguments = match arguments.split_first() {
        None => &[],
        Some((first, rest)) if first == "--" => rest,
        Some((first, _)) => bail!("put Tapio's own arguments after `--`: cargo xtask run -- {first}"),
    };
    setup::task(&[])?;
    machine::run(machine::cargo().args(["build", "--release", "--package", "tapio-agent"]))?;

    let mut tapio = machine::as_root(machine::target_directory()?.join("release/tapio"))?;
    if readable(arguments) {
        tapio.arg("--output=pretty");
    }
    // In this process's place, so that a signal reaches it directly.
    Err(tapio.args(arguments).exec()).context("cannot run tapio")
}

/// Whether to ask for readable output: not with a subcommand, nor where the arguments choose a form.
fn readable(arguments: &[String]) -> bool {
    arguments.first().is_none_or(|first| first.starts_with('-'))
        && !arguments.iter().any(|argument| argument.starts_with("--output") || argument == "--help")
}
