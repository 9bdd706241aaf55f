//! Programs that run on any Linux of an architecture: linked statically with the musl and the linker that Rust brings
//! along. No C library of the target is needed, and what is tested is what is shipped.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::arch::Arch;
use crate::{machine, setup};

/// A profile of `Cargo.toml`: one build for the tests on the host, in guests and on a cluster, and what `run` runs.
pub(crate) const QUICK: &str = "quick";

/// Cargo's subcommand `task` with this profile, for any Linux of an architecture.
pub(crate) fn cargo(arch: Arch, task: &str, profile: &str) -> Result<Command> {
    setup::portable(arch)?;
    let target = arch.target();
    let mut cargo = machine::cargo();
    cargo.args([task, "--locked", "--profile", profile, "--target", &target]);
    cargo.args(["--config", &format!("target.{target}.linker='rust-lld'")]);
    // Some C, which needs nothing of a C library, is in a dependency.
    let variable = target.replace('-', "_");
    for (tool, program) in [("CC", "gcc"), ("AR", "ar")] {
        cargo.env(format!("{tool}_{variable}"), format!("{}{program}", arch.tools()));
    }
    Ok(cargo)
}

/// Where a build for that architecture with that profile puts the agent.
pub(crate) fn agent(arch: Arch, profile: &str) -> Result<PathBuf> {
    Ok(machine::target_directory()?.join(arch.target()).join(profile).join("tapio"))
}
