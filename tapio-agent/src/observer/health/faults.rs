//! Faults that the health observer reports, for the self-test.

use std::{
    fs::File,
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::fault::{Caused, Child, Fault, NotCaused, Role, Subject};

pub(super) const FAULTS: &[Fault] = &[Fault {
    name: "no open files left",
    kinds: &["health.resource_exhausted"],
    part: "sys_exit",
    cause: |_| Box::pin(no_files()),
}];

pub(super) const ROLES: &[Role] = &[Role { name: "open-files", run: |_| open_files() }];

/// Open files that the child may have.
const MOST: u64 = 16;
/// Until the observer has learned that nothing fails.
const LEARNED: Duration = Duration::from_millis(1_500);
/// Several slices.
const LASTS: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);

async fn no_files() -> Result<Caused, NotCaused> {
    let mut child = Child::start("open-files", &[])?;
    child.end().await?;
    Ok(Caused { subject: Subject::Process, pid: child.pid() })
}

/// Opens files until there are as many as there may be, and goes on trying.
fn open_files() -> anyhow::Result<()> {
    setrlimit(Resource::Nofile, Rlimit { current: Some(MOST), maximum: Some(MOST) })?;
    thread::sleep(LEARNED);
    let (mut files, mut failures) = (Vec::new(), 0);
    let begin = Instant::now();
    while begin.elapsed() < LASTS {
        match File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(_) => {
                failures += 1;
                thread::sleep(PAUSE);
            }
        }
    }
    ensure!(failures > 0, "{} files could be opened", files.len());
    Ok(())
}
