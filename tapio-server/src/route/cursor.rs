//! How far a sink is in the journal, on disk.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tapio_service::private;

/// A file with the sequence number of the next fact.
#[derive(Debug)]
pub(super) struct Cursor(PathBuf);

impl Cursor {
    /// The one of a sink, in the state directory.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub(super) fn new(state_dir: &Path, sink: &str) -> anyhow::Result<Self> {
        let directory = state_dir.join("sinks");
        private::make_inner_directory(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self(directory.join(format!("{sink}.next"))))
    }

    /// The number that was saved last; `None` if none was. What is no number counts as none, and is reported in the log.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn load(&self) -> anyhow::Result<Option<u64>> {
        let Self(path) = self;
        match fs::read_to_string(path) {
            Ok(text) => {
                let next = text.trim().parse().ok();
                if next.is_none() {
                    tracing::warn!(file = %path.display(), "no number in it: the sink goes on with what comes now");
                }
                Ok(next)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Saves the number: after SIGKILL the file has this one or the one before.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn save(&self, next: u64) -> anyhow::Result<()> {
        let Self(path) = self;
        let new = path.with_extension("new");
        fs::write(&new, format!("{next}\n"))
            .and_then(|()| fs::rename(&new, path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_last_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let cursor = Cursor::new(directory.path(), "a").unwrap();
        assert_eq!(cursor.load().unwrap(), None);
        cursor.save(7).unwrap();
        cursor.save(1_795_000_000_000_001).unwrap();
        let again = Cursor::new(directory.path(), "a").unwrap();
        assert_eq!(again.load().unwrap(), Some(1_795_000_000_000_001));
        assert_eq!(Cursor::new(directory.path(), "b").unwrap().load().unwrap(), None);
        fs::write(directory.path().join("sinks/a.next"), "x").unwrap();
        assert_eq!(again.load().unwrap(), None);
    }
}
