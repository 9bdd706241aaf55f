//! CPU architectures, with the names that others have for them.

use std::env;

use anyhow::{Context as _, Result};

/// One that the agent runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    pub(crate) const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// As Debian and images name it, and as one does on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// As the kernel and compilers name it.
    pub(crate) fn cpu(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// What Rust builds for where a program has to run on any Linux.
    pub(crate) fn target(self) -> String {
        format!("{}-unknown-linux-musl", self.cpu())
    }

    /// What the names of Debian's C compiler and its like begin with, on this machine: nothing where it is its own.
    pub(crate) fn tools(self) -> &'static str {
        match self {
            own if own.cpu() == env::consts::ARCH => "",
            Self::Amd64 => "x86_64-linux-gnu-",
            Self::Arm64 => "aarch64-linux-gnu-",
        }
    }

    /// This machine's.
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
