//! `cargo xtask ci`: the checks that a change must pass, from a machine with nothing but Rust.
//!
//! There are two lanes. The first compiles and runs the tests. The second runs long steps that tolerate
//! delay, on CPU time that the first leaves. Guests do not tolerate delay, because the events that their
//! tests wait for would come too late.

mod lane;
mod nightly;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use self::lane::{Lane, Step};
use crate::tally::Tally;
use crate::test::{self, Suites};
use crate::{image, kernel_test, kube, machine, otelcol, setup, toolchain};

/// The steps in order: quick checks come first. Budgets are seconds on 2 CPUs of 2020, from a machine with
/// nothing but Rust: together 36 minutes in the first lane.
const STEPS: &[Step] = &[
    Step {
        name: "set-up",
        lane: Lane::First,
        after: &[],
        budget: 160,
        run: || none(setup::task(&["--ci".into()])),
    },
    Step { name: "format", lane: Lane::First, after: &[], budget: 10, run: || none(format()) },
    Step { name: "servers", lane: Lane::Beside, after: &["set-up"], budget: 1200, run: || none(servers()) },
    Step {
        name: "dependencies",
        lane: Lane::Beside,
        after: &["set-up"],
        budget: 300,
        run: || none(dependencies()),
    },
    Step { name: "lints", lane: Lane::Beside, after: &["build"], budget: 900, run: || none(lints()) },
    Step { name: "kernel lints", lane: Lane::First, after: &[], budget: 40, run: || none(kernel_lints()) },
    Step { name: "build", lane: Lane::First, after: &[], budget: 200, run: || none(test::build().map(drop)) },
    Step {
        name: "tests",
        lane: Lane::First,
        after: &[],
        budget: 960,
        run: || test::run(Suites::AllBut(SERVED), None),
    },
    Step {
        name: "tests with servers",
        lane: Lane::First,
        after: &["servers"],
        budget: 440,
        run: || test::run(Suites::Only(SERVED), None),
    },
    Step {
        name: "guests",
        lane: Lane::First,
        after: &[],
        budget: 210,
        run: || kernel_test::run(&["--quick"]),
    },
    Step { name: "cluster", lane: Lane::First, after: &["servers"], budget: 160, run: cluster },
];

/// Suites that talk to the programs built by the step `servers`.
const SERVED: &[&str] = &["deploy", "kubernetes", "otlp", "portti", "telemetry"];

/// `ci [--nightly] [STEP...]`
pub(crate) fn task(arguments: &[String]) -> Result<()> {
    let (steps, names) = match arguments.split_first() {
        Some((first, names)) if first == "--nightly" => (nightly::STEPS, names),
        _ => (STEPS, arguments),
    };
    let known = || steps.iter().map(|step| step.name);
    if let Some(unknown) = names.iter().find(|name| !known().any(|known| known == **name)) {
        bail!("ci has no step `{unknown}`; its steps are {}", known().collect::<Vec<_>>().join(", "));
    }
    let wanted = |step: &&Step| names.is_empty() || names.iter().any(|name| name == step.name);
    lane::run(&steps.iter().filter(wanted).collect::<Vec<_>>())
}

/// The result of a step that counts no tests.
fn none(result: Result<()>) -> Result<Tally> {
    result.map(|()| Tally::default())
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
    machine::run(cargo.args(["--", "-D", "warnings"]))?;
    // Lint these again on their own: without the agent, their telemetry feature is off.
    let mut cargo = machine::cargo();
    cargo.args(["clippy", "--package", "tapio-delivery", "--package", "tapio-service"]);
    machine::run(cargo.args(["--", "-D", "warnings"]))
}

/// Whether a step is skipped because set-up cannot install this tool.
fn lacks(tool: &str) -> bool {
    let lacks = !machine::cargo_has(tool) && machine::program("rustup").is_none();
    if lacks {
        eprintln!("skipped: there is no `cargo {tool}` here, and no rustup to add it");
    }
    lacks
}

/// The kernel programs need the clippy of their own compiler.
fn kernel_lints() -> Result<()> {
    let toolchain = toolchain::find().map_err(anyhow::Error::msg)?;
    if !toolchain.has_clippy() {
        let route = toolchain.route().name();
        eprintln!("skipped: the {route} route's compiler has no clippy, the kernel programs are not linted");
        return Ok(());
    }
    let mut cargo = toolchain.cargo();
    cargo.args(["clippy", "--profile", toolchain::PROFILE, "--package", "tapio-ebpf", "--lib", "--bins"]);
    cargo.args(["--target", toolchain::TARGET, "--target-dir"]).arg(machine::programs_directory()?);
    machine::run(cargo.args(["--", "-D", "warnings"]).current_dir(machine::workspace()?))
}

/// Builds a Kubernetes and a collector from pinned Go modules.
fn servers() -> Result<()> {
    kube::for_tests()?;
    otelcol::for_tests()
}

/// Deploys on a real cluster, with the agent that the tests ran with.
fn cluster() -> Result<Tally> {
    in_cluster(
        |archive| image::of_tests(image::AGENT, archive),
        || test::run(DEPLOYED, Some("deployed_it_names_faults")),
    )
}

/// The suite with the cluster tests.
const DEPLOYED: Suites = Suites::Only(&["kubernetes"]);

/// Runs tests with the image that `make` writes to an archive.
fn in_cluster(
    make: impl FnOnce(PathBuf) -> Result<()>,
    tests: impl FnOnce() -> Result<Tally>,
) -> Result<Tally> {
    if let Some(reason) = kube::cluster_hindrance() {
        eprintln!("skipped: {reason}");
        return Ok(Tally::default());
    }
    let archive = machine::target_directory()?.join("ci-image.tar");
    make(archive.clone())?;
    kube::in_cluster(&archive, tests)
}

/// Limit for the crates in the agent's tree, including itself and the workspace's.
const AGENT_CRATES: usize = 230;
/// Crates for servers, which the agent must never use.
const SERVERS_CRATES: &[&str] = &["async-nats", "axum", "neo4rs", "tapio-server"];

/// Checks that the agent stays small and contains no server.
fn agent() -> Result<()> {
    let mut cargo = machine::cargo();
    cargo.args([
        "tree",
        "--locked",
        "--package",
        "tapio-agent",
        "--edges=normal",
        "--prefix=none",
        "--no-dedupe",
    ]);
    let tree = machine::output(&mut cargo)?;
    // A name with its version.
    let crates: BTreeSet<_> = tree
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, rest)| (name, rest.split(' ').next()))
        .collect();
    if let Some((name, _)) = crates.iter().find(|(name, _)| SERVERS_CRATES.contains(name)) {
        bail!("the agent depends on {name}, which is for servers: `cargo tree -p tapio-agent -i {name}`");
    }
    if crates.len() > AGENT_CRATES {
        bail!("the agent has {} crates in its tree, more than {AGENT_CRATES}", crates.len());
    }
    println!("the agent has {} crates in its tree, of at most {AGENT_CRATES}", crates.len());
    Ok(())
}

/// Checks licences, bans and sources against deny.toml, then advisories.
fn dependencies() -> Result<()> {
    agent()?;
    let mut deny = cargo_deny()?;
    machine::run(deny.args(["check", "--hide-inclusion-graph", "licenses", "bans", "sources"]))?;
    // A machine that cannot reach the advisory database must still accept a change.
    let fetched = cargo_deny()?.args(["fetch", "db"]).stderr(Stdio::null()).status();
    if !fetched.is_ok_and(|status| status.success()) {
        eprintln!("skipped: the advisory database (github.com/RustSec/advisory-db) cannot be had here");
        return Ok(());
    }
    machine::run(cargo_deny()?.args(["check", "--disable-fetch", "--hide-inclusion-graph", "advisories"]))
}

fn cargo_deny() -> Result<Command> {
    let mut deny = Command::new(setup::cargo_deny()?);
    deny.current_dir(machine::workspace()?).args(["--log-level", "warn"]);
    Ok(deny)
}
