//! Settings of the role.

use std::fs;

use anyhow::Context as _;
use tapio_ahti::Rules;
use tapio_service::setting::{AbsolutePath, Listen, Off, settings};

settings! {
    /// What explains.
    pub struct Settings {
        /// Where the API is served, for kubectl tapio. It asks for no token, so only this host, or this pod, should reach
        /// it: kubectl tapio comes by a port-forward, which Kubernetes authorizes.
        pub api: Off<Listen> = Off(Some(Listen(([127, 0, 0, 1], 8080).into()))),
        /// A directory with own rule files (*.yaml), beside those that come with Tapio. A rule with the same name replaces
        /// the one that comes with it.
        pub rules: Off<AbsolutePath> = Off(None),
    }
}

impl Settings {
    /// The rules that come with the engine, and the user's own.
    pub(super) fn rules(&self) -> anyhow::Result<Rules> {
        let Some(directory) = &self.rules.0 else { return Ok(Rules::with([])?) };
        let directory = directory.as_path();
        let read = || format!("ahti.rules: {} cannot be read", directory.display());
        let mut paths = Vec::new();
        for entry in fs::read_dir(directory).with_context(read)? {
            let path = entry.with_context(read)?.path();
            if path.extension().is_some_and(|end| end == "yaml" || end == "yml") {
                paths.push(path);
            }
        }
        paths.sort_unstable();
        let mut files = Vec::new();
        for path in paths {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("ahti.rules: {} cannot be read", path.display()))?;
            files.push((path.display().to_string(), text));
        }
        Rules::with(files.iter().map(|(name, text)| (name.as_str(), text.as_str()))).context("ahti.rules")
    }
}
