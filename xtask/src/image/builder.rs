//! Builds an image from a directory and a Dockerfile: with Docker if it can write OCI archives, otherwise
//! with buildah, which needs no daemon.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::{Program, empty};
use crate::arch::Arch;
use crate::{machine, setup};

const BUILDAH: (&str, &str) = ("buildah", "buildah");

/// An image to build.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) program: Program,
    pub(super) arch: Arch,
    /// `name:tag`
    pub(super) tag: String,
    /// Labels of the image, and annotations of its manifest.
    pub(super) labels: Vec<(&'static str, String)>,
    /// Creation time of everything in it, in seconds since 1970.
    pub(super) time: u64,
    /// Maximum size unpacked, in bytes.
    pub(super) limit: u64,
    /// The build context.
    pub(super) context: PathBuf,
    /// A directory for temporary files.
    pub(super) scratch: PathBuf,
    /// The archive to write, in the OCI layout.
    pub(super) archive: PathBuf,
}

impl Request {
    pub(super) fn build(&self) -> Result<()> {
        empty(&self.scratch)?;
        if self.archive.exists() {
            // buildah would append to an existing archive.
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
        // buildah prints the image id, which is not the digest of its manifest.
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

    /// buildah with a separate storage, so that nothing remains among the machine's images. It uses the vfs
    /// driver, which stores full copies, because it has to work without mounting file systems.
    fn buildah(&self) -> Command {
        let mut buildah = Command::new("buildah");
        buildah.args(["--storage-driver", "vfs", "--root"]).arg(self.scratch.join("storage"));
        buildah.arg("--runroot").arg(self.scratch.join("run"));
        buildah
    }

    /// Arguments common to both builders.
    fn arguments(&self) -> Result<Vec<String>> {
        let dockerfile = machine::workspace()?.join(self.program.dockerfile);
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

/// Why this machine cannot build an image now.
#[cfg(test)]
pub(super) fn hindrance() -> Option<&'static str> {
    let none = machine::program(BUILDAH.0).is_none() && !docker_serves();
    none.then_some(
        "there is neither buildah nor a Docker that writes archives of OCI: cargo xtask setup --ci",
    )
}

/// Whether a daemon answers and its builder can write OCI archives. The Docker client alone cannot build.
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

/// The driver `docker` has no OCI exporter, unless the images are in containerd's store.
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
