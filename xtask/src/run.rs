//! `cargo xtask run`: Tapio on this host, from nothing.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context, Result, bail};

use crate::{machine, setup, toolchain};

/// Variables of builds, tests and benches: the agent refuses what begins as its own do and is none of them.
const NOT_ITS_OWN: [&str; 4] =
    [toolchain::ROUTE_VARIABLE, "TAPIO_CHAOS_SEED", "TAPIO_CHAOS_SECONDS", "TAPIO_SERIES"];

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
    for variable in NOT_ITS_OWN {
        tapio.env_remove(variable);
    }
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
