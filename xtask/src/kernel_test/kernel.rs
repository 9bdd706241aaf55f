//! Finds, downloads and caches a distribution's kernel.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context as _, Result, bail};

use super::cache;
use super::packages::{Packages, remove};
use crate::arch::Arch;

/// Selects the newest available kernel.
pub(super) const NEWEST: &str = "newest";

/// The Debian releases with kernels, the oldest first.
const RELEASES: &[&str] =
    &["bullseye", "bookworm", "bookworm-backports", "trixie", "trixie-backports", "sid"];

/// Modules that the tests need and that Debian does not build in.
const MODULES: &[&str] = &["veth", "sch_netem", "sch_tbf", "loop"];

/// A kernel in the cache.
pub(super) struct Kernel {
    /// The name it was requested by: `6.1`, `newest`.
    pub(super) query: String,
    pub(super) arch: Arch,
    /// Its own release string.
    pub(super) release: String,
    /// The image to boot.
    pub(super) image: PathBuf,
    /// Modules in load order.
    pub(super) modules: Vec<PathBuf>,
}

impl Kernel {
    /// Returns the kernel of this version, or the newest one with this prefix. It is downloaded unless it is
    /// cached, and always with `update`.
    pub(super) fn get(query: &str, arch: Arch, update: bool) -> Result<Self> {
        let directory = cache()?.join(format!("{query}-{}", arch.name()));
        // One that was kept with other modules is downloaded again.
        let is_kept = fs::read_to_string(directory.join("kept")).is_ok_and(|kept| kept == MODULES.join(" "));
        if update || !is_kept {
            eprintln!("kernel-test: downloading kernel {query} for {}", arch.name());
            remove(&directory)?;
            download(query, arch, &directory)
                .with_context(|| format!("kernel {query} for {} cannot be had", arch.name()))?;
        }
        let release = fs::read_to_string(directory.join("release"))?;
        let mut modules: Vec<PathBuf> =
            fs::read_dir(directory.join("modules"))?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        modules.sort();
        Ok(Self { query: query.to_owned(), arch, release, image: directory.join("vmlinuz"), modules })
    }
}

fn download(query: &str, arch: Arch, directory: &Path) -> Result<()> {
    let packages = Packages::of("kernels", RELEASES, arch)?;
    let all = packages.names("linux-")?;
    let images = candidates(query, arch, &all);
    if images.is_empty() {
        bail!("Debian has no such kernel: it has {}", candidates(NEWEST, arch, &all).join(", "));
    }
    let unpacked = directory.join("unpacked");
    for release in images {
        match fetch(&packages, &all, &release, &unpacked) {
            Ok(()) => {
                keep(&unpacked, &release, directory)?;
                return remove(&unpacked);
            }
            // Repositories list packages they no longer have; a kernel series has several.
            Err(error) => {
                eprintln!("kernel-test: {release} cannot be downloaded, an older one may: {error:#}")
            }
        }
    }
    bail!("none of that version can be downloaded")
}

/// The matching releases, the newest first.
fn candidates(query: &str, arch: Arch, packages: &[String]) -> Vec<String> {
    let suffix = format!("-cloud-{}", arch.name());
    let releases = packages.iter().filter_map(|name| name.strip_prefix("linux-image-"));
    let mut found: Vec<&str> = releases
        .filter(|release| {
            let Some(version) = release.strip_suffix(&suffix) else { return false };
            let rest = version.strip_prefix(query).unwrap_or("0");
            // Other packages have two numbers in their versions, or none.
            numbers(version).len() > 2 && (query == NEWEST || !rest.starts_with(|c: char| c.is_ascii_digit()))
        })
        .collect();
    found.sort_by_key(|release| std::cmp::Reverse(numbers(release)));
    found.into_iter().map(str::to_owned).collect()
}

fn numbers(release: &str) -> Vec<u64> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// Newer kernels are split into several packages, and some exist only unsigned.
fn fetch(packages: &Packages, all: &[String], release: &str, into: &Path) -> Result<()> {
    let parts = ["image", "binary", "modules"].map(|part| format!("linux-{part}-{release}"));
    let parts: Vec<String> = parts.into_iter().filter(|part| all.contains(part)).collect();
    packages.unpack(&parts, into).or_else(|error| {
        let unsigned = format!("linux-image-{release}-unsigned");
        if all.contains(&unsigned) { packages.unpack(&[unsigned], into) } else { Err(error) }
    })
}

/// Stores the image and the modules from an unpacked package.
fn keep(unpacked: &Path, release: &str, directory: &Path) -> Result<()> {
    // Newer packages use /usr/lib.
    let base =
        [unpacked.to_owned(), unpacked.join("usr")].into_iter().find(|base| tree(base, release).is_dir());
    let base = base.with_context(|| format!("the packages of {release} have no modules"))?;
    let images = [unpacked.join(format!("boot/vmlinuz-{release}")), tree(&base, release).join("vmlinuz")];
    let image = images.iter().find(|path| path.is_file()).context("the packages have no image")?;
    copy(image, &directory.join("vmlinuz"))?;
    keep_modules(&base, release, &directory.join("modules"))?;
    fs::write(directory.join("release"), release).context("cannot write the release")?;
    // Written last: its presence means that the rest is complete.
    fs::write(directory.join("kept"), MODULES.join(" ")).context("cannot write what was kept")
}

fn tree(base: &Path, release: &str) -> PathBuf {
    base.join("lib/modules").join(release)
}

/// Copies [`MODULES`] and their dependencies, in load order.
fn keep_modules(base: &Path, release: &str, into: &Path) -> Result<()> {
    let mut depmod = Command::new("depmod");
    let path = env::join_paths(
        env::split_paths(&env::var_os("PATH").unwrap_or_default())
            .chain(["/usr/sbin".into(), "/sbin".into()]),
    )?;
    depmod.env("PATH", path).arg("-b").arg(base).arg(release).stderr(Stdio::null());
    crate::machine::run(&mut depmod)?;
    let tree = tree(base, release);
    let needs = fs::read_to_string(tree.join("modules.dep")).context("depmod wrote no modules.dep")?;
    fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
    for (number, path) in load_order(&needs).iter().enumerate() {
        let file = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
        let kept = into.join(format!("{number:02}-{file}"));
        copy(&tree.join(path), &kept)?;
        if kept.extension().is_some_and(|extension| extension == "xz") {
            crate::machine::run(Command::new("xz").arg("--decompress").arg(&kept))?;
        }
    }
    Ok(())
}

/// Paths from `modules.dep`, with lines of the form `path: dependency dependency`. The first module to load
/// is last in its line. A module that is not listed is built in.
fn load_order(needs: &str) -> Vec<&str> {
    let mut order = Vec::new();
    for module in MODULES {
        let lines = needs.lines().filter_map(|line| line.split_once(':'));
        let line = lines.into_iter().find(|(path, _)| {
            let file = path.rsplit('/').next().unwrap_or_default();
            file.split('.').next() == Some(module)
        });
        let Some((path, needed)) = line else { continue };
        for path in needed.split_whitespace().rev().chain([path]) {
            if !order.contains(&path) {
                order.push(path);
            }
        }
    }
    order
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(|_| ())
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_of_a_version_comes_first() {
        let packages = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64-unsigned",
            "linux-image-6.1.0-56-amd64",
            "linux-image-6.12.117+deb13-cloud-amd64",
            "linux-image-cloud-amd64",
            "linux-image-6.1-cloud-amd64",
            "linux-image-7.2.13+deb14-cloud-arm64",
        ]
        .map(str::to_owned);
        let found = |query| candidates(query, Arch::Amd64, &packages);
        assert_eq!(found("6.1"), ["6.1.0-56-cloud-amd64", "6.1.0-9-cloud-amd64"]);
        assert_eq!(found("6.1.0-9"), ["6.1.0-9-cloud-amd64"]);
        assert_eq!(found(NEWEST)[0], "6.12.117+deb13-cloud-amd64");
        assert_eq!(found("6").len(), 3);
        assert!(found("5.10").is_empty());
    }

    #[test]
    fn modules_come_after_what_they_need() {
        let needs = "kernel/net/sched/sch_tbf.ko:\n\
                     kernel/drivers/net/veth.ko.xz: kernel/b.ko.xz kernel/a.ko.xz\n\
                     kernel/net/sched/sch_netem.ko: kernel/a.ko.xz\n";
        let order = [
            "kernel/a.ko.xz",
            "kernel/b.ko.xz",
            "kernel/drivers/net/veth.ko.xz",
            "kernel/net/sched/sch_netem.ko",
            "kernel/net/sched/sch_tbf.ko",
        ];
        assert_eq!(load_order(needs), order);
    }
}
