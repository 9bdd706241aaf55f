//! The programs that are shipped as images: the agent and the server.

use anyhow::{Result, bail};

/// A program with an image of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// Name of the image, of the binary, and of its file in the build context.
    pub(super) name: &'static str,
    /// The package of the binary.
    pub(super) package: &'static str,
    /// A package that the binary contains as data: the kernel programs.
    pub(super) embedded: Option<&'static str>,
    /// The sentence in the image's labels.
    pub(super) about: &'static str,
    /// The Dockerfile, in the workspace.
    pub(super) dockerfile: &'static str,
    /// User and group that the program runs as.
    pub(super) user: &'static str,
    /// Maximum size of the release binary, in bytes.
    pub(super) limit: u64,
}

/// The node agent. It needs root for its capabilities.
pub(crate) const AGENT: Program = Program {
    name: "tapio",
    package: "tapio-agent",
    embedded: Some("tapio-ebpf"),
    about: "Learns in the kernel what is normal for a node's workloads, and reports what is not",
    dockerfile: "deploy/Dockerfile",
    user: "0:0",
    limit: 25_000_000,
};

/// The central side.
pub(crate) const SERVER: Program = Program {
    name: "tapio-server",
    package: "tapio-server",
    embedded: None,
    about: "Receives what Tapio's agents and Kubernetes report, and says why something failed",
    dockerfile: "deploy/server/Dockerfile",
    user: "65532:65532",
    limit: 40_000_000,
};

impl Program {
    /// The program that the command line calls `agent` or `server`.
    pub(super) fn named(name: &str) -> Result<Self> {
        match name {
            "agent" => Ok(AGENT),
            "server" => Ok(SERVER),
            _ => bail!("there is no image of `{name}`; there are agent and server"),
        }
    }

    /// The binary's path in the image.
    pub(super) fn path(self) -> String {
        format!("usr/bin/{}", self.name)
    }

    /// The path of the bill of materials in the image.
    pub(super) fn materials(self) -> String {
        format!("usr/share/doc/{0}/{0}.spdx.json", self.name)
    }
}
