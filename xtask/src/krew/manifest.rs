//! The manifest: filled in from the template, and checked by krew's rules:
//! <https://github.com/kubernetes-sigs/krew/blob/master/internal/index/validation/validate.go>.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::{LICENSE, PROGRAM};
use crate::machine;

const PLATFORMS: &str = "  platforms:\n";
const PLATFORM: &str = "    - selector:";
/// The longest short description that krew's own guide allows.
const SHORT: usize = 50;

/// What a manifest says of a release.
pub(super) struct Release<'r> {
    pub(super) version: &'r str,
    pub(super) homepage: &'r str,
    /// Below which archives are, in a directory for each version.
    pub(super) releases: &'r str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Manifest {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Spec {
    version: String,
    homepage: String,
    short_description: String,
    description: String,
    caveats: String,
    platforms: Vec<Platform>,
}

/// An archive for a platform.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Platform {
    selector: Selector,
    pub(super) uri: String,
    pub(super) sha256: String,
    files: Vec<Copied>,
    bin: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Selector {
    match_labels: BTreeMap<String, String>,
}

/// A file of the archive, and the directory that krew copies it to.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Copied {
    from: String,
    to: String,
}

/// Fills in the template for the archives in a directory. Returns the names of those that are not there, too, whose platforms are left
/// out.
pub(super) fn filled(
    template: &str,
    release: &Release<'_>,
    archives: &Path,
) -> Result<(String, Vec<String>)> {
    // The comment is about the template.
    let start = template.find("apiVersion:").context("the template has no apiVersion")?;
    let (head, platforms) =
        template[start..].split_once(PLATFORMS).context("the template has no platforms")?;
    let mut text = format!("{head}{PLATFORMS}");
    let mut missing = Vec::new();
    for platform in platforms.split(PLATFORM).skip(1) {
        let uri = platform.lines().find_map(|line| line.trim().strip_prefix("uri: "));
        let name = name(uri.context("a platform has no uri")?).to_owned();
        let archive = archives.join(&name);
        if !archive.is_file() {
            missing.push(name);
            continue;
        }
        let (before, after) = platform.split_once("${SHA256_").context("a platform has no sha256")?;
        let (_, after) = after.split_once('}').context("a platform has no sha256")?;
        text += &format!("{PLATFORM}{before}{}{after}", sum(&archive)?);
    }
    let Release { version, homepage, releases } = release;
    for (name, value) in [("VERSION", version), ("HOMEPAGE", homepage), ("RELEASES", releases)] {
        text = text.replace(&format!("${{{name}}}"), value);
    }
    ensure!(!text.contains("${"), "the template has more to fill in than this step knows: {text}");
    Ok((text, missing))
}

impl Manifest {
    pub(super) fn read(text: &str) -> Result<Self> {
        serde_saphyr::from_str(text).context("the manifest is not as krew reads it")
    }

    /// Checks the manifest, and the archives that it names. Returns the platforms.
    pub(super) fn check(&self, archives: &Path) -> Result<&[Platform]> {
        let Self { api_version, kind, metadata, spec } = self;
        ensure!(api_version == "krew.googlecontainertools.github.com/v1alpha2", "apiVersion: {api_version}");
        ensure!(kind == "Plugin", "kind: {kind}");
        ensure!(metadata.name == "tapio", "name: {}: the file is called tapio.yaml", metadata.name);
        let numbers: Vec<&str> =
            spec.version.strip_prefix('v').map(|version| version.split('.').collect()).unwrap_or_default();
        let is_number = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        ensure!(
            numbers.len() == 3 && numbers.iter().all(is_number),
            "version: {} is not vX.Y.Z",
            spec.version
        );
        let short = &spec.short_description;
        ensure!(
            !short.is_empty()
                && short.len() < SHORT
                && !short.contains(['\r', '\n'])
                && !short.ends_with('.'),
            "shortDescription: {short}: give one line of less than {SHORT} characters without a full stop"
        );
        ensure!(spec.homepage.starts_with("https://"), "homepage: {}", spec.homepage);
        ensure!(
            !spec.description.is_empty() && !spec.caveats.is_empty(),
            "description, caveats: one is empty"
        );
        ensure!(!spec.platforms.is_empty(), "platforms: there is no archive in {}", archives.display());
        let mut seen = BTreeSet::new();
        for platform in &spec.platforms {
            let place = platform.check(archives).with_context(|| format!("platform {}", platform.uri))?;
            ensure!(seen.insert(place), "{place:?}: this platform is there twice");
        }
        Ok(&spec.platforms)
    }
}

impl Platform {
    /// Returns the system and the architecture.
    fn check(&self, archives: &Path) -> Result<(&str, &str)> {
        let labels = &self.selector.match_labels;
        let of = |key: &str, known: &[&str]| {
            let value = labels.get(key).map(String::as_str);
            let value = value.filter(|value| known.contains(value));
            value.with_context(|| format!("selector: {key} has to be one of {}", known.join(", ")))
        };
        let (os, arch) = (of("os", &["darwin", "linux", "windows"])?, of("arch", &["amd64", "arm64"])?);
        ensure!(labels.len() == 2, "selector: krew knows os and arch only: {labels:?}");
        let name = name(&self.uri);
        ensure!(
            self.uri.starts_with("https://") && name.starts_with(&format!("{PROGRAM}-{os}-{arch}.")),
            "uri: {} is not the archive of {os} {arch}",
            self.uri
        );
        let program = if os == "windows" { format!("{PROGRAM}.exe") } else { PROGRAM.to_owned() };
        ensure!(self.bin == program, "bin: {} is not {program}", self.bin);
        let archive = archives.join(name);
        let sum = sum(&archive)?;
        ensure!(self.sha256 == sum, "sha256: {} is not that of {}: {sum}", self.sha256, archive.display());
        let has = names(&archive)?;
        for needed in [program.as_str(), LICENSE] {
            let is_copied = self.files.iter().any(|file| file.from == needed && file.to == ".");
            ensure!(is_copied, "files: {needed} is not copied to .");
            ensure!(has.lines().any(|name| name == needed), "{} has no {needed}", archive.display());
        }
        Ok((os, arch))
    }
}

/// The name of the archive at an address.
fn name(uri: &str) -> &str {
    uri.rsplit('/').next().unwrap_or(uri)
}

/// SHA-256 of a file.
fn sum(file: &Path) -> Result<String> {
    let said = machine::output(Command::new("sha256sum").arg(file))?;
    let sum = said.trim_start_matches('\\').split(' ').next().unwrap_or_default();
    ensure!(sum.len() == 64, "sha256sum says `{said}`");
    Ok(sum.to_owned())
}

/// The names of the files in an archive, one a line.
fn names(archive: &Path) -> Result<String> {
    match archive.extension().is_some_and(|end| end == "zip") {
        true => machine::output(Command::new("unzip").arg("-Z1").arg(archive)),
        false => machine::output(Command::new("tar").arg("-tzf").arg(archive)),
    }
}
