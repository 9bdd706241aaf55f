//! Two lanes of steps, and the table of their times.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::machine;
use crate::tally::Tally;

/// Where a step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Runs in this process. Its output appears immediately.
    First,
    /// Runs in a separate process, on CPU time that the first lane leaves. Its output appears when it has
    /// ended.
    Beside,
}

/// A step of `ci`. A lane runs its steps in order.
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) lane: Lane,
    /// Steps that must finish first; steps that were not requested count as finished.
    pub(super) after: &'static [&'static str],
    /// Time limit in seconds.
    pub(super) budget: u64,
    pub(super) run: fn() -> Result<Tally>,
}

/// A row of the closing table.
struct Row {
    step: &'static str,
    lane: Lane,
    budget: u64,
    took: Duration,
}

/// Progress of the lanes.
#[derive(Default)]
struct State {
    rows: Vec<Row>,
    tally: Tally,
    /// The first step that failed, and why.
    failure: Option<String>,
    /// Output of background steps, not shown yet.
    said: Vec<String>,
    /// The process group of the background step.
    beside: Option<u32>,
}

struct Lanes<'a> {
    steps: &'a [&'a Step],
    state: Mutex<State>,
    changed: Condvar,
}

/// Runs the steps and reports the time of each. A single named step runs in this process, whatever its lane.
pub(super) fn run(steps: &[&Step]) -> Result<()> {
    let start = Instant::now();
    let lanes = Lanes { steps, state: Mutex::default(), changed: Condvar::new() };
    if let [step] = steps {
        lanes.take(step, step.run);
    } else {
        thread::scope(|scope| {
            scope.spawn(|| lanes.lane(Lane::Beside));
            lanes.lane(Lane::First);
        });
    }
    let mut state = lanes.state();
    state.show();
    let waited = steps.iter().filter(|step| step.lane == Lane::First).map(|step| step.budget).sum::<u64>();
    println!("\n{:<24} {:>8} {:>8}", "step", "took", "budget");
    for Row { step, lane, budget, took } in &state.rows {
        let seconds = took.as_secs();
        let beside = if *lane == Lane::Beside { "beside" } else { "" };
        let over = if seconds > *budget { "OVER ITS BUDGET" } else { "" };
        println!("{}", format!("{step:<24} {seconds:>6} s {budget:>6} s  {beside}{over}").trim_end());
    }
    println!("{:<24} {:>6} s {waited:>6} s", "all", start.elapsed().as_secs());
    if let Some(failure) = &state.failure {
        bail!("{failure}");
    }
    let Tally { passed, failed, skipped, .. } = state.tally;
    if state.tally.total() > 0 {
        println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    }
    Ok(())
}

impl Lanes<'_> {
    fn lane(&self, lane: Lane) {
        for step in self.steps.iter().filter(|step| step.lane == lane) {
            if !self.wait_for(step) {
                return;
            }
            match lane {
                Lane::First => self.take(step, step.run),
                Lane::Beside => self.take(step, || self.beside(step.name)),
            }
        }
    }

    /// Waits until a step may begin; returns false if another step has failed.
    fn wait_for(&self, step: &Step) -> bool {
        let is_open = |name: &&&str| self.steps.iter().any(|step| step.name == **name);
        let needed: Vec<&&str> = step.after.iter().filter(is_open).collect();
        let mut state = self.state();
        let is_ready =
            |state: &State| needed.iter().all(|name| state.rows.iter().any(|row| row.step == **name));
        while state.failure.is_none() && !is_ready(&state) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.failure.is_none()
    }

    fn take(&self, step: &Step, run: impl FnOnce() -> Result<Tally>) {
        if step.lane == Lane::First {
            self.state().show();
            eprintln!("\n=== {}", step.name);
        }
        let start = Instant::now();
        let result = run();
        let mut state = self.state();
        match result {
            Ok(tally) => state.tally.add(&tally),
            Err(error) => {
                state.failure.get_or_insert_with(|| format!("{} failed: {error:#}", step.name));
                state.end_beside();
            }
        }
        let Step { name, lane, budget, .. } = *step;
        state.rows.push(Row { step: name, lane, budget, took: start.elapsed() });
        self.changed.notify_all();
    }

    /// Runs a step in a process that gets CPU time only if no other process wants it.
    fn beside(&self, name: &str) -> Result<Tally> {
        let path = machine::target_directory()?.join(format!("ci-{}.log", name.replace(' ', "-")));
        let log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = Command::new("chrt");
        command.args(["--idle", "0"]).arg(std::env::current_exe().context("this program is gone")?);
        command.args(["ci", name]).stdin(Stdio::null()).process_group(0);
        command.stderr(log.try_clone().context("cannot share a file")?).stdout(log);
        let mut child = command.spawn().context("cannot run chrt (Debian's util-linux)")?;
        self.state().beside = Some(child.id());
        let status = child.wait().context("cannot wait for it")?;
        let said = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut state = self.state();
        state.beside = None;
        let tally = said.lines().rev().find_map(Tally::parse).unwrap_or_default();
        state.said.push(format!("=== {name}, beside\n{said}"));
        if !status.success() {
            bail!(
                "{}",
                said.lines().rev().find(|line| line.starts_with("error: ")).unwrap_or("it says no more")
            );
        }
        Ok(tally)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn show(&mut self) {
        for said in self.said.drain(..) {
            eprintln!("\n{}", said.trim_end());
        }
    }

    /// Ends the background step and all its processes.
    fn end_beside(&self) {
        if let Some(group) = self.beside {
            // It may have exited already.
            let _ = Command::new("kill").args(["-s", "TERM", "--", &format!("-{group}")]).status();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes() -> Result<Tally> {
        Ok(Tally { passed: 1, ..Tally::default() })
    }

    fn fails() -> Result<Tally> {
        bail!("no")
    }

    fn step(name: &'static str, after: &'static [&'static str], run: fn() -> Result<Tally>) -> Step {
        Step { name, lane: Lane::First, after, budget: 1, run }
    }

    #[test]
    fn the_first_failure_ends_it_and_is_named() {
        let steps = [step("one", &[], passes), step("two", &["one"], fails), step("three", &[], passes)];
        let all: Vec<&Step> = steps.iter().collect();
        let error = run(&all).unwrap_err().to_string();
        assert_eq!(error, "two failed: no");
    }

    #[test]
    fn what_is_not_asked_for_is_not_waited_for() {
        let steps = [step("two", &["one"], passes), step("three", &["two", "zero"], passes)];
        assert!(run(&steps.iter().collect::<Vec<_>>()).is_ok());
    }
}
