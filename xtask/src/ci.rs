//! `cargo xtask ci`: what a change must pass, from a machine with nothing but Rust.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Result, bail};

use crate::{image, kernel_test, kube, machine, otelcol, setup, test, toolchain};

type Step = (&'static str, fn() -> Result<()>);

/// In this order: what is quick to say no comes first.
const STEPS: &[Step] = &[
    ("set-up", || setup::task(&["--ci".into()])),
    ("format", format),
    ("lints", lints),
    ("kernel lints", kernel_lints),
    ("dependencies", dependencies),
    ("advisories", advisories),
    ("kubernetes", kube::for_tests),
    ("collector", otelcol::for_tests),
    ("tests", || test::task(&[])),
    ("kernels", || kernel_test::task(&["--quick".into()])),
    ("cluster", cluster),
];

/// `ci [STEP...]`
pub(crate) fn task(arguments: &[String]) -> Result<()> {
    let names = || STEPS.iter().map(|(name, _)| *name);
    if let Some(unknown) = arguments.iter().find(|argument| !names().any(|name| name == **argument)) {
        bail!("ci has no step `{unknown}`; its steps are {}", names().collect::<Vec<_>>().join(", "));
    }
    let start = Instant::now();
    let mut times = Vec::new();
    let wanted = |name| arguments.is_empty() || arguments.iter().any(|argument| argument == name);
    for (name, step) in STEPS.iter().filter(|(name, _)| wanted(*name)) {
        eprintln!("\n=== {name}");
        let step_start = Instant::now();
        step().map_err(|error| error.context(format!("{name} failed")))?;
        times.push(format!("{name} {} s", step_start.elapsed().as_secs()));
    }
    eprintln!("\nci passed in {} s: {}", start.elapsed().as_secs(), times.join(", "));
    Ok(())
}

fn format() -> Result<()> {
    if lacks("fmt") {
        return Ok(());
    }
    machine::run(machine::cargo().args(["fmt", "--all", "--check"]))
}

fn lints() -> Result<()> {
    if lacks("clippy") {
        return Ok(());
    }
    let mut cargo = machine::cargo();
    cargo.args(["clippy", "--workspace", "--exclude", "tapio-ebpf", "--all-targets"]);
    machine::run(cargo.args(["--", "-D", "warnings"]))
}

/// Whether a step is skipped for want of a tool that set-up has no way to.
fn lacks(tool: &str) -> bool {
    let lacks = !machine::cargo_has(tool) && machine::program("rustup").is_none();
    if lacks {
        eprintln!("skipped: there is no `cargo {tool}` here, and no rustup to add it");
    }
    lacks
}

/// The kernel programs need their own compiler's clippy.
fn kernel_lints() -> Result<()> {
    let toolchain = toolchain::find().map_err(anyhow::Error::msg)?;
    if !toolchain.has_clippy() {
        let route = toolchain.route().name();
        eprintln!("skipped: the {route} route's compiler has no clippy, the kernel programs are not linted");
        return Ok(());
    }
    let mut cargo = toolchain.cargo();
    cargo.args(["clippy", "--release", "--package", "tapio-ebpf", "--lib", "--bins"]);
    cargo.args(["--target", toolchain::TARGET, "--target-dir"]).arg(machine::target_directory()?.join("bpf"));
    machine::run(cargo.args(["--", "-D", "warnings"]).current_dir(machine::workspace()?))
}

/// What is shipped, on a real cluster, with the image as it is made here.
fn cluster() -> Result<()> {
    if let Some(reason) = kube::cluster_hindrance() {
        eprintln!("skipped: {reason}");
        return Ok(());
    }
    let archive = machine::target_directory()?.join("ci-image.tar");
    image::task(&[format!("--output={}", archive.display())])?;
    kube::in_cluster(&archive, || test::task(&["deployed_it_names_faults".into()]))
}

/// Licences, bans and sources, as deny.toml has them.
fn dependencies() -> Result<()> {
    let mut deny = cargo_deny()?;
    machine::run(deny.args(["check", "--hide-inclusion-graph", "licenses", "bans", "sources"]))
}

/// A machine that cannot reach the advisory database is no reason to refuse a change.
fn advisories() -> Result<()> {
    let fetched = cargo_deny()?.args(["fetch", "db"]).stderr(Stdio::null()).status();
    if !fetched.is_ok_and(|status| status.success()) {
        eprintln!("skipped: the advisory database (github.com/RustSec/advisory-db) cannot be had here");
        return Ok(());
    }
    machine::run(cargo_deny()?.args(["check", "--disable-fetch", "--hide-inclusion-graph", "advisories"]))
}

fn cargo_deny() -> Result<Command> {
    let mut deny = Command::new(setup::cargo_deny_program()?);
    deny.current_dir(machine::workspace()?).args(["--log-level", "warn"]);
    Ok(deny)
}
