//! The initramfs of a guest: the test programs, the tools they call, and an init process.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use cpio::newc::{self, Builder};

use super::cache;
use super::packages::Packages;
use crate::{arch::Arch, executable, portable};

/// Packages with the tools that the tests call.
const TOOLS: &[&str] = &["busybox-static", "iproute2", "util-linux"];
/// The Debian release of the tools. It need not match the kernel.
const RELEASE: &str = "bookworm";
/// Parts of those packages that a guest does not need.
const LEFT_OUT: &[&str] = &["usr/share", "usr/include", "var", "usr/lib/systemd", "lib/systemd"];

const INIT: &str = include_str!("init.sh");

// include/uapi/linux/stat.h
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// The programs under test, for one architecture.
pub(super) struct Programs {
    /// The kernel tests.
    pub(super) tests: PathBuf,
    /// The agent. The tests look for it at its build path.
    pub(super) tapio: PathBuf,
    /// The directory with the tools.
    tools: PathBuf,
}

impl Programs {
    pub(super) fn build(arch: Arch) -> Result<Self> {
        let mut cargo = portable::cargo(arch, "test", portable::QUICK)?;
        cargo.args(["--package", "tapio-agent", "--test", "kernel"]);
        let built = executable::build(cargo)?;
        let tests = built.into_iter().next().context("cargo built no kernel tests")?.path;
        Ok(Self { tests, tapio: portable::agent(arch, portable::QUICK)?, tools: tools(arch)? })
    }
}

/// The tools for an architecture, downloaded unless they are cached.
fn tools(arch: Arch) -> Result<PathBuf> {
    let directory = cache()?.join(format!("tools-{}", arch.name()));
    if !directory.is_dir() {
        eprintln!("kernel-test: downloading {} for {}", TOOLS.join(", "), arch.name());
        let partial = directory.with_extension("partial");
        Packages::of("tools", &[RELEASE], arch)?.unpack_with_dependencies(TOOLS, &partial)?;
        fs::rename(&partial, &directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    Ok(directory)
}

/// Writes an initramfs that runs these steps, which are lines of a shell script.
pub(super) fn write(path: &Path, modules: &[PathBuf], programs: &Programs, steps: &str) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut archive = Archive { out: BufWriter::new(file), inode: 0 };
    archive.directory("dev", 0o755)?;
    // The init process writes to it before /dev is mounted.
    archive.add("dev/console", CHARACTER_DEVICE | 0o600, Some((5, 1)), &[])?;
    archive.tree(&programs.tools, Path::new(""))?;
    archive.directory("modules", 0o755)?;
    for module in modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("modules/{name}"), module)?;
    }
    for program in [&programs.tests, &programs.tapio] {
        archive.file_with_parents(program)?;
    }
    archive.add("init", FILE | 0o755, None, INIT.as_bytes())?;
    archive.add("steps", FILE | 0o644, None, steps.as_bytes())?;
    archive.end().with_context(|| format!("cannot write {}", path.display()))
}

/// An archive in the kernel's format (Documentation/driver-api/early-userspace/buffer-format.rst).
struct Archive {
    out: BufWriter<File>,
    inode: u32,
}

impl Archive {
    fn tree(&mut self, root: &Path, below: &Path) -> Result<()> {
        let directory = root.join(below);
        let entries =
            fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = below.join(entry.file_name());
            if LEFT_OUT.iter().any(|left_out| path == Path::new(left_out)) {
                continue;
            }
            let name = path.to_string_lossy();
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                self.directory(&name, metadata.mode() & 0o7777)?;
                self.tree(root, &path)?;
            } else if metadata.is_symlink() {
                let to = fs::read_link(entry.path())?;
                self.add(&name, LINK | 0o777, None, to.to_string_lossy().as_bytes())?;
            } else {
                self.file(&name, &entry.path())?;
            }
        }
        Ok(())
    }

    fn directory(&mut self, name: &str, mode: u32) -> Result<()> {
        self.add(name, DIRECTORY | mode, None, &[])
    }

    /// Adds a file at the same path as on this machine.
    fn file_with_parents(&mut self, path: &Path) -> Result<()> {
        let parents: Vec<_> = path.ancestors().skip(1).collect();
        for parent in parents.iter().rev().map(|parent| parent.to_string_lossy()) {
            if let Some(name) = parent.strip_prefix('/').filter(|name| !name.is_empty()) {
                self.directory(name, 0o755)?;
            }
        }
        self.file(path.to_string_lossy().trim_start_matches('/'), path)
    }

    fn file(&mut self, name: &str, path: &Path) -> Result<()> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mode = fs::metadata(path)?.permissions().mode() & 0o7777;
        self.add(name, FILE | mode, None, &bytes)
    }

    fn add(&mut self, name: &str, mode: u32, device: Option<(u32, u32)>, bytes: &[u8]) -> Result<()> {
        self.inode += 1;
        let (major, minor) = device.unwrap_or_default();
        let entry =
            Builder::new(name).ino(self.inode).nlink(1).mode(mode).rdev_major(major).rdev_minor(minor);
        let size = u32::try_from(bytes.len()).with_context(|| format!("{name} is too large"))?;
        let mut writer = entry.write(&mut self.out, size);
        writer.write_all(bytes).with_context(|| format!("cannot pack {name}"))?;
        writer.finish()?;
        Ok(())
    }

    fn end(mut self) -> io::Result<()> {
        newc::trailer(&mut self.out)?;
        self.out.flush()
    }
}
