//! `cargo xtask image`: builds the container image of the agent or of the server from a static binary.
//!
//! The image contains the binary and its bill of materials. Version and dates come from the commit, so the
//! same commit, compilers and builder produce the same bytes in any directory. The task reads the finished
//! image back and checks it.

mod archive;
mod builder;
mod materials;
mod program;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use self::archive::Archive;
use self::builder::Request;
pub(crate) use self::program::{AGENT, Program, SERVER};
use crate::arch::Arch;
use crate::{machine, portable, setup, toolchain};

/// The profile of `Cargo.toml` for release builds.
pub(crate) const PROFILE: &str = "image";

/// The parsed arguments.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    program: Program,
    arch: Arch,
    tag: Option<String>,
    output: Option<PathBuf>,
}

/// The commit that the image is built from.
pub(crate) struct Commit {
    /// Its id, with the suffix `-dirty` if files differ from it.
    revision: String,
    /// Seconds since 1970.
    pub(crate) time: u64,
    /// The same in RFC 3339 format.
    date: String,
}

/// `image [agent|server] [--arch=amd64|arm64] [--tag=NAME:TAG] [--output=ARCHIVE]`
pub(crate) fn task(arguments: &[String]) -> Result<()> {
    let options = Options::parse(arguments)?;
    if options.program == AGENT {
        // For the kernel programs.
        setup::task(&[])?;
    }
    make(options, PROFILE)
}

/// Builds a program's image for this machine's architecture with the profile of the tests. The agent's binary
/// exists already when they ran; it is larger than the release build.
pub(crate) fn of_tests(program: Program, output: PathBuf) -> Result<()> {
    make(Options { program, arch: Arch::native()?, tag: None, output: Some(output) }, portable::QUICK)
}

/// Builds the release image of a program for this machine's architecture.
pub(crate) fn shipped(program: Program, output: PathBuf) -> Result<()> {
    make(Options { program, arch: Arch::native()?, tag: None, output: Some(output) }, PROFILE)
}

fn make(Options { program, arch, tag, output }: Options, profile: &str) -> Result<()> {
    let commit = Commit::here()?;
    let name = program.name;
    let directory = machine::target_directory()?.join("image").join(name).join(arch.name());
    let context = directory.join("context");
    empty(&context)?;

    let binary = binary(program, arch, profile)?;
    fs::copy(&binary, context.join(name)).with_context(|| format!("cannot copy {}", binary.display()))?;
    let materials = materials::of(program, &arch.target(), &commit.revision, &commit.date)?;
    fs::write(context.join(format!("{name}.spdx.json")), materials)
        .context("cannot write the bill of materials")?;

    let version = env!("CARGO_PKG_VERSION");
    let request = Request {
        program,
        arch,
        tag: tag.unwrap_or_else(|| format!("localhost/{name}:{version}")),
        labels: labels(program, version, &commit),
        time: commit.time,
        limit: if profile == PROFILE { program.limit } else { u64::MAX },
        context,
        scratch: directory.join("scratch"),
        archive: output.unwrap_or_else(|| directory.join(format!("{name}.tar"))),
    };
    request.build()?;
    let image = Archive::read(&request.archive, &request.scratch)?;
    image.check(&request)?;
    let Archive { digest, bytes, .. } = image;
    println!("{} {digest} {bytes} bytes, {}", request.tag, request.archive.display());
    Ok(())
}

/// <https://github.com/opencontainers/image-spec/blob/main/annotations.md>
fn labels(program: Program, version: &str, commit: &Commit) -> Vec<(&'static str, String)> {
    vec![
        ("org.opencontainers.image.title", program.name.to_owned()),
        ("org.opencontainers.image.description", program.about.to_owned()),
        ("org.opencontainers.image.version", version.to_owned()),
        ("org.opencontainers.image.revision", commit.revision.clone()),
        ("org.opencontainers.image.created", commit.date.clone()),
        ("org.opencontainers.image.licenses", "Apache-2.0".to_owned()),
    ]
}

/// Builds a program. A release build contains no paths of this machine.
pub(crate) fn built(package: &str, name: &str, arch: Arch, profile: &str) -> Result<PathBuf> {
    let mut cargo = portable::cargo(arch, "build", profile)?;
    cargo.args(["--package", package, "--bin", name]);
    if profile == PROFILE {
        cargo.env("CARGO_ENCODED_RUSTFLAGS", remapped()?).env_remove("RUSTFLAGS");
    }
    machine::run(&mut cargo)?;
    portable::binary(arch, profile, name)
}

/// The program of an image, no larger than it may be.
fn binary(program: Program, arch: Arch, profile: &str) -> Result<PathBuf> {
    let Program { name, package, limit, .. } = program;
    let binary = built(package, name, arch, profile)?;
    let bytes = binary.metadata().with_context(|| binary.display().to_string())?.len();
    if profile == PROFILE && bytes > limit {
        bail!("{name} has {bytes} bytes, more than {limit}: see what is new in `cargo tree -p {package}`");
    }
    Ok(binary)
}

/// Flags that remove build paths. They replace the user's flags, which would produce another binary.
fn remapped() -> Result<OsString> {
    let mut flags: Vec<OsString> = vec!["-C".into(), "target-feature=+crt-static".into()];
    flags.extend(toolchain::remapped());
    // Generated sources are in the target directory.
    flags.push(toolchain::remap(&machine::target_directory()?, "/tapio/target"));
    // Flags are separated by 0x1f, so that a path may contain spaces.
    Ok(flags.join("\u{1f}".as_ref()))
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self { program: AGENT, arch: Arch::native()?, tag: None, output: None };
        let mut arguments = arguments;
        if let Some((name, rest)) = arguments.split_first().filter(|(name, _)| !name.starts_with('-')) {
            (options.program, arguments) = (Program::named(name)?, rest);
        }
        for argument in arguments {
            match argument.split_once('=') {
                Some(("--arch", name)) => options.arch = Arch::named(name)?,
                Some(("--tag", tag)) => options.tag = Some(checked_tag(tag)?.to_owned()),
                Some(("--output", file)) if !file.is_empty() && !file.contains(':') => {
                    options.output = Some(std::path::absolute(file).context("--output is no path")?);
                }
                Some(("--output", file)) => {
                    bail!("--output={file}: name a file, without a colon in its name")
                }
                _ => bail!(
                    "image does not know `{argument}`; it takes agent or server, then --arch, --tag and --output, each with ="
                ),
            }
        }
        Ok(options)
    }
}

/// Checks a tag such as `registry.example/tapio:1.0`: both parts must be present and contain only characters
/// allowed in a reference.
fn checked_tag(tag: &str) -> Result<&str> {
    let parts = tag.rsplit_once(':').filter(|(name, tag)| !name.is_empty() && !tag.contains('/'));
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name = |c: char| (allowed(c) && !c.is_ascii_uppercase()) || c == '/' || c == ':';
    match parts {
        Some((named, tagged))
            if named.chars().all(name) && !tagged.is_empty() && tagged.chars().all(allowed) =>
        {
            Ok(tag)
        }
        _ => bail!(
            "--tag={tag} is not NAME:TAG such as registry.example/tapio:0.1.0, the name in small letters"
        ),
    }
}

impl Commit {
    /// The commit of the workspace.
    pub(crate) fn here() -> Result<Self> {
        let git = |arguments: &[&str]| {
            let mut git = Command::new("git");
            git.args(arguments).current_dir(machine::workspace()?);
            let said = machine::output(&mut git).context("what is shipped is made from a git clone")?;
            Ok::<_, anyhow::Error>(said.trim().to_owned())
        };
        let mut revision = git(&["rev-parse", "HEAD"])?;
        if !git(&["status", "--porcelain"])?.is_empty() {
            eprintln!("files differ from the commit, which `revision` then says");
            revision.push_str("-dirty");
        }
        // <https://reproducible-builds.org/specs/source-date-epoch/>
        let time = match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(set) => set,
            Err(_) => git(&["log", "-1", "--format=%ct"])?,
        };
        let time = time.parse().with_context(|| format!("SOURCE_DATE_EPOCH is `{time}`, not seconds"))?;
        let date = format!("--date=@{time}");
        let date = machine::output(Command::new("date").args(["--utc", &date, "+%Y-%m-%dT%H:%M:%SZ"]))?;
        Ok(Self { revision, time, date: date.trim().to_owned() })
    }
}

/// Creates a directory, or empties it.
pub(crate) fn empty(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options> {
        Options::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_asked_for() -> Result<()> {
        let options = parse(&[
            "server",
            "--arch=arm64",
            "--tag=registry.example:5000/ops/tapio:v1_A",
            "--output=/tmp/i.tar",
        ])?;
        assert_eq!((options.program, options.arch), (SERVER, Arch::Arm64));
        assert_eq!(options.tag.as_deref(), Some("registry.example:5000/ops/tapio:v1_A"));
        assert_eq!(options.output, Some("/tmp/i.tar".into()));
        assert_eq!(parse(&[])?, Options { program: AGENT, arch: Arch::native()?, tag: None, output: None });
        for wrong in [
            "--arch=mips",
            "--tag=tapio",
            "--tag=registry.example:5000/tapio",
            "--tag=:1",
            "--tag=Tapio:1",
            "--tag=a b:1",
            "--output=",
            "--output=a:b",
            "--push",
            "client",
        ] {
            assert!(parse(&[wrong]).is_err(), "{wrong}");
        }
        Ok(())
    }

    /// Uses a placeholder file in place of the agent.
    #[test]
    fn an_image_is_what_it_should_be_and_the_same_again() -> Result<()> {
        if let Some(reason) = builder::hindrance() {
            println!("SKIP an_image_is_what_it_should_be_and_the_same_again: {reason}");
            return Ok(());
        }
        let commit =
            Commit { revision: "0123".into(), time: 1_795_000_000, date: "2026-11-18T11:06:40Z".into() };
        let mut digests = Vec::new();
        for (program, arch, place) in [
            (AGENT, Arch::Amd64, "a"),
            (AGENT, Arch::Amd64, "b"),
            (AGENT, Arch::Arm64, "c"),
            (SERVER, Arch::Amd64, "d"),
        ] {
            let directory = std::env::temp_dir().join(format!("tapio-image-{}-{place}", std::process::id()));
            let request = Request {
                program,
                arch,
                tag: "localhost/tapio:test".into(),
                labels: labels(program, "1.2.3", &commit),
                time: commit.time,
                limit: program.limit,
                context: directory.join("context"),
                scratch: directory.join("scratch"),
                archive: directory.join("tapio.tar"),
            };
            let made = made(&request);
            fs::remove_dir_all(&directory)?;
            digests.push(made?);
        }
        assert_eq!(digests[0], digests[1], "made twice");
        assert_ne!(digests[0], digests[2], "another architecture");
        Ok(())
    }

    fn made(request: &Request) -> Result<String> {
        empty(&request.context)?;
        let name = request.program.name;
        fs::write(request.context.join(name), "\x7fELF")?;
        fs::write(request.context.join(format!("{name}.spdx.json")), "{}")?;
        request.build()?;
        let image = Archive::read(&request.archive, &request.scratch)?;
        image.check(request)?;

        // The check names each difference.
        let differs = |arch, tag: &str, labels| Request { arch, tag: tag.into(), labels, ..request.clone() };
        let other = if request.arch == Arch::Amd64 { Arch::Arm64 } else { Arch::Amd64 };
        let wanted = vec![("org.opencontainers.image.version", "9".to_owned())];
        for (request, named) in [
            (differs(other, &request.tag, Vec::new()), "architecture"),
            (differs(request.arch, "localhost/other:1", Vec::new()), "localhost/other:1"),
            (differs(request.arch, &request.tag, wanted), "org.opencontainers.image.version"),
        ] {
            let error = image.check(&request).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(named), "{named}: {error}");
        }
        let mut large = image.clone();
        large.bytes = request.limit + 1;
        assert!(large.check(request).is_err());
        let mut more = image.clone();
        more.files.push("-rw-r--r-- 0/0 etc/x".into());
        assert!(more.check(request).is_err());
        Ok(image.digest)
    }
}
