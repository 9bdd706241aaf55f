//! redb's errors, and its panics: it may panic on a file that it did not write that way.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
};

use tapio_service::crash;

use super::Trouble;

/// Runs `work`, and sorts its failure.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, Trouble> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|error| match &error {
            redb::Error::Io(io) if !is_damage(io) => Trouble::Away(io.to_string()),
            redb::Error::DatabaseAlreadyOpen => Trouble::Away("another process has it open".to_owned()),
            redb::Error::LockProtocolMismatch | redb::Error::PreviousIo | redb::Error::DatabaseClosed => {
                Trouble::Away(error.to_string())
            }
            redb::Error::UpgradeRequired(_) => {
                Trouble::Away(format!("{error}: start the version that wrote it, or move the file away"))
            }
            _ => Trouble::Damaged(error.to_string()),
        }),
        Err(panic) => Err(Trouble::Damaged(crash::said(panic.as_ref()))),
    }
}

/// The file is too short, or has the wrong magic number.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData)
}
