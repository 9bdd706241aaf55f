//! What makes an image of a directory and a Dockerfile: Docker where its daemon answers, else buildah, which needs none.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::empty;
use crate::arch::Arch;
use crate::{machine, setup};

const BUILDAH: (&str, &str) = ("buildah", "buildah");

/// An image to be made.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) arch: Arch,
    /// `name:tag`
    pub(super) tag: String,
    /// Labels of the image, and annotations of its manifest.
    pub(super) labels: Vec<(&'static str, String)>,
    /// When all of it was made, in seconds since 1970.
    pub(super) time: u64,
    /// The directory with what goes in.
    pub(super) context: PathBuf,
    /// A directory for what is not kept.
    pub(super) scratch: PathBuf,
    /// The archive to write, in the layout of OCI.
    pub(super) archive: PathBuf,
}

impl Request {
    pub(super) fn build(&self) -> Result<()> {
        empty(&self.scratch)?;
        if self.archive.exists() {
            // buildah would add to it.
            std::fs::remove_file(&self.archive)
                .with_context(|| format!("cannot remove {}", self.archive.display()))?;
        }
        if docker_answers() {
            return machine::run(&mut self.docker()?);
        }
        setup::packages(&[BUILDAH])?;
        let mut bud = self.buildah();
        bud.args(["bud", "--quiet", "--isolation", "chroot", "--format", "oci", "--identity-label=false"]);
        bud.arg(format!("--timestamp={}", self.time)).args(self.arguments()?).arg(&self.context);
        // The image's id, which is not the digest of its manifest.
        machine::run(bud.stdout(Stdio::null()))?;
        let archive = format!("oci-archive:{}:{}", self.archive.display(), self.tag);
        machine::run(self.buildah().args(["push", "--quiet", &self.tag, &archive]))
    }

    fn docker(&self) -> Result<Command> {
        let mut docker = Command::new("docker");
        docker.args(["buildx", "build", "--quiet", "--provenance=false", "--sbom=false"]);
        let archive = self.archive.display();
        docker.arg(format!("--output=type=oci,dest={archive},name={},rewrite-timestamp=true", self.tag));
        docker.env("SOURCE_DATE_EPOCH", self.time.to_string());
        docker.args(self.arguments()?).arg(&self.context);
        Ok(docker)
    }

    /// With a storage of its own, so that nothing is left with the machine's images. It keeps whole copies, since it
    /// has to work where no file system can be mounted.
    fn buildah(&self) -> Command {
        let mut buildah = Command::new("buildah");
        buildah.args(["--storage-driver", "vfs", "--root"]).arg(self.scratch.join("storage"));
        buildah.arg("--runroot").arg(self.scratch.join("run"));
        buildah
    }

    /// What both take.
    fn arguments(&self) -> Result<Vec<String>> {
        let dockerfile = machine::workspace()?.join("deploy/Dockerfile");
        let mut arguments = vec![
            format!("--file={}", dockerfile.display()),
            format!("--platform=linux/{}", self.arch.name()),
            format!("--tag={}", self.tag),
        ];
        for (name, value) in &self.labels {
            arguments.push(format!("--label={name}={value}"));
            arguments.push(format!("--annotation={name}={value}"));
        }
        Ok(arguments)
    }
}

/// Why no image can be made on this machine as it is.
#[cfg(test)]
pub(super) fn hindrance() -> Option<&'static str> {
    let none = machine::program(BUILDAH.0).is_none() && !docker_answers();
    none.then_some("there is neither buildah nor a Docker that answers: cargo xtask setup --ci")
}

/// The client alone makes no image.
fn docker_answers() -> bool {
    let mut docker = Command::new("docker");
    docker.args(["buildx", "inspect"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let buildx = docker.status().is_ok_and(|status| status.success());
    let mut docker = Command::new("docker");
    docker.arg("info").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    buildx && docker.status().is_ok_and(|status| status.success())
}
