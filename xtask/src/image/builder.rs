//! What makes an image of a directory and a Dockerfile: Docker where it writes archives of OCI, else buildah, which needs
//! no daemon.

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
    /// What it may be at most, unpacked, in bytes.
    pub(super) limit: u64,
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
        if docker_serves() {
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
    let none = machine::program(BUILDAH.0).is_none() && !docker_serves();
    none.then_some(
        "there is neither buildah nor a Docker that writes archives of OCI: cargo xtask setup --ci",
    )
}

/// Whether a daemon answers, as the client alone makes no image, and its builder writes what is wanted.
fn docker_serves() -> bool {
    let said = |arguments: &[&str]| {
        let mut docker = Command::new("docker");
        let output = docker.args(arguments).stdin(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let builder = said(&["buildx", "inspect"]);
    let store = said(&["info", "--format={{.DriverStatus}}"]);
    builder.zip(store).is_some_and(|(builder, store)| writes_archives(&builder, &store))
}

/// The driver `docker` has no exporter of OCI, unless its images are in containerd's store.
/// <https://docs.docker.com/build/exporters/oci-docker/>
fn writes_archives(builder: &str, store: &str) -> bool {
    let driver = builder.lines().find_map(|line| line.strip_prefix("Driver:")).map(str::trim);
    driver.is_some_and(|driver| driver != "docker") || store.contains("io.containerd.snapshotter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_builder_of_docker_writes_no_archives() {
        let builder =
            |driver: &str| format!("Name:          a\nDriver:        {driver}\n\nNodes:\nName: a0\n");
        let [own, containerd] =
            ["[[Backing Filesystem extfs]]", "[[driver-type io.containerd.snapshotter.v1]]"];
        assert!(!writes_archives(&builder("docker"), own));
        assert!(writes_archives(&builder("docker"), containerd));
        assert!(writes_archives(&builder("docker-container"), own));
        assert!(!writes_archives("", own));
    }
}
