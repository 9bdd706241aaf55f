//! An image read back from its archive:
//! <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Request, empty};
use crate::machine;

/// The contents of an archive.
#[derive(Clone, Debug)]
pub(super) struct Archive {
    /// Digest of the manifest, by which a registry identifies the image.
    pub(super) digest: String,
    /// Its name with the tag.
    name: Value,
    manifest: Value,
    config: Value,
    /// Each file as `-rwxr-xr-x 0/0 usr/bin/tapio`.
    pub(super) files: Vec<String>,
    /// Bytes of all files.
    pub(super) bytes: u64,
}

impl Archive {
    /// Reads an archive. It is unpacked into a directory, which is emptied first.
    pub(super) fn read(archive: &Path, directory: &Path) -> Result<Self> {
        empty(directory)?;
        machine::run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(directory))?;
        let index = json_of(&directory.join("index.json"))?;
        let [one] = index["manifests"].as_array().map(Vec::as_slice).unwrap_or_default() else {
            bail!("{} holds not one image: {index}", archive.display());
        };
        let digest = one["digest"].as_str().context("the manifest has no digest")?;
        let blob = |digest: &Value| {
            let digest = digest.as_str().and_then(|digest| digest.strip_prefix("sha256:"));
            Ok::<_, anyhow::Error>(
                directory.join("blobs/sha256").join(digest.context("a part has no digest")?),
            )
        };
        let manifest = json_of(&blob(&one["digest"])?)?;
        let config = json_of(&blob(&manifest["config"]["digest"])?)?;
        let (mut files, mut bytes) = (Vec::new(), 0);
        for layer in manifest["layers"].as_array().context("the manifest has no layers")? {
            let layer = blob(&layer["digest"])?;
            let listed = machine::output(Command::new("tar").args(["--numeric-owner", "-tvf"]).arg(&layer))?;
            // Lines such as `-rwxr-xr-x 0/0 15221248 2026-11-21 05:29 usr/bin/tapio`; skip directories,
            // because their files imply them.
            for line in listed.lines().filter(|line| !line.starts_with('d')) {
                let fields: Vec<_> = line.split_whitespace().collect();
                let [mode, owner, size, .., path] = fields.as_slice() else { bail!("odd file {line}") };
                bytes += size.parse::<u64>().with_context(|| format!("odd file {line}"))?;
                files.push(format!("{mode} {owner} {path}"));
            }
        }
        // The key of OCI, and the key of containerd, which buildx sets to the whole name.
        let annotations = &one["annotations"];
        let name = match &annotations["io.containerd.image.name"] {
            Value::Null => &annotations["org.opencontainers.image.ref.name"],
            name => name,
        };
        Ok(Self { digest: digest.to_owned(), name: name.clone(), manifest, config, files, bytes })
    }

    /// Compares the image with the request.
    pub(super) fn check(&self, request: &Request) -> Result<()> {
        let config = &self.config["config"];
        let same = |what: &str, found: &Value, wanted: Value| {
            ensure!(*found == wanted, "the image's {what} is {found}, not {wanted}");
            Ok(())
        };
        same("name", &self.name, json!(request.tag))?;
        same("architecture", &self.config["architecture"], json!(request.arch.name()))?;
        let (binary, materials) = (request.program.path(), request.program.materials());
        same("user", &config["User"], json!(request.program.user))?;
        same("entrypoint", &config["Entrypoint"], json!([format!("/{binary}")]))?;
        for (label, value) in &request.labels {
            same(label, &config["Labels"][label], json!(value))?;
            same(label, &self.manifest["annotations"][label], json!(value))?;
        }
        let wanted = [format!("-rwxr-xr-x 0/0 {binary}"), format!("-rw-r--r-- 0/0 {materials}")];
        ensure!(self.files == wanted, "the image's files are {:?}, not {wanted:?}", self.files);
        ensure!(
            self.bytes <= request.limit,
            "the image has {} bytes, more than {}",
            self.bytes,
            request.limit
        );
        Ok(())
    }
}

fn json_of(path: &Path) -> Result<Value> {
    let bytes = fs::read(path).with_context(|| format!("the archive has no {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is no JSON", path.display()))
}
