//! Debian packages of any release and architecture, through apt with a state separate from the machine's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, bail};

use super::cache;
use crate::arch::Arch;
use crate::machine;

/// Variable that names the repository if this machine uses none of Debian's: the URI that ends with
/// `/debian`.
const REPOSITORY: &str = "DEBIAN_REPOSITORY";
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Its lists may be outdated, which the signature does not reveal.
const UNSTABLE: &str = "sid";

/// A package client for some releases and one architecture.
pub(super) struct Packages {
    directory: PathBuf,
}

impl Packages {
    /// With the packages of these releases. `name` separates its state from others.
    pub(super) fn of(name: &str, releases: &[&str], arch: Arch) -> Result<Self> {
        let directory = cache()?.join(format!("apt-{name}-{}", arch.name()));
        for part in ["etc/preferences.d", "parts", "state/lists/partial", "cache/archives/partial"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        if !Path::new(KEYS).is_file() {
            bail!("{KEYS} is missing: the kernels come from Debian; install debian-archive-keyring");
        }
        let Repositories { main, security } = Repositories::find()?;
        let mut sources = String::new();
        for release in releases {
            let stale = if *release == UNSTABLE { " check-valid-until=no" } else { "" };
            let options = format!("[signed-by={KEYS} arch={}{stale}]", arch.name());
            sources.push_str(&format!("deb {options} {main} {release} main\n"));
            if let Some(security) = security.as_ref().filter(|_| is_stable(release)) {
                sources.push_str(&format!("deb {options} {security} {release}-security main\n"));
            }
        }
        write(&directory.join("etc/sources.list"), &sources)?;
        // An empty status file: apt believes that nothing is installed.
        write(&directory.join("status"), "")?;
        let root = directory.display();
        let configuration = format!(
            "Dir::Etc \"{root}/etc\";\nDir::Etc::sourceparts \"{root}/parts\";\nDir::Etc::parts \"{root}/parts\";\n\
             Dir::State \"{root}/state\";\nDir::State::status \"{root}/status\";\nDir::Cache \"{root}/cache\";\n\
             APT::Architecture \"{arch}\";\nAPT::Architectures {{ \"{arch}\"; }};\nAPT::Sandbox::User \"\";\n\
             Acquire::Languages \"none\";\nAcquire::Retries \"3\";\nDebug::NoLocking \"true\";\n",
            arch = arch.name()
        );
        write(&directory.join("apt.conf"), &configuration)?;
        let packages = Self { directory };
        machine::run(packages.command("apt-get").args(["-qq", "update"]))?;
        Ok(packages)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.directory.join("apt.conf")).env("LC_ALL", "C");
        command
    }

    /// The names of all packages with this prefix.
    pub(super) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = machine::output(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Downloads packages and unpacks them into a new directory.
    pub(super) fn unpack(&self, names: &[String], into: &Path) -> Result<()> {
        let archives = self.empty("download")?;
        let mut apt = self.command("apt-get");
        apt.args(["-qq", "download"]).args(names).current_dir(&archives);
        let output = apt.output().context("cannot run apt-get")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        unpack_all(&archives, into)
    }

    /// The same, including all dependencies.
    pub(super) fn unpack_with_dependencies(&self, names: &[&str], into: &Path) -> Result<()> {
        let mut apt = self.command("apt-get");
        apt.args(["-qq", "-y", "--no-install-recommends", "--download-only", "install"]).args(names);
        machine::run(&mut apt)?;
        unpack_all(&self.directory.join("cache/archives"), into)
    }

    fn empty(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        remove(&path)?;
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }
}

/// The Debian repositories.
struct Repositories {
    main: String,
    security: Option<String>,
}

impl Repositories {
    /// The repositories that this machine uses, or the one in the variable.
    fn find() -> Result<Self> {
        if let Ok(main) = env::var(REPOSITORY) {
            let security = main
                .trim_end_matches('/')
                .strip_suffix("/debian")
                .map(|site| format!("{site}/debian-security"));
            return Ok(Self { main, security });
        }
        let mut apt = Command::new("apt-get");
        apt.args(["indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(LABEL)", "Created-By: Packages"]);
        let text = machine::output(&mut apt).context("the kernels come from Debian's packages")?;
        let of = |label: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_suffix(&format!(" Debian {label}"))).map(str::to_owned)
        };
        let main = of("Debian").with_context(|| {
            format!("this machine's apt has no repository of Debian: name one, {REPOSITORY}=URI")
        })?;
        Ok(Self { main, security: of("Debian-Security") })
    }
}

/// Whether it has separate security updates.
fn is_stable(release: &str) -> bool {
    release != UNSTABLE && !release.contains('-')
}

fn unpack_all(archives: &Path, into: &Path) -> Result<()> {
    remove(into)?;
    fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
    let entries = fs::read_dir(archives).with_context(|| format!("cannot read {}", archives.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", archives.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            machine::run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(into))?;
        }
    }
    Ok(())
}

/// Removes a directory and its contents, if it exists.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
