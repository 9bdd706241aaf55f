//! Faults that the storage observer reports, for the self-test. Disks that fail are left to the tests: a loop device is one
//! of the host's.

use crate::fault::{Caused, Environment, Fault, NotCaused, Subject};

pub(super) const FAULTS: &[Fault] = &[Fault {
    name: "full file system",
    kinds: &["storage.filesystem_full"],
    part: "statfs",
    cause: |environment| Box::pin(async { full(environment) }),
}];

fn full(environment: &mut Environment) -> Result<Caused, NotCaused> {
    environment.filesystem()?.fill()?;
    Ok(Caused { subject: Subject::Filesystem, pid: std::process::id() })
}
