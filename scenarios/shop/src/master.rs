//! A first process whose child serves, as in many application servers. It survives the child.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::process::Command;

use crate::stop;

/// Time between the end of a worker and the next one. Meanwhile connections are refused.
const PAUSE: Duration = Duration::from_secs(15);

/// Keeps a worker running until SIGTERM.
pub(crate) async fn run(role: &str) -> Result<()> {
    let program = std::env::current_exe().context("this program is gone")?;
    let mut stopped = std::pin::pin!(stop::asked());
    loop {
        let mut command = Command::new(&program);
        // Its standard input ends when this process does, or wants it to stop.
        let mut worker = command
            .args([role, "worker"])
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot start the worker")?;
        // Waiting for the worker would close it.
        let input = worker.stdin.take();
        tokio::select! {
            ended = worker.wait() => {
                println!("the worker ended: {}", ended.context("cannot wait for the worker")?);
            }
            stopped = &mut stopped => {
                stopped?;
                drop(input);
                worker.wait().await.context("cannot wait for the worker")?;
                return Ok(());
            }
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            stopped = &mut stopped => return stopped,
        }
    }
}
