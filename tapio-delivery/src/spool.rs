//! A sink's spool: what it could not take in time waits on disk, in order, and outlives the agent.
//!
//! Why it is as it is, and what it costs: docs/decisions/0013-spool.md.

mod disk;
mod record;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

pub(super) use disk::{CHANGE_BYTES, Disk, Trouble};
pub(super) use record::encode;

/// The state of a spool that works.
pub(super) const OK: &str = "ok";
/// That of one whose file is read and checked, which takes its time where it is large.
pub(super) const OPENING: &str = "opening";

/// A spool in `/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// `ok`, `opening`, or what is wrong with it.
    pub state: String,
    /// Records in it, those included that are on the way.
    pub records: u64,
    /// Room that they take on disk, about.
    pub bytes: u64,
}

/// Where the spools of an agent are, and how large each may be.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) directory: PathBuf,
    pub(super) cap_bytes: u64,
}

/// One sink's spool. Its methods wait for the disk.
#[derive(Debug)]
pub(super) struct Spool(Mutex<Disk>);

impl Place {
    pub(super) fn new(state_dir: &Path, cap_bytes: u64) -> Self {
        Self { directory: state_dir.join("spool"), cap_bytes }
    }

    /// The spool of the sink of this name: `NAME.redb` in the directory.
    pub(super) fn of(&self, name: &str) -> Spool {
        Spool(Mutex::new(Disk::new(self.directory.join(format!("{name}.redb")), self.cap_bytes)))
    }
}

impl Spool {
    pub(super) fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
