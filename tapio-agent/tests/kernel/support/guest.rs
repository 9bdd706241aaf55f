//! A machine that tests may break: a guest that `cargo xtask kernel-test` boots for them and then discards.

use std::{fs, process::Command};

/// Present on the kernel command line of such a guest only.
const MARK: &str = "tapio.guest";

pub(crate) fn is_one() -> bool {
    fs::read_to_string("/proc/cmdline").is_ok_and(|line| line.split_whitespace().any(|word| word == MARK))
}

/// Changes the wall clock until it is dropped.
pub(crate) struct Clock {
    seconds: i64,
}

impl Clock {
    /// Steps the clock by this many seconds, forwards or backwards.
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
