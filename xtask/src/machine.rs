//! This machine: where files are, and how to run a program, as the user or as root.

use std::ffi::OsStr;
use std::io::IsTerminal as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs, io};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The workspace's directory.
pub(crate) fn workspace() -> Result<PathBuf> {
    let xtask = env::var_os("CARGO_MANIFEST_DIR").context("run this as `cargo xtask`")?;
    let workspace = Path::new(&xtask).parent().context("xtask is not inside a workspace")?;
    Ok(workspace.to_owned())
}

/// cargo's target directory, which its configuration may change.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let metadata = output(cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo's metadata are no JSON")?;
    metadata["target_directory"].as_str().map(PathBuf::from).context("cargo does not tell where it builds")
}

/// The build directory of the kernel programs, shared by all builds of the agent.
pub(crate) fn programs_directory() -> Result<PathBuf> {
    Ok(target_directory()?.join("bpf"))
}

/// The installation directory of a pinned tool, separate from the user's own tool of that name.
pub(crate) fn tool_root(name: &str) -> Result<PathBuf> {
    Ok(crate::toolchain::cache().map_err(anyhow::Error::msg)?.join(name))
}

/// The cargo that runs this, in the workspace.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    if let Ok(workspace) = workspace() {
        cargo.current_dir(workspace);
    }
    cargo
}

/// Whether that cargo has a subcommand: rustup's `cargo-fmt` may exist without the tool it calls.
pub(crate) fn cargo_has(tool: &str) -> bool {
    let mut cargo = cargo();
    cargo.args([tool, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    cargo.status().is_ok_and(|status| status.success())
}

/// Runs a command with its output shown. An error names the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = line_of(command);
    let status = command.status().with_context(|| format!("cannot run `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// Runs a command and returns its output. An error names the command.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = line_of(command);
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot run `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed ({})", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command in shell syntax.
pub(crate) fn line_of(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// The path of a program in `PATH` or among root's programs.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let roots = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(roots).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// A command that runs a program as root, or the reason why that is impossible.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    if fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0) {
        return Ok(Command::new(program));
    }
    if self::program("sudo").is_none() {
        bail!("this needs root: run it as root, or install sudo");
    }
    let silent = Command::new("sudo").args(["-n", "true"]).stderr(Stdio::null()).status();
    if !silent.is_ok_and(|status| status.success()) {
        if !io::stdin().is_terminal() {
            bail!("this needs root, and sudo would ask for a password where there is no terminal");
        }
        // Asks for the password now, not after long work.
        run(Command::new("sudo").arg("-v"))?;
    }
    let mut command = Command::new("sudo");
    command.arg("--").arg(program);
    Ok(command)
}

/// Installs Debian packages, without removing any.
pub(crate) fn apt_install(packages: &[&str]) -> Result<()> {
    if program("apt-get").is_none() {
        bail!("there is no apt-get on this machine to install {}", packages.join(" "));
    }
    let install = &["install", "--no-remove"];
    if apt(install, packages)?.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    // A new machine has no package lists, and an old one may list packages that no longer exist.
    run(&mut apt(&["update"], &[])?)?;
    run(&mut apt(install, packages)?)
}

/// Downloads a Debian package and unpacks it into a directory, without installing it.
pub(crate) fn apt_unpack(package: &str, into: &Path) -> Result<()> {
    if program("apt-get").is_none() {
        bail!("there is no apt-get on this machine to download {package}");
    }
    let download = || {
        let mut apt = Command::new("apt-get");
        apt.args(["-qq", "download", package]).current_dir(into).stderr(Stdio::null());
        apt
    };
    if !download().status().is_ok_and(|status| status.success()) {
        run(&mut apt(&["update"], &[])?)?;
        run(download().stderr(Stdio::inherit()))?;
    }
    for entry in fs::read_dir(into).with_context(|| format!("cannot read {}", into.display()))? {
        let path = entry.with_context(|| format!("cannot read {}", into.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(into))?;
        }
    }
    Ok(())
}

fn apt(action: &[&str], packages: &[&str]) -> Result<Command> {
    let mut command = as_root("env")?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-y", "--no-install-recommends"]);
    command.args(["-o", "Dpkg::Use-Pty=0"]).args(action).args(packages);
    // Its report, with a line for each package, is too long to show; its errors are shown.
    command.stdout(Stdio::null());
    Ok(command)
}
