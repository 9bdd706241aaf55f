//! CPU architectures, with their names in other projects.

use std::env;

use anyhow::{Context as _, Result};

/// An architecture that the agent runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    pub(crate) const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// The name in Debian, in images and on xtask's command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The name in the kernel and in compilers.
    pub(crate) fn cpu(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// The Rust target for a program that has to run on any Linux.
    pub(crate) fn target(self) -> String {
        format!("{}-unknown-linux-musl", self.cpu())
    }

    /// The prefix of Debian's C compiler and similar tools on this machine: empty for its own architecture.
    pub(crate) fn tools(self) -> &'static str {
        match self {
            own if own.cpu() == env::consts::ARCH => "",
            Self::Amd64 => "x86_64-linux-gnu-",
            Self::Arm64 => "aarch64-linux-gnu-",
        }
    }

    /// This machine's architecture.
    pub(crate) fn native() -> Result<Self> {
        let own = |arch: &Self| arch.cpu() == env::consts::ARCH;
        let none = || format!("Tapio is not built for this machine's {}", env::consts::ARCH);
        Self::ALL.into_iter().find(own).with_context(none)
    }

    pub(crate) fn named(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|arch| arch.name() == name)
            .with_context(|| format!("there is no architecture `{name}`; there are `amd64` and `arm64`"))
    }
}
