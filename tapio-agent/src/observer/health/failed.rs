//! System calls that failed in a slice of time, as a record.

use bytemuck::{Pod, Zeroable};
use tapio_common::{Event, Header};

/// A number that is not known.
pub const UNKNOWN: u64 = u64::MAX;

/// How often a system call failed with an error, in a cgroup, in a slice; or, with no failures, the end of that slice.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Failed {
    /// The cgroup, and the last process; when that was. At the end of a slice, when that was.
    pub header: Header,
    /// Number of the system call.
    pub number: u32,
    /// One of [`tapio_common::health::error`].
    pub errno: u32,
    /// How often in this slice.
    pub count: u64,
    /// Length of the slice.
    pub slice_ns: u64,
    /// The limit that was met, in units of the resource; [`UNKNOWN`] if it is not known.
    pub limit: u64,
    /// How much of it is used; [`UNKNOWN`] if it is not known.
    pub used: u64,
}

impl Event for Failed {
    fn header(&self) -> &Header {
        &self.header
    }
}

impl Failed {
    /// Whether it is the end of a slice.
    #[must_use]
    pub const fn ends_slice(&self) -> bool {
        self.count == 0
    }
}
