//! What was told and heard, on disk.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Serialize, de::DeserializeOwned};
use tapio_service::private;

/// A file with JSON.
#[derive(Debug)]
pub(super) struct File(PathBuf);

impl File {
    /// One in a directory within the state directory, with what it says. What cannot be read counts as nothing, and is reported in
    /// the log: incidents are told again then.
    ///
    /// # Errors
    /// The directory cannot be made, or the file is there and cannot be read.
    pub(super) fn open<T: Default + DeserializeOwned>(
        directory: &Path,
        name: &str,
    ) -> anyhow::Result<(Self, T)> {
        private::make_inner_directory(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let path = directory.join(format!("{name}.json"));
        let memory = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::warn!(file = %path.display(), %error, "unreadable: open incidents are told again");
                T::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => T::default(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        Ok((Self(path), memory))
    }

    /// Saves it: after SIGKILL the file has this or what was before.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn save(&self, memory: &impl Serialize) -> anyhow::Result<()> {
        let Self(path) = self;
        let new = path.with_extension("new");
        let text = serde_json::to_vec(memory)?;
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}
