//! Programs that run on any Linux of an architecture: linked statically with Rust's own musl and linker. They
//! need no C library of the target, and the tests run the same build as users.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::arch::Arch;
use crate::{machine, setup};

/// The profile of `Cargo.toml` for one build shared by the tests on the host, in guests and on a cluster, and
/// by `run`.
pub(crate) const QUICK: &str = "quick";

/// Cargo's subcommand `task` with this profile, for any Linux of an architecture.
pub(crate) fn cargo(arch: Arch, task: &str, profile: &str) -> Result<Command> {
    setup::portable(arch)?;
    let target = arch.target();
    let mut cargo = machine::cargo();
    cargo.args([task, "--locked", "--profile", profile, "--target", &target]);
    cargo.args(["--config", &format!("target.{target}.linker='rust-lld'")]);
    // One dependency contains C code, which needs no C library.
    let variable = target.replace('-', "_");
    for (tool, program) in [("CC", "gcc"), ("AR", "ar")] {
        cargo.env(format!("{tool}_{variable}"), format!("{}{program}", arch.tools()));
    }
    Ok(cargo)
}

/// The path of the agent built for that architecture with that profile.
pub(crate) fn agent(arch: Arch, profile: &str) -> Result<PathBuf> {
    binary(arch, profile, "tapio")
}

/// The path of a program built for that architecture with that profile.
pub(crate) fn binary(arch: Arch, profile: &str, name: &str) -> Result<PathBuf> {
    Ok(machine::target_directory()?.join(arch.target()).join(profile).join(name))
}
