//! The machine that may be broken: a guest that `cargo xtask kernel-test` boots for the tests and throws away.

use std::{fs, process::Command};

/// On the kernel's command line of such a guest, and of no other machine.
const MARK: &str = "tapio.guest";

pub(crate) fn is_one() -> bool {
    fs::read_to_string("/proc/cmdline").is_ok_and(|line| line.split_whitespace().any(|word| word == MARK))
}

/// The time of day, set to another for as long as this is held.
pub(crate) struct Clock {
    seconds: i64,
}

impl Clock {
    /// So many seconds later than it is, or earlier.
    pub(crate) fn step(seconds: i64) -> Self {
        step(seconds);
        Self { seconds }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        step(-self.seconds);
    }
}

fn step(seconds: i64) {
    assert!(is_one(), "this machine's clock is others', too");
    let to = jiff::Timestamp::now().as_second() + seconds;
    let status = Command::new("date").args(["-s", &format!("@{to}")]).output().unwrap().status;
    assert!(status.success(), "{status}");
}
