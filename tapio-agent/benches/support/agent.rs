//! The agent as it is built.

use std::{
    fs,
    io::{BufRead, BufReader, Read as _},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};

/// One that runs. It is killed with its handle.
pub(crate) struct Agent(Child);

impl Agent {
    /// Starts it with these arguments, and waits until it is ready.
    pub(crate) fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let child = Command::new(env!("CARGO_BIN_EXE_tapio"))
            .args(arguments)
            .arg("--listen=off")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut agent = Self(child);
        let mut log = BufReader::new(agent.0.stderr.take().context("no pipe")?).lines();
        ensure!(log.any(|line| line.is_ok_and(|line| line.contains("ready"))), "the agent did not start");
        thread::spawn(move || log.for_each(drop));
        Ok(agent)
    }

    /// What it holds of memory, MiB.
    pub(crate) fn rss_mb(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }

    /// Time on a CPU of all its threads.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let mut total = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.0.id()))? {
            let stat = fs::read_to_string(task?.path().join("schedstat"))?;
            total += stat.split_whitespace().next().context("empty schedstat")?.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(total))
    }

    /// All that it told, when it has ended in order.
    pub(crate) fn end(&mut self) -> anyhow::Result<String> {
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.0),
            rustix::process::Signal::TERM,
        )?;
        let mut told = String::new();
        self.0.stdout.take().context("no pipe")?.read_to_string(&mut told)?;
        ensure!(self.0.wait()?.success(), "the agent failed");
        Ok(told)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
