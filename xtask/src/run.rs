//! `cargo xtask run`: builds and runs Tapio on this host, without preparation.

use std::os::unix::process::CommandExt as _;
use std::thread;

use anyhow::{Context, Result, bail};

use crate::portable::QUICK;
use crate::progress::Progress;
use crate::toolchain::{self, Route};
use crate::{machine, setup};

/// Variables of builds, tests and benches. The agent refuses unknown variables with its own prefix.
const NOT_ITS_OWN: [&str; 4] =
    [toolchain::ROUTE_VARIABLE, "TAPIO_CHAOS_SEED", "TAPIO_CHAOS_SECONDS", "TAPIO_SERIES"];

/// `run [-- ARGUMENTS]`
pub(crate) fn task(arguments: &[String]) -> Result<()> {
    let arguments = match arguments.split_first() {
        None => &[],
        Some((first, rest)) if first == "--" => rest,
        Some((first, _)) => bail!("put Tapio's own arguments after `--`: cargo xtask run -- {first}"),
    };
    let progress = Progress::new("run");
    let program = machine::target_directory()?.join(QUICK).join("tapio");
    let mut tapio = machine::as_root(&program)?;
    build(&progress, !program.is_file())?;
    for variable in NOT_ITS_OWN {
        tapio.env_remove(variable);
    }
    if readable(arguments) {
        tapio.arg("--output=pretty");
    }
    // Replace this process, so that a signal reaches the agent directly.
    Err(tapio.args(arguments).exec()).context("cannot run tapio")
}

/// Builds it. The libraries do not depend on the compiler of the kernel programs: while it is missing, cargo
/// builds as much as it can.
fn build(progress: &Progress, is_first: bool) -> Result<()> {
    let cargo = || {
        let mut cargo = machine::cargo();
        cargo.args(["build", "--profile", QUICK, "--package", "tapio-agent", "--bin", "tapio"]);
        cargo
    };
    if is_first {
        progress.say("building Tapio: 3 to 6 minutes on 2 CPUs the first time, seconds from then on");
    }
    thread::scope(|scope| {
        if toolchain::find().is_err() {
            // A failure here repeats below, and is reported there.
            scope.spawn(|| progress.run("libraries", cargo().arg("--keep-going")).ok());
        }
        setup::compilers(&Route::ALL, progress)?;
        let toolchain = toolchain::find().map_err(anyhow::Error::msg)?;
        let programs = machine::programs_directory()?;
        progress.run("kernel programs", &mut toolchain.build(&machine::workspace()?, &programs))
    })?;
    progress.run("Tapio", &mut cargo())
}

/// Whether to request readable output: not with a subcommand, nor if the arguments choose a format.
fn readable(arguments: &[String]) -> bool {
    arguments.first().is_none_or(|first| first.starts_with('-'))
        && !arguments.iter().any(|argument| argument.starts_with("--output") || argument == "--help")
}
