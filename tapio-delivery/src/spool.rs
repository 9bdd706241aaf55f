//! A sink's spool: occurrences that the sink could not deliver in time wait on disk, in order, and outlive
//! the agent.
//!
//! Design and costs: docs/decisions/0013-spool.md.

mod disk;
mod record;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

pub use disk::room;
pub(super) use disk::{CHANGE_BYTES, Disk, Trouble};
pub(super) use record::encode;

/// The state of a spool that works.
pub(super) const OK: &str = "ok";
/// The state while the file is read and checked, which takes long if the file is large.
pub(super) const OPENING: &str = "opening";

/// A spool in `/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// `ok`, `opening`, or the error.
    pub state: String,
    /// Records in it, including those in flight.
    pub records: u64,
    /// The approximate space that they take on disk.
    pub bytes: u64,
}

/// The directory of an agent's spools, and the limit of each.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) directory: PathBuf,
    pub(super) cap_bytes: u64,
}

/// One sink's spool. Its methods block on the disk.
#[derive(Debug)]
pub(super) struct Spool(Mutex<Disk>);

impl Place {
    pub(super) fn new(state_dir: &Path, cap_bytes: u64) -> Self {
        Self { directory: state_dir.join("spool"), cap_bytes }
    }

    /// The spool of the sink with this name: `NAME.redb` in the directory.
    pub(super) fn of(&self, name: &str) -> Spool {
        Spool(Mutex::new(Disk::new(self.directory.join(format!("{name}.redb")), self.cap_bytes)))
    }
}

impl Spool {
    pub(super) fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
