//! `cargo xtask bench`: measures what Tapio costs and detects, and prints one `name value unit` per line on
//! stdout.
//!
//! Each file in a crate's `benches` is a bench. A bench with a name that begins with `kernel` loads kernel
//! programs and runs as root, the others run as the user. All other output of a bench goes to stderr.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::executable::{self, Executable};
use crate::{machine, setup};

/// The bench that has arguments of its own, and needs data that is not in the repository: only if it is named.
const WITH_ARGUMENTS: &str = "rca";

/// `bench [NAME...]`, `bench rca [ARGUMENT...]`
pub(crate) fn task(arguments: &[String]) -> Result<()> {
    let is_rca = arguments.first().is_some_and(|name| name == WITH_ARGUMENTS);
    let (names, arguments) = arguments.split_at(if is_rca { 1 } else { arguments.len() });
    setup::task(&[])?;
    let mut cargo = machine::cargo();
    cargo.args(["bench", "--workspace", "--exclude", "tapio-ebpf"]);
    if names.is_empty() {
        cargo.arg("--benches");
    }
    cargo.args(names.iter().flat_map(|name| ["--bench", name]));
    let mut benches = executable::build(cargo)?;
    benches.retain(|bench| bench.kind == "bench" && (bench.target == WITH_ARGUMENTS) == is_rca);
    if benches.is_empty() {
        bail!("there are no such benches");
    }
    let mut failed = Vec::new();
    for bench in &benches {
        eprintln!("\n== {}", bench.target);
        if let Err(error) = run_bench(bench, arguments) {
            eprintln!("{}: {error:#}", bench.target);
            failed.push(bench.target.as_str());
        }
    }
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join(", "));
    }
    Ok(())
}

fn run_bench(bench: &Executable, arguments: &[String]) -> Result<()> {
    let mut command = if bench.target.starts_with("kernel") {
        machine::as_root(&bench.path)?
    } else {
        Command::new(&bench.path)
    };
    command.arg("--bench").args(arguments).env("CARGO_MANIFEST_DIR", &bench.directory).stdout(Stdio::piped());
    // Paths among the arguments are of where they were given.
    if arguments.is_empty() {
        command.current_dir(&bench.directory);
    }
    let mut child = command.spawn().context("cannot run it")?;
    let output = child.stdout.take().context("it has no output")?;
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read what it says")?;
        if is_figure(&line) { println!("{line}") } else { eprintln!("{line}") }
    }
    let status = child.wait().context("cannot wait for it")?;
    if !status.success() {
        bail!("it failed ({status})");
    }
    Ok(())
}

/// `rtt_program_ratio 1.8 x`
fn is_figure(line: &str) -> bool {
    let fields: Vec<&str> = line.split_whitespace().collect();
    matches!(fields[..], [_, value, _] if value.parse::<f64>().is_ok())
}
