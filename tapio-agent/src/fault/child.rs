//! A child that plays an [`Act`](super::Act). Dropping it ends it.

use std::{process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{self, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// No act takes as long.
const PATIENCE: Duration = Duration::from_secs(10);

/// A child.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    child: process::Child,
    orders: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts this binary again. Called on the main thread: children end with the thread that started them.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(act: &str, arguments: &[String]) -> Result<Self, String> {
        let start = || -> std::io::Result<Option<Self>> {
            let mut child = Command::new("/proc/self/exe")
                .args(["fault", act])
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                // An interrupt from the terminal is the parent's to handle.
                .process_group(0)
                .kill_on_drop(true)
                .spawn()?;
            let parts = (child.id(), child.stdin.take(), child.stdout.take());
            let (Some(pid), Some(orders), Some(said)) = parts else { return Ok(None) };
            Ok(Some(Self { pid, child, orders, said: BufReader::new(said).lines() }))
        };
        match start() {
            Ok(Some(child)) => Ok(child),
            Ok(None) => Err("a child has no pipes".to_owned()),
            Err(error) => Err(format!("a child cannot be started: {error}")),
        }
    }

    /// Its process id, in this process's pid namespace.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for this word, and gives its value.
    ///
    /// # Errors
    /// It says another word, or none in time.
    pub async fn tells(&mut self, word: &str) -> Result<String, String> {
        let line = match timeout(PATIENCE, self.said.next_line()).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) => return Err(format!("its process ended before it was {word}")),
            Ok(Err(error)) => return Err(format!("its process cannot be heard: {error}")),
            Err(_) => return Err(format!("its process was not {word} within {PATIENCE:?}")),
        };
        match line.split_once(' ') {
            Some((said, value)) if said == word => Ok(value.to_owned()),
            Some(("failed", why)) => Err(why.to_owned()),
            _ => Err(format!("its process says {line:?} where it should be {word}")),
        }
    }

    /// Waits until it has ended, in whatever way.
    ///
    /// # Errors
    /// It does not end in time.
    pub async fn ends(&mut self) -> Result<(), String> {
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("its process cannot be waited for: {error}")),
            Err(_) => Err(format!("its process did not end within {PATIENCE:?}")),
        }
    }

    /// Has it go on.
    ///
    /// # Errors
    /// It does not listen.
    pub async fn go_on(&mut self) -> Result<(), String> {
        let gone = |error| format!("its process does not listen: {error}");
        self.orders.write_all(b"\n").await.map_err(gone)?;
        self.orders.flush().await.map_err(gone)
    }
}
