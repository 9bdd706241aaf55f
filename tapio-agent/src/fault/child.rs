//! A child process that runs a [`Role`](super::Role). Dropping it kills it.

use std::{process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{self, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// Longer than any role takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running child.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    child: process::Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts this binary again, in this role. Call it on the main thread: the kernel kills a child when the thread that
    /// started it exits.
    ///
    /// # Errors
    /// The child cannot be started.
    pub fn start(role: &str, arguments: &[String]) -> Result<Self, String> {
        let start = || -> std::io::Result<Option<Self>> {
            let mut child = Command::new("/proc/self/exe")
                .args(["fault", role])
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                // Its own process group: Ctrl-C in the terminal goes to the parent only.
                .process_group(0)
                .kill_on_drop(true)
                .spawn()?;
            let parts = (child.id(), child.stdin.take(), child.stdout.take());
            let (Some(pid), Some(input), Some(output)) = parts else { return Ok(None) };
            Ok(Some(Self { pid, child, input, output: BufReader::new(output).lines() }))
        };
        match start() {
            Ok(Some(child)) => Ok(child),
            Ok(None) => Err("a child has no pipes".to_owned()),
            Err(error) => Err(format!("a child cannot be started: {error}")),
        }
    }

    /// Its process id in this process's pid namespace.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for this word and returns its value.
    ///
    /// # Errors
    /// The child sends another word, or none in time.
    pub async fn wait_for(&mut self, word: &str) -> Result<String, String> {
        let line = match timeout(PATIENCE, self.output.next_line()).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) => return Err(format!("its process ended before it was {word}")),
            Ok(Err(error)) => return Err(format!("the output of its process cannot be read: {error}")),
            Err(_) => return Err(format!("its process was not {word} within {PATIENCE:?}")),
        };
        match line.split_once(' ') {
            Some((sent, value)) if sent == word => Ok(value.to_owned()),
            Some(("failed", why)) => Err(why.to_owned()),
            _ => Err(format!("its process sent {line:?} instead of {word}")),
        }
    }

    /// Waits until it has played its role and exits: who drops it earlier kills it, which is a fault of its own.
    ///
    /// # Errors
    /// It fails, or does not end in time.
    pub async fn end(&mut self) -> Result<(), String> {
        self.wait_for("done").await?;
        self.wait_exit().await
    }

    /// Waits until it exits, with any status.
    ///
    /// # Errors
    /// It does not exit in time.
    pub async fn wait_exit(&mut self) -> Result<(), String> {
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("its process cannot be waited for: {error}")),
            Err(_) => Err(format!("its process did not end within {PATIENCE:?}")),
        }
    }

    /// Resumes it after [`send_and_wait`](super::role::send_and_wait).
    ///
    /// # Errors
    /// It does not read its standard input.
    pub async fn resume(&mut self) -> Result<(), String> {
        let gone = |error| format!("its process does not read its input: {error}");
        self.input.write_all(b"\n").await.map_err(gone)?;
        self.input.flush().await.map_err(gone)
    }
}
