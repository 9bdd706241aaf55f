//! Files that are read again when they change.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Identifies the version of each file by inode, size and change time (seconds and nanoseconds). Renewed secrets of
/// Kubernetes come through a symbolic link, which watches on files miss.
pub(crate) type Stamps = Vec<Option<(u64, u64, i64, i64)>>;

/// The stamps of files as they are now.
pub(crate) fn stamps<'f>(files: impl IntoIterator<Item = &'f PathBuf>) -> Stamps {
    files.into_iter().map(|file| stamp(file)).collect()
}

fn stamp(file: &Path) -> Option<(u64, u64, i64, i64)> {
    let now = file.metadata().ok()?;
    Some((now.ino(), now.size(), now.ctime(), now.ctime_nsec()))
}
