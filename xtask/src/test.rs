//! `cargo xtask test`: runs all tests and prints a closing line with the result.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Write};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::budget;
use crate::executable::{self, Executable};
use crate::tally::{Reader, Tally};
use crate::{arch::Arch, machine, portable, setup};

/// The test target that loads the real programs: it runs as root, one test at a time.
const KERNEL: &str = "kernel";
/// Examples in the documentation, which have no executable.
const DOC: &str = "doc";
/// Kernel tests that mostly wait, each for its own event: they run in parallel, also with the other tests of
/// their observer.
const PATIENT: &[&str] = &["dns::clients", "dns::timeout", "node::pressure", "node::services"];
/// Suites that mostly wait: they run in parallel.
const PATIENT_SUITES: &[&str] = &["chaos", "kubernetes", "large_spool", "polku", "portti", "selftest"];

/// A row of the closing table.
struct Suite {
    name: String,
    tally: Tally,
    took: Duration,
}

/// Which test targets to run.
#[derive(Clone, Copy)]
pub(crate) enum Suites {
    All,
    Only(&'static [&'static str]),
    AllBut(&'static [&'static str]),
}

impl Suites {
    fn has(self, target: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(&target),
            Self::AllBut(names) => !names.contains(&target),
        }
    }
}

/// `test [FILTER]`
pub(crate) fn task(arguments: &[String]) -> Result<()> {
    let filter = match arguments {
        [] => None,
        [filter] if !filter.starts_with('-') => Some(filter.as_str()),
        _ => bail!("test takes one argument, a part of the names of the tests to run"),
    };
    setup::task(&[])?;
    run(Suites::All, filter).map(drop)
}

/// Runs the suites' tests with `filter` in their names.
pub(crate) fn run(suites: Suites, filter: Option<&str>) -> Result<Tally> {
    run_with(suites, filter, &[])
}

/// Like [`run`], with variables that set the duration of some tests.
pub(crate) fn run_with(suites: Suites, filter: Option<&str>, variables: &[(&str, &str)]) -> Result<Tally> {
    let mut executables = build()?;
    executables.retain(|executable| suites.has(&executable.target));
    // Tests that fail fast come first, tests that need root come last.
    executables.sort_by_key(|executable| {
        (executable.target == KERNEL, executable.kind == "test", executable.is_patient())
    });
    let mut parts = Vec::new();
    for executable in &executables {
        parts.extend(parts_of(executable, filter)?);
    }

    let mut results = Vec::new();
    let mut took = Vec::new();
    for parts in parts.chunk_by(Part::is_beside) {
        let start = Instant::now();
        results.extend(side_by_side(parts, variables)?);
        took.extend(parts[0].module.clone().map(|module| (module, start.elapsed())));
    }
    if suites.has(DOC) {
        results.push(timed(DOC.into(), || {
            let mut cargo = cargo()?;
            cargo.args(["--quiet", "--doc", "--"]).args(filter).arg("--show-output");
            counted(cargo, &mut io::stdout())
        })?);
    }
    let tally = report(&results)?;
    if filter.is_none() {
        budget::HOST.check(took.iter().map(|(module, took)| (module.as_str(), *took)))?;
    }
    Ok(tally)
}

/// A run of an executable.
struct Part<'a> {
    executable: &'a Executable,
    /// Its module, if it runs only that.
    module: Option<String>,
    /// The tests' names; `None` for all.
    tests: Option<Vec<String>>,
}

/// The runs of an executable: the kernel tests by module, which means by observer, and everything else in one
/// run.
fn parts_of<'a>(executable: &'a Executable, filter: Option<&str>) -> Result<Vec<Part<'a>>> {
    if executable.target != KERNEL && filter.is_none() {
        return Ok(vec![Part { executable, module: None, tests: None }]);
    }
    let mut list = Command::new(&executable.path);
    list.args(["--list", "--format=terse"]).args(filter).current_dir(&executable.directory);
    let listed = machine::output(&mut list)?;
    let mut modules: BTreeMap<Option<String>, Vec<String>> = BTreeMap::new();
    for name in listed.lines().filter_map(|line| line.strip_suffix(": test")) {
        let patient = PATIENT.iter().find(|module| name.starts_with(*module)).copied();
        let module = patient.or_else(|| Some(name.split_once("::")?.0)).map(str::to_owned);
        modules.entry(module.filter(|_| executable.target == KERNEL)).or_default().push(name.to_owned());
    }
    let part = |(module, tests)| Part { executable, module, tests: Some(tests) };
    Ok(modules.into_iter().map(part).collect())
}

/// Runs parts in parallel. The first part's output appears immediately, that of the others afterwards.
fn side_by_side(parts: &[Part], variables: &[(&str, &str)]) -> Result<Vec<Suite>> {
    let Some((first, others)) = parts.split_first() else { return Ok(Vec::new()) };
    thread::scope(|scope| {
        let others: Vec<_> = others
            .iter()
            .map(|part| {
                scope.spawn(move || {
                    let mut said = Vec::new();
                    part.run(variables, &mut said).map(|suite| (suite, said))
                })
            })
            .collect();
        let mut suites = vec![first.run(variables, &mut io::stdout())?];
        for other in others {
            let (suite, said) = other.join().map_err(|_| anyhow!("a run of tests panicked"))??;
            println!("\n== {}\n{}", suite.name, String::from_utf8_lossy(&said));
            suites.push(suite);
        }
        Ok(suites)
    })
}

impl Executable {
    fn is_patient(&self) -> bool {
        PATIENT_SUITES.contains(&self.target.as_str())
    }
}

impl Part<'_> {
    /// Whether another part may run beside this one: suites that mostly wait, and kernel tests that mostly wait
    /// beside the rest of their observer's.
    fn is_beside(&self, other: &Self) -> bool {
        if self.executable.is_patient() && other.executable.is_patient() {
            return true;
        }
        let both = self.module.as_deref().zip(other.module.as_deref());
        both.is_some_and(|(this, other)| PATIENT.contains(&other) && other.split("::").next() == Some(this))
    }

    fn run(&self, variables: &[(&str, &str)], out: &mut dyn Write) -> Result<Suite> {
        let mut name = self.executable.name();
        if let Some(module) = &self.module {
            name = format!("{name} {module}");
        }
        timed(name, || self.counted(variables, out))
    }

    fn counted(&self, variables: &[(&str, &str)], out: &mut dyn Write) -> Result<Tally> {
        let executable = self.executable;
        let mut command = if executable.target == KERNEL {
            match machine::as_root(&executable.path) {
                Ok(mut command) => {
                    let is_patient = self.module.as_deref().is_some_and(|module| PATIENT.contains(&module));
                    command.arg(if is_patient { "--test-threads=6" } else { "--test-threads=1" });
                    command
                }
                Err(reason) => return Ok(self.skipped(&format!("{reason:#}"))),
            }
        } else {
            Command::new(&executable.path)
        };
        command.current_dir(&executable.directory).env("CARGO_MANIFEST_DIR", &executable.directory);
        command.envs(variables.iter().copied()).arg("--show-output");
        if let Some(tests) = &self.tests {
            command.arg("--exact").args(tests);
        }
        counted(command, out)
    }

    /// Counts all tests as skipped, with one reason.
    fn skipped(&self, reason: &str) -> Tally {
        let skipped = self.tests.as_ref().map_or(0, Vec::len);
        eprintln!("skipped: {reason}");
        let notes = vec![format!("{skipped} skipped: {reason}")];
        Tally { skipped, notes, ..Tally::default() }
    }
}

/// Builds all of them.
pub(crate) fn build() -> Result<Vec<Executable>> {
    executable::build(cargo()?)
}

/// Uses the profile and the target shared with guests and clusters; if Rust's library for that target is
/// unavailable, builds for this machine only.
fn cargo() -> Result<Command> {
    let mut cargo = portable::cargo(Arch::native()?, "test", portable::QUICK).unwrap_or_else(|error| {
        eprintln!("test: {error:#}; building for this machine alone");
        let mut cargo = machine::cargo();
        cargo.args(["test", "--locked", "--profile", portable::QUICK]);
        cargo
    });
    cargo.args(["--workspace", "--exclude", "tapio-ebpf"]);
    Ok(cargo)
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

/// Runs a suite, shows its output and counts its tests.
fn counted(mut command: Command, out: &mut dyn Write) -> Result<Tally> {
    let (output, input) = io::pipe().context("cannot make a pipe")?;
    let errors = input.try_clone().context("cannot make a pipe")?;
    let mut child = command.stdout(input).stderr(errors).spawn().context("cannot run the tests")?;
    drop(command); // holds the pipe's other end
    let mut reader = Reader::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("cannot read what the tests say")?;
        let line = String::from_utf8_lossy(&line);
        if reader.line(&line) {
            writeln!(out, "{line}").context("cannot write what the tests say")?;
        }
    }
    let status = child.wait().context("cannot wait for the tests")?;
    Ok(reader.finish(status.success()))
}

/// Prints the table, the skips with their reasons, and the closing line.
fn report(suites: &[Suite]) -> Result<Tally> {
    let mut all = Tally::default();
    println!("\n{:<32} {:>7} {:>7} {:>8} {:>8}", "suite", "passed", "failed", "skipped", "time");
    for Suite { name, tally, took, .. } in suites.iter().filter(|suite| suite.tally.total() > 0) {
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
    Ok(all)
}
