//! `cargo xtask test`: everything, and one line that says how it went.

use std::io::{self, BufRead as _, BufReader};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::executable::{self, Executable};
use crate::tally::{Reader, Tally};
use crate::{machine, setup};

/// The test target that loads the real programs: it runs as root, one test at a time.
const KERNEL: &str = "kernel";

const WORKSPACE: &[&str] = &["test", "--workspace", "--exclude", "tapio-ebpf"];

/// A row of the closing table.
struct Suite {
    name: String,
    tally: Tally,
    took: Duration,
}

/// `test [FILTER]`
pub(crate) fn task(arguments: &[String]) -> Result<()> {
    let filter = match arguments {
        [] => None,
        [filter] if !filter.starts_with('-') => Some(filter.as_str()),
        _ => bail!("test takes one argument, a part of the names of the tests to run"),
    };
    setup::task(&[])?;
    let mut executables = executable::build(WORKSPACE)?;
    executables.extend(kernel_suite(&executables)?);
    // What fails fast comes first, what needs root last.
    executables.sort_by_key(|executable| (executable.target == KERNEL, executable.kind == "test"));

    let mut suites = Vec::new();
    for executable in &executables {
        suites.push(timed(executable.name(), || run_suite(executable, filter))?);
    }
    suites.push(timed("doc".into(), || {
        let mut cargo = machine::cargo();
        cargo.args(WORKSPACE).args(["--quiet", "--doc", "--"]).args(filter).arg("--show-output");
        counted(cargo)
    })?);
    report(&suites)
}

/// The kernel tests where a plain `cargo test` leaves them out (`test = false` in the manifest).
fn kernel_suite(built: &[Executable]) -> Result<Vec<Executable>> {
    let sources = machine::workspace()?.join("tapio-agent/tests");
    let exists = sources.join("kernel.rs").is_file() || sources.join("kernel/main.rs").is_file();
    if !exists || built.iter().any(|executable| executable.target == KERNEL) {
        return Ok(Vec::new());
    }
    executable::build(&["test", "--package", "tapio-agent", "--test", KERNEL])
}

fn timed(name: String, run: impl FnOnce() -> Result<Tally>) -> Result<Suite> {
    eprintln!("\n== {name}");
    let start = Instant::now();
    let mut tally = run()?;
    for note in &mut tally.notes {
        *note = format!("{name}: {note}");
    }
    Ok(Suite { name, tally, took: start.elapsed() })
}

fn run_suite(executable: &Executable, filter: Option<&str>) -> Result<Tally> {
    let mut command = if executable.target == KERNEL {
        match machine::as_root(&executable.path) {
            Ok(mut command) => {
                command.arg("--test-threads=1");
                command
            }
            Err(reason) => return skipped_suite(executable, filter, &format!("{reason:#}")),
        }
    } else {
        Command::new(&executable.path)
    };
    command.current_dir(&executable.directory).env("CARGO_MANIFEST_DIR", &executable.directory);
    command.arg("--show-output").args(filter);
    counted(command)
}

/// All of a suite's tests, skipped for one reason.
fn skipped_suite(executable: &Executable, filter: Option<&str>, reason: &str) -> Result<Tally> {
    let mut list = Command::new(&executable.path);
    list.args(["--list", "--format=terse"]).args(filter).current_dir(&executable.directory);
    let output = list.output().with_context(|| format!("cannot run {}", executable.path.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let skipped = text.lines().filter(|line| line.ends_with(": test")).count();
    eprintln!("skipped: {reason}");
    let notes = if skipped > 0 { vec![format!("{skipped} skipped: {reason}")] } else { Vec::new() };
    Ok(Tally { skipped, notes, ..Tally::default() })
}

/// Runs a suite, shows what it says and counts.
fn counted(mut command: Command) -> Result<Tally> {
    let (output, input) = io::pipe().context("cannot make a pipe")?;
    let errors = input.try_clone().context("cannot make a pipe")?;
    let mut child = command.stdout(input).stderr(errors).spawn().context("cannot run the tests")?;
    drop(command); // holds the pipe's other end
    let mut reader = Reader::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("cannot read what the tests say")?;
        let line = String::from_utf8_lossy(&line);
        if reader.line(&line) {
            println!("{line}");
        }
    }
    let status = child.wait().context("cannot wait for the tests")?;
    Ok(reader.finish(status.success()))
}

/// The table, the skips with their reasons, and the closing line.
fn report(suites: &[Suite]) -> Result<()> {
    let mut all = Tally::default();
    println!("\n{:<32} {:>7} {:>7} {:>8} {:>8}", "suite", "passed", "failed", "skipped", "time");
    for Suite { name, tally, took } in suites.iter().filter(|suite| suite.tally.total() > 0) {
        let Tally { passed, failed, skipped, .. } = tally;
        println!("{name:<32} {passed:>7} {failed:>7} {skipped:>8} {:>6.1} s", took.as_secs_f64());
        all.add(tally);
    }
    if !all.notes.is_empty() {
        println!("\n{}", all.notes.join("\n"));
    }
    println!("\n{} passed, {} failed, {} skipped", all.passed, all.failed, all.skipped);
    if all.total() == 0 {
        bail!("no test has that in its name");
    }
    if all.failed > 0 {
        bail!("{} of {} tests failed", all.failed, all.total());
    }
    Ok(())
}
