//! Processes that run this test binary in another role.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Serialize, de::DeserializeOwned};

const VARIABLE: &str = "TAPIO_CHAOS_ROLE";

/// A child that is killed on drop.
#[derive(Debug)]
pub(crate) struct Role {
    pub(crate) child: Child,
}

/// Starts this binary in the role of the test with this name, in the namespaces of `command`.
pub(crate) fn start(mut command: Command, test: &str, order: &impl Serialize, log: &Path) -> Role {
    let log = File::options().create(true).append(true).open(log).unwrap();
    let child = command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(VARIABLE, serde_json::to_string(order).unwrap())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    Role { child }
}

pub(crate) fn here() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

/// The configuration of this process's role, if it has one.
pub(crate) fn order<T: DeserializeOwned>() -> Option<T> {
    std::env::var(VARIABLE).ok().map(|order| serde_json::from_str(&order).unwrap())
}

impl Role {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Kills it at once, like kill -9 or a power failure.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a condition. On failure it prints the last value.
pub(crate) fn until<T: std::fmt::Debug>(mut look: impl FnMut() -> T, enough: impl Fn(&T) -> bool) -> T {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let now = look();
        if enough(&now) {
            return now;
        }
        assert!(Instant::now() < end, "still {now:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
