//! A file system of the host, and the record of all of them at one time.

use bytemuck::bytes_of;
use serde::{Deserialize, Serialize};
use tapio_common::{Header, WHOLE_NODE, storage::kind};

use crate::observer::Volume;

const HEADER: usize = size_of::<Header>();
/// The header and the kind, which all records of this observer begin with.
const PREFIX: usize = HEADER + size_of::<u32>();

/// A mounted local file system. Bind mounts of it are not others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// Name of its device: `vda1`, `vg-data` for `/dev/mapper/vg-data`, `tmpfs`.
    pub device: String,
    /// Numbers of the disks below it, as `dev_t` of user space; empty if it is on none.
    pub disks: Vec<u64>,
    /// Its type: `ext4`.
    pub kind: String,
    /// Where the host mounts it.
    pub mount_point: String,
    /// The pod's volume that it is. `None` if it is the node's.
    pub volume: Option<Volume>,
    /// The mount option by which it takes no writes; `None` if it takes them.
    pub read_only: Option<ReadOnly>,
    /// How full it is. `None` if the agent cannot reach it.
    pub space: Option<Space>,
}

/// Why a file system takes no writes, by its mount options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadOnly {
    /// It was mounted, or remounted, so. Most file systems do that to themselves after an error.
    Mounted,
    /// ext4 stopped writing after an error, since 6.15.
    Emergency,
    /// It was shut down, mostly after an error, so that reads fail as well.
    Shutdown,
}

/// How full a file system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Bytes.
    pub bytes: Amount,
    /// Inodes; `None` if it has no fixed number of them.
    pub inodes: Option<Amount>,
}

/// A resource of a file system. What is reserved for root is neither used nor available, as `df` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// In use.
    pub used: u64,
    /// What applications may still use.
    pub available: u64,
}

impl Amount {
    /// All that applications may use.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.used.saturating_add(self.available)
    }
}

impl ReadOnly {
    /// The mount option.
    #[must_use]
    pub const fn option(self) -> &'static str {
        match self {
            Self::Mounted => "ro",
            Self::Emergency => "emergency_ro",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Returns the record of all file systems at this time (boot clock).
///
/// # Errors
/// They cannot be written as JSON.
pub fn record(time_ns: u64, all: &[Filesystem]) -> serde_json::Result<Vec<u8>> {
    let header = Header { time_ns, cgroup_id: WHOLE_NODE, pid: 0, suppressed: 0, comm: [0; 16].into() };
    let mut record = [bytes_of(&header), bytes_of(&kind::FILESYSTEMS)].concat();
    serde_json::to_writer(&mut record, all)?;
    Ok(record)
}

/// The header and the file systems of a record; `None` if it is of another kind.
pub(super) fn read(record: &[u8]) -> Option<serde_json::Result<(Header, Vec<Filesystem>)>> {
    let (prefix, json) = record.split_at_checked(PREFIX)?;
    let of_kind = bytemuck::pod_read_unaligned::<u32>(&prefix[HEADER..]);
    let header = bytemuck::pod_read_unaligned(&prefix[..HEADER]);
    (of_kind == kind::FILESYSTEMS).then(|| Ok((header, serde_json::from_slice(json)?)))
}
