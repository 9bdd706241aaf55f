//! `cargo xtask ci`: what a change must pass, from a machine with nothing but Rust.
//!
//! Two lanes: what compiles for the tests and runs them, and beside it, on CPU time that the first leaves, what takes
//! long and minds no delay. Guests do mind: what a test there waits for would not come in time.

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

/// In this order: what is quick to say no comes first. Budgets are seconds on 2 CPUs of 2020, from a machine with nothing
/// but Rust: together 35 minutes in the first lane.
const STEPS: &[Step] = &[
    Step {
        name: "set-up",
        lane: Lane::First,
        after: &[],
        budget: 100,
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
    Step { name: "kernel lints", lane: Lane::First, after: &[], budget: 60, run: || none(kernel_lints()) },
    Step { name: "build", lane: Lane::First, after: &[], budget: 260, run: || none(test::build().map(drop)) },
    Step { name: "lints", lane: Lane::First, after: &[], budget: 170, run: || none(lints()) },
    Step {
        name: "tests",
        lane: Lane::First,
        after: &[],
        budget: 830,
        run: || test::run(Suites::AllBut(SERVED), None),
    },
    Step {
        name: "tests with servers",
        lane: Lane::First,
        after: &["servers"],
        budget: 270,
        run: || test::run(Suites::Only(SERVED), None),
    },
    Step {
        name: "guests",
        lane: Lane::First,
        after: &[],
        budget: 250,
        run: || kernel_test::run(&["--quick"]),
    },
    Step { name: "cluster", lane: Lane::First, after: &["servers"], budget: 150, run: cluster },
];

/// Suites that talk to what the step `servers` builds.
const SERVED: &[&str] = &["kubernetes", "otlp", "telemetry"];

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

/// Of a step that counts no tests.
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
    // What is left of these where telemetry is not wanted.
    let mut cargo = machine::cargo();
    cargo.args(["clippy", "--package", "tapio-delivery", "--package", "tapio-service"]);
    machine::run(cargo.args(["--", "-D", "warnings"]))
}

/// Whether a step is skipped for lack of a tool that set-up has no way to.
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
    cargo.args(["clippy", "--profile", toolchain::PROFILE, "--package", "tapio-ebpf", "--lib", "--bins"]);
    cargo.args(["--target", toolchain::TARGET, "--target-dir"]).arg(machine::programs_directory()?);
    machine::run(cargo.args(["--", "-D", "warnings"]).current_dir(machine::workspace()?))
}

/// A Kubernetes and a collector, from pinned Go modules.
fn servers() -> Result<()> {
    kube::for_tests()?;
    otelcol::for_tests()
}

/// What is deployed, on a real cluster, with the agent that the tests ran with.
fn cluster() -> Result<Tally> {
    in_cluster(image::of_tests, || test::run(DEPLOYED, Some("deployed_it_names_faults")))
}

/// The suite whose tests take a cluster.
const DEPLOYED: Suites = Suites::Only(&["kubernetes"]);

/// Tests with the image that `make` writes into an archive.
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

/// Crates in the agent's tree, its own and the workspace's included.
const AGENT_CRATES: usize = 230;
/// Those that are a server's and never the agent's.
const SERVERS_CRATES: &[&str] = &["async-nats", "axum", "neo4rs", "tapio-server"];

/// The agent stays small, and has nothing of a server in it.
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

/// Licences, bans and sources, as deny.toml has them; then advisories.
fn dependencies() -> Result<()> {
    agent()?;
    let mut deny = cargo_deny()?;
    machine::run(deny.args(["check", "--hide-inclusion-graph", "licenses", "bans", "sources"]))?;
    // A machine that cannot reach the advisory database is no reason to refuse a change.
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
