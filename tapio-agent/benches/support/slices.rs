//! Runs a load in slices for paired comparison: one slice with a feature on, one with it off.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::Context;
use rustix::time::{ClockId, clock_gettime};

/// A process that runs a slice for each line it reads, and writes the slice's cost.
pub(crate) struct Slices(Child, BufReader<ChildStdout>);

impl Slices {
    /// Starts this program again on one CPU, with these arguments, and lets it run one slice, so that its caches are warm.
    pub(crate) fn on_one_cpu(arguments: &[&str]) -> anyhow::Result<Self> {
        let mut slices = Self::start(super::on_one_cpu()?.args(arguments))?;
        slices.next()?;
        Ok(slices)
    }

    /// Starts this program again, on one CPU, with these arguments. The new process calls [`each`].
    pub(crate) fn start(program: &mut Command) -> anyhow::Result<Self> {
        let mut child = program
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("taskset (util-linux) is needed")?;
        let out = child.stdout.take().context("no pipe")?;
        Ok(Self(child, BufReader::new(out)))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Runs the next slice and returns its cost.
    pub(crate) fn next(&mut self) -> anyhow::Result<f64> {
        writeln!(self.0.stdin.as_mut().context("no pipe")?)?;
        let mut line = String::new();
        self.1.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    }
}

impl Drop for Slices {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Runs in that process: runs one slice per request until its input ends.
pub(crate) fn each(mut slice: impl FnMut() -> anyhow::Result<f64>) -> anyhow::Result<()> {
    for line in std::io::stdin().lines() {
        line?;
        println!("{}", slice()?);
    }
    Ok(())
}

/// CPU time of the whole process so far, in nanoseconds.
pub(crate) fn cpu_ns() -> f64 {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    cpu.tv_sec as f64 * 1e9 + cpu.tv_nsec as f64
}

/// Prints the quartiles of ratios.
pub(crate) fn print_ratios(name: &str, ratios: &mut [f64]) {
    ratios.sort_by(f64::total_cmp);
    println!("{name} {:.4} x", ratios[ratios.len() / 2]);
    println!("{name}_p25 {:.4} x", ratios[ratios.len() / 4]);
    println!("{name}_p75 {:.4} x", ratios[ratios.len() * 3 / 4]);
}
