//! Being asked to stop.

use anyhow::{Context as _, Result};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGTERM. Without a handler the first process of a container would ignore it.
pub(crate) async fn asked() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
    terminate.recv().await;
    println!("asked to stop");
    Ok(())
}

/// Waits until the parent closes the worker's standard input, also by ending.
pub(crate) async fn of_parent() -> Result<()> {
    let mut nothing = Vec::new();
    tokio::io::stdin().read_to_end(&mut nothing).await.context("standard input cannot be read")?;
    Ok(())
}
