//! `cargo xtask krew`: archives of the plugin `kubectl tapio`, and the manifest that krew installs it by.
//!
//! An archive has the program and the licence, and the times of the commit, so that the same commit and compilers give the same sum.
//! The manifest is `deploy/krew/tapio.yaml`, filled in for the archives that there are, and checked by krew's rules.

mod manifest;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use self::manifest::{Manifest, Release};
use crate::arch::Arch;
use crate::image::{self, Commit};
use crate::{go, machine};

const PACKAGE: &str = "tapio-cli";
const PROGRAM: &str = "kubectl-tapio";
const LICENSE: &str = "LICENSE";
const TEMPLATE: &str = "deploy/krew/tapio.yaml";

/// The parsed arguments.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    homepage: String,
    releases: String,
    archs: Vec<Arch>,
    output: Option<PathBuf>,
}

/// `krew --homepage=URL --releases=URL [--arch=amd64|arm64] [--output=DIR]`
pub(crate) fn task(arguments: &[String]) -> Result<()> {
    let Options { homepage, releases, archs, output } = Options::parse(arguments)?;
    let (workspace, time) = (machine::workspace()?, Commit::here()?.time);
    let target = machine::target_directory()?.join("krew");
    let output = output.unwrap_or_else(|| target.join("archives"));
    fs::create_dir_all(&output).with_context(|| format!("cannot make {}", output.display()))?;
    for arch in archs {
        let program = image::built(PACKAGE, PROGRAM, arch, image::PROFILE)?;
        let archive = output.join(format!("{PROGRAM}-linux-{}.tar.gz", arch.name()));
        pack(&archive, &program, &workspace.join(LICENSE), &target.join(arch.name()), time)?;
    }
    let template = workspace.join(TEMPLATE);
    let template =
        fs::read_to_string(&template).with_context(|| format!("cannot read {}", template.display()))?;
    let release = Release { version: env!("CARGO_PKG_VERSION"), homepage: &homepage, releases: &releases };
    let (filled, missing) = manifest::filled(&template, &release, &output)?;
    let manifest = output.join("tapio.yaml");
    fs::write(&manifest, &filled).with_context(|| format!("cannot write {}", manifest.display()))?;
    for platform in Manifest::read(&filled)?.check(&output)? {
        println!("{} {}", platform.sha256, platform.uri);
    }
    for archive in missing {
        println!("left out: there is no {}", output.join(archive).display());
    }
    println!("kubectl krew install --manifest={} --archive=ARCHIVE", manifest.display());
    Ok(())
}

/// Makes the archive for this machine, has krew install it, and runs what krew installed.
pub(crate) fn installed() -> Result<()> {
    let directory = machine::target_directory()?.join("krew/installed");
    image::empty(&directory)?;
    let krew = directory.join("krew");
    go::build(Path::new("krew"), "sigs.k8s.io/krew/cmd/krew", None, &krew)?;
    let arch = Arch::native()?;
    task(&[
        "--homepage=https://example.com".into(),
        "--releases=https://example.com".into(),
        format!("--arch={}", arch.name()),
        format!("--output={}", directory.display()),
    ])?;
    let root = directory.join("root");
    let mut install = Command::new(krew);
    install.arg("install").arg(format!("--manifest={}", directory.join("tapio.yaml").display()));
    let archive = directory.join(format!("{PROGRAM}-linux-{}.tar.gz", arch.name()));
    install.arg(format!("--archive={}", archive.display())).env("KREW_ROOT", &root);
    machine::run(&mut install)?;
    machine::run(Command::new(root.join("bin").join(PROGRAM)).arg("--version"))
}

/// Packs the program and the licence.
fn pack(archive: &Path, program: &Path, license: &Path, directory: &Path, time: u64) -> Result<()> {
    image::empty(directory)?;
    for (from, name, mode) in [(program, PROGRAM, 0o755), (license, LICENSE, 0o644)] {
        let to = directory.join(name);
        fs::copy(from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        fs::set_permissions(&to, Permissions::from_mode(mode))
            .with_context(|| format!("cannot change {}", to.display()))?;
    }
    let mut tar = Command::new("tar");
    tar.args([
        "--format=ustar",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--use-compress-program=gzip -9n",
    ]);
    tar.arg(format!("--mtime=@{time}")).arg("-cf").arg(archive).arg("-C").arg(directory);
    machine::run(tar.args([PROGRAM, LICENSE]))
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let (mut homepage, mut releases, mut archs, mut output) = (None, None, Arch::ALL.to_vec(), None);
        for argument in arguments {
            match argument.split_once('=') {
                Some(("--homepage", url)) => homepage = Some(checked("--homepage", url)?),
                Some(("--releases", url)) => releases = Some(checked("--releases", url)?),
                Some(("--arch", name)) => archs = vec![Arch::named(name)?],
                Some(("--output", directory)) if !directory.is_empty() => {
                    output = Some(std::path::absolute(directory).context("--output is no path")?);
                }
                _ => bail!(
                    "krew does not know `{argument}`; it takes --homepage, --releases, --arch and --output, each with ="
                ),
            }
        }
        let needed = "such as https://HOST/PATH: krew's manifest says where the plugin is from";
        Ok(Self {
            homepage: homepage.with_context(|| format!("krew needs --homepage=URL {needed}"))?,
            releases: releases.with_context(|| format!("krew needs --releases=URL {needed}"))?,
            archs,
            output,
        })
    }
}

fn checked(name: &str, url: &str) -> Result<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ":/._~%-".contains(c);
    let is_url =
        url.strip_prefix("https://").is_some_and(|rest| !rest.is_empty()) && url.chars().all(is_plain);
    ensure!(is_url, "{name}={url}: give https://HOST/PATH");
    Ok(url.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: u64 = 1_795_000_000;

    fn parse(words: &[&str]) -> Result<Options> {
        Options::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_asked_for() -> Result<()> {
        let needed = ["--homepage=https://tapio.example", "--releases=https://tapio.example/releases/"];
        let options = parse(&[&needed[..], &["--arch=arm64", "--output=/tmp/krew"]].concat())?;
        assert_eq!(
            (options.releases.as_str(), options.archs),
            ("https://tapio.example/releases", vec![Arch::Arm64])
        );
        assert_eq!(options.output, Some("/tmp/krew".into()));
        assert_eq!(parse(&needed)?.archs, Arch::ALL);
        for wrong in [
            "--homepage=http://tapio.example",
            "--releases=https://",
            "--releases=https://a/${B}",
            "--arch=mips",
            "--output=",
            "linux",
        ] {
            assert!(parse(&[&needed[..], &[wrong]].concat()).is_err(), "{wrong}");
        }
        assert!(parse(&needed[..1]).is_err() && parse(&needed[1..]).is_err());
        Ok(())
    }

    /// With placeholders in place of the programs.
    #[test]
    fn the_manifest_has_the_archives_that_there_are_and_follows_krew_s_rules() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let output = directory.path().join("archives");
        fs::create_dir(&output)?;
        let program = directory.path().join("built");
        fs::write(&program, "\x7fELF")?;
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let packed = |archive: &Path| {
            pack(archive, &program, &workspace.join(LICENSE), &directory.path().join("scratch"), TIME)
        };
        let archive = |arch: &str| output.join(format!("{PROGRAM}-linux-{arch}.tar.gz"));
        for arch in ["amd64", "arm64"] {
            packed(&archive(arch))?;
        }
        let again = directory.path().join("again.tar.gz");
        packed(&again)?;
        assert_eq!(fs::read(&again)?, fs::read(archive("amd64"))?, "made twice");

        let template = fs::read_to_string(workspace.join(TEMPLATE))?;
        let release = Release {
            version: "1.2.3",
            homepage: "https://tapio.example",
            releases: "https://tapio.example/releases",
        };
        let (filled, missing) = manifest::filled(&template, &release, &output)?;
        let others = ["darwin-amd64.tar.gz", "darwin-arm64.tar.gz", "windows-amd64.zip"];
        assert_eq!(missing, others.map(|other| format!("{PROGRAM}-{other}")));
        assert!(!filled.contains('$') && filled.starts_with("apiVersion:"), "{filled}");
        let manifest = Manifest::read(&filled)?;
        let platforms = manifest.check(&output)?;
        let uris: Vec<&str> = platforms.iter().map(|platform| platform.uri.as_str()).collect();
        let uri = |arch: &str| format!("https://tapio.example/releases/v1.2.3/{PROGRAM}-linux-{arch}.tar.gz");
        assert_eq!(uris, [uri("amd64"), uri("arm64")]);

        // Each rule refuses what it is for.
        for (from, to, says) in [
            ("v1alpha2", "v1", "apiVersion"),
            ("kind: Plugin", "kind: Plug", "kind"),
            ("name: tapio", "name: tap", "name"),
            ("v1.2.3", "1.2.3", "version"),
            ("shortDescription: W", "shortDescription: |\n    W\n    w", "shortDescription"),
            ("os: linux, arch: amd64", "os: plan9, arch: amd64", "selector"),
            ("os: linux, arch: amd64", "os: linux", "selector"),
            ("os: linux, arch: arm64", "os: linux, arch: amd64", "uri"),
            ("uri: https", "uri: http", "uri"),
            ("sha256: ", "sha256: 0", "sha256"),
            ("bin: kubectl-tapio", "bin: tapio", "bin"),
            ("{from: LICENSE, to: .}", "{from: COPYING, to: .}", "LICENSE"),
            ("homepage:", "home:", "home"),
        ] {
            let wrong = filled.replacen(from, to, 1);
            assert_ne!(wrong, filled, "{from}");
            let refused = Manifest::read(&wrong).and_then(|manifest| manifest.check(&output).map(|_| ()));
            let refused = format!("{:#}", refused.expect_err(to));
            assert!(refused.contains(says), "{to}: {refused}");
        }
        let (_, last) = filled.rsplit_once("    - selector").context("no platform")?;
        let twice = format!("{}\n    - selector{last}", filled.trim_end());
        let refused = Manifest::read(&twice)?.check(&output).map(|_| ()).expect_err("twice");
        assert!(refused.to_string().contains("twice"), "{refused}");
        // So does an archive that is another one, or has something else in it.
        fs::write(archive("arm64"), "")?;
        assert!(manifest.check(&output).is_err());
        machine::run(
            Command::new("tar").arg("-czf").arg(archive("arm64")).arg("-C").arg(&workspace).arg(LICENSE),
        )?;
        let (filled, _) = manifest::filled(&template, &release, &output)?;
        let refused = Manifest::read(&filled)?.check(&output).map(|_| ()).expect_err("no program");
        assert!(format!("{refused:#}").contains("has no kubectl-tapio"), "{refused:#}");
        Ok(())
    }
}
