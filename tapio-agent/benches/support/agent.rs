//! Runs the agent binary.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read as _},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use tempfile::TempDir;

/// A running agent. Dropping it kills the agent and removes its state.
pub(crate) struct Agent {
    child: Child,
    _state: TempDir,
}

impl Agent {
    /// Starts the agent with these arguments and variables and waits until it is ready. It inherits only
    /// `PATH` from the environment.
    pub(crate) fn start(arguments: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        let state = tempfile::tempdir()?;
        let child = Command::new(env!("CARGO_BIN_EXE_tapio"))
            .env_clear()
            .envs(env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(variables.iter().copied())
            .args(arguments)
            .arg("--listen=off")
            .arg(format!("--state-dir={}", state.path().display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut agent = Self { child, _state: state };
        let mut log = BufReader::new(agent.child.stderr.take().context("no pipe")?).lines();
        ensure!(log.any(|line| line.is_ok_and(|line| line.contains("ready"))), "the agent did not start");
        thread::spawn(move || log.for_each(drop));
        Ok(agent)
    }

    /// Resident memory in MiB.
    pub(crate) fn rss_mb(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }

    /// CPU time of all its threads.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let mut total = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let stat = fs::read_to_string(task?.path().join("schedstat"))?;
            total += stat.split_whitespace().next().context("empty schedstat")?.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(total))
    }

    /// Stops the agent gracefully and returns everything it reported.
    pub(crate) fn end(&mut self) -> anyhow::Result<String> {
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        )?;
        let mut reported = String::new();
        self.child.stdout.take().context("no pipe")?.read_to_string(&mut reported)?;
        ensure!(self.child.wait()?.success(), "the agent failed");
        Ok(reported)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
