//! What a person does who enters a container and kills what they find there.

use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// Kills the worker of a service with SIGKILL, in this process's PID namespace.
pub(crate) fn worker(role: &str) -> Result<()> {
    let mut killed = 0;
    for entry in fs::read_dir("/proc").context("cannot list processes")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended since.
        let Ok(command) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let words: Vec<&[u8]> = command.split(|byte| *byte == 0).skip(1).collect();
        if !matches!(words[..], [service, b"worker", ..] if service == role.as_bytes()) {
            continue;
        }
        let Some(pid) = Pid::from_raw(pid) else { bail!("there is no process {pid}") };
        kill_process(pid, Signal::KILL).with_context(|| format!("cannot kill {}", pid.as_raw_nonzero()))?;
        killed += 1;
    }
    ensure!(killed > 0, "no worker of {role} is running");
    println!("{killed} killed");
    Ok(())
}
