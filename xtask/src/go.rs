//! Programs from Go modules that are pinned in a directory of `xtask`.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::machine;

/// Whether this machine has Go.
pub(crate) fn is_there() -> bool {
    machine::program("go").is_some()
}

/// The message for a program that is missing and cannot be built.
pub(crate) fn missing_for(program: &Path) -> String {
    format!(
        "{} is not there and there is no Go to build it: install Go 1.26 (https://go.dev/dl)",
        program.display()
    )
}

/// `go` in `xtask/<pins>`, the directory with `go.mod` and `go.sum`.
pub(crate) fn command(pins: &Path) -> Result<Command> {
    let mut go = Command::new("go");
    go.current_dir(machine::workspace()?.join("xtask").join(pins));
    Ok(go)
}

/// Builds a package; `variable` is `NAME=VALUE` for the linker.
pub(crate) fn build(pins: &Path, package: &str, variable: Option<&str>, to: &Path) -> Result<()> {
    let flags = variable.map_or_else(String::new, |variable| format!(" -X {variable}"));
    let flags = format!("-ldflags=-s -w{flags}");
    let mut go = command(pins)?;
    go.args(["build", "-p", "2", "-trimpath", "-buildvcs=false", &flags, "-o"]);
    machine::run(go.arg(to).arg(package).env("CGO_ENABLED", "0"))
}
