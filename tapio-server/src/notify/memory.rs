//! What was told, on disk.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tapio_service::private;

use super::plan::Memory;

/// The file of a target.
#[derive(Debug)]
pub(super) struct File(PathBuf);

impl File {
    /// The one of a target in the state directory, with what it says. What cannot be read counts as nothing, and is reported in
    /// the log: incidents are told again then.
    ///
    /// # Errors
    /// The directory cannot be made, or the file is there and cannot be read.
    pub(super) fn open(state_dir: &Path, target: &str) -> anyhow::Result<(Self, Memory)> {
        let directory = state_dir.join("notify");
        private::make_inner_directory(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let path = directory.join(format!("{target}.json"));
        let memory = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::warn!(file = %path.display(), %error, "unreadable: open incidents are told again");
                Memory::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Memory::default(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        Ok((Self(path), memory))
    }

    /// Saves it: after SIGKILL the file has this or what was before.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn save(&self, memory: &Memory) -> anyhow::Result<()> {
        let Self(path) = self;
        let new = path.with_extension("new");
        let text = serde_json::to_vec(memory)?;
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}
