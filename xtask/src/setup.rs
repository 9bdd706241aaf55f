//! `cargo xtask setup`: prepares this machine to build and test Tapio. Existing installations are left
//! unchanged.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::axe;
use crate::machine;
use crate::progress::Progress;
use crate::python;
use crate::toolchain::{self, DEBIAN_LLVM, DEBIAN_PACKAGES, NIGHTLY, Route, Toolchain};

/// The version of `cargo deny`, which checks licences and sources.
const CARGO_DENY: &str = "0.20.2";

/// Programs that the tests run, with their Debian packages.
const TEST_TOOLS: &[(&str, &str)] = &[("ip", "iproute2"), ("sysctl", "procps"), ("kill", "procps")];

/// Programs that longer tests run, with their Debian packages.
const CI_TOOLS: &[(&str, &str)] =
    &[("buildah", "buildah"), ("chromium", "chromium"), ("chromedriver", "chromium-driver"), ("npm", "npm")];

/// cargo subcommands for tasks of `ci`, with their rustup components.
const CARGO_TOOLS: &[(&str, &str)] = &[("fmt", "rustfmt"), ("clippy", "clippy")];

/// The smallest possible program: shows that a linker reads this compiler's bitcode. It does without `core`,
/// which the rustup route would first have to build.
const PROBE: &str = r#"#![feature(no_core, lang_items)]
#![allow(internal_features)]
#![no_core]
#[lang = "pointee_sized"]
trait PointeeSized {}
#[lang = "meta_sized"]
trait MetaSized: PointeeSized {}
#[lang = "sized"]
trait Sized: MetaSized {}
#[unsafe(no_mangle)]
#[unsafe(link_section = "tapio/probe")]
extern "C" fn probe() {}
"#;

/// `setup [--route=rustup|debian] [--ci]`
pub(crate) fn task(arguments: &[String]) -> Result<()> {
    let mut routes = Route::ALL.to_vec();
    let mut ci = false;
    for argument in arguments {
        match argument.split_once('=') {
            Some(("--route", name)) => routes = vec![Route::named(name).map_err(anyhow::Error::msg)?],
            None if argument == "--ci" => ci = true,
            _ => bail!("setup does not know `{argument}`; it takes --route=rustup|debian and --ci"),
        }
    }
    let progress = Progress::new("setup");
    compilers(&routes, &progress)?;
    test_tools(TEST_TOOLS);
    if ci {
        test_tools(CI_TOOLS);
        taken_out("promtool", "prometheus", None);
        taken_out(
            "prometheus-alertmanager",
            "prometheus-alertmanager",
            Some("/usr/share/prometheus/alertmanager"),
        );
        axe();
        python();
        cargo_tools();
        kernel_clippy();
    }
    Ok(())
}

/// Installs the compilers for the kernel programs, by the first route that works.
pub(crate) fn compilers(routes: &[Route], progress: &Progress) -> Result<()> {
    // An existing toolchain is used unchanged, unless the user names a route.
    if routes.len() > 1
        && let Ok(toolchain) = toolchain::find()
    {
        return verified(&toolchain, progress);
    }
    let mut failures = Vec::new();
    for &route in routes {
        match install(route, progress) {
            Ok(()) => return Ok(()),
            Err(error) => {
                progress.say(&format!("the {} route does not work here: {error:#}", route.name()));
                failures.push(format!("{}: {error:#}\n    remedy: {}", route.name(), remedy(route)));
            }
        }
    }
    bail!("no compiler for the kernel programs could be installed\n  {}", failures.join("\n  "))
}

fn remedy(route: Route) -> &'static str {
    match route {
        Route::Rustup => {
            "install rustup (https://rustup.rs) and let it reach static.rust-lang.org and crates.io"
        }
        Route::Debian => "as root, on Debian 12 or later with its security updates in the apt sources",
    }
}

fn install(route: Route, progress: &Progress) -> Result<()> {
    if let Err(missing) = route.compiler() {
        progress.say(&format!("{missing}: installing it"));
        match route {
            Route::Rustup => install_nightly(progress)?,
            Route::Debian => machine::apt_install(DEBIAN_PACKAGES)?,
        }
        route.compiler().map_err(anyhow::Error::msg)?;
    }
    if let Err(missing) = route.linker() {
        progress.say(&format!("{missing}: compiling it, half a minute"));
        install_linker(route, progress)?;
    }
    verified(&route.find().map_err(anyhow::Error::msg)?, progress)
}

fn install_nightly(progress: &Progress) -> Result<()> {
    if machine::program("rustup").is_none() {
        bail!("rustup is not installed");
    }
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "install", NIGHTLY, "--no-self-update", "--profile", "minimal"]);
    rustup.args(["--component", "rust-src"]);
    progress.run(NIGHTLY, &mut rustup)
}

/// Builds without optimisation, because LLVM takes nearly all of its run time.
fn install_linker(route: Route, progress: &Progress) -> Result<()> {
    let root = route.linker_root().map_err(anyhow::Error::msg)?;
    let mut cargo = cargo_install(&root, "bpf-linker", route.linker_version());
    if route == Route::Debian {
        // Without the prefix, a machine with another LLVM or with /usr/lib64 reports the wrong library
        // directory.
        let prefix = format!("/usr/lib/llvm-{DEBIAN_LLVM}");
        cargo.args(["--no-default-features", "--features", "llvm-22"]);
        cargo.env("LLVM_PREFIX", &prefix).env("LLVM_SYS_221_PREFIX", &prefix);
    }
    progress.run("bpf-linker", unoptimised(&mut cargo))
}

/// This halves the compile time.
fn unoptimised(cargo: &mut Command) -> &mut Command {
    cargo.arg("--debug").env("CARGO_PROFILE_DEV_DEBUG", "0")
}

/// A `cargo install` into a separate directory for the tool.
fn cargo_install(root: &Path, package: &str, version: &str) -> Command {
    let mut cargo = machine::cargo();
    cargo.args(["install", package, "--locked", "--version", version, "--root"]).arg(root);
    // Otherwise cargo advises to add the directory to `PATH`.
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(std::iter::once(root.join("bin")).chain(env::split_paths(&path)));
    cargo.envs(path.map(|path| ("PATH", path)));
    cargo
}

/// Compiles and links the probe, because versions alone do not show whether the linker's LLVM reads the
/// compiler's output.
fn verified(toolchain: &Toolchain, progress: &Progress) -> Result<()> {
    let directory = machine::target_directory()?.join("probe");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let source = directory.join("probe.rs");
    fs::write(&source, PROBE).with_context(|| format!("cannot write {}", source.display()))?;
    let mut rustc = toolchain.rustc();
    rustc.args(["--crate-type", "cdylib", "-O", "--out-dir"]).arg(&directory).arg(&source);
    let output = rustc.output().context("cannot run the kernel programs' compiler")?;
    let name = toolchain.route().name();
    if !output.status.success() {
        let linker = toolchain.linker().display();
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{linker} does not link what the {name} route's compiler writes; remove it and try again\n{said}"
        );
    }
    let compiler = match toolchain.route() {
        Route::Rustup => NIGHTLY.to_owned(),
        Route::Debian => format!("rustc-web on LLVM {DEBIAN_LLVM}"),
    };
    let linker = toolchain.route().linker_version();
    progress.say(&format!("{name} route: {compiler} and bpf-linker {linker} fit"));
    Ok(())
}

/// Installs test tools. Without one, some tests are skipped with a message; that is no reason to stop.
fn test_tools(tools: &[(&str, &str)]) {
    for (tool, package) in tools {
        if machine::program(tool).is_some() {
            continue;
        }
        say(&format!("`{tool}` is missing, some tests need it: installing {package}"));
        if let Err(error) = machine::apt_install(&[package]) {
            say(&format!("{package} could not be installed, those tests will be skipped: {error:#}"));
        }
    }
}

/// Takes a program out of Debian's package, and a directory without which it does not start. Installing the package would
/// start a server, on the agent's own port.
fn taken_out(program: &str, package: &str, directory: Option<&str>) {
    let taken = || -> Result<()> {
        let root = machine::tool_root(program)?;
        if machine::program(program).is_some() || root.join(program).is_file() {
            return Ok(());
        }
        say(&format!("`{program}` is missing, some tests need it: taking it out of the package {package}"));
        let partial = root.with_extension("partial");
        fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
        machine::apt_unpack(package, &partial)?;
        fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        fs::rename(partial.join("usr/bin").join(program), root.join(program))
            .context("it is not in there")?;
        if let Some(directory) = directory.filter(|directory| !Path::new(directory).exists()) {
            let unpacked = partial.join(directory.trim_start_matches('/'));
            fs::create_dir_all(directory).with_context(|| format!("cannot make {directory}"))?;
            machine::run(Command::new("cp").arg("-r").arg(unpacked.join(".")).arg(directory))?;
        }
        fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))
    };
    if let Err(error) = taken() {
        say(&format!("there is no {program}, those tests will be skipped: {error:#}"));
    }
}

/// Takes axe-core out of its npm package, without what npm would install beside it.
fn axe() {
    let taken = || -> Result<()> {
        let root = machine::tool_root(axe::DIRECTORY)?;
        if root.join(axe::FILE).is_file() {
            return Ok(());
        }
        say("axe-core is missing, tests of the pages need it: taking it out of its npm package");
        let partial = root.with_extension("partial");
        fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
        let mut npm = Command::new("npm");
        machine::output(npm.args(["pack", "--silent", axe::PACKAGE]).current_dir(&partial))?;
        let package = partial.join(format!("{}.tgz", axe::DIRECTORY));
        machine::run(Command::new("tar").arg("-xzf").arg(package).arg("-C").arg(&partial))?;
        fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        fs::rename(partial.join("package").join(axe::FILE), root.join(axe::FILE))
            .context("it is not in there")?;
        fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))
    };
    if let Err(error) = taken() {
        say(&format!("there is no axe-core, those tests will be skipped: {error:#}"));
    }
}

/// Installs clients in Python, in an environment of their own.
fn python() {
    let installed = || -> Result<()> {
        let root = machine::tool_root(python::DIRECTORY)?;
        if root.join(python::PROGRAM).is_file() {
            return Ok(());
        }
        say(
            "clients in Python are missing, tests of the API need them: installing them in an environment of their own",
        );
        if machine::output(Command::new("python3").args(["-c", "import ensurepip"])).is_err() {
            machine::apt_install(&["python3-venv"])?;
        }
        let partial = root.with_extension("partial");
        machine::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&partial))?;
        let mut pip = Command::new(partial.join(python::PROGRAM));
        machine::run(pip.args(["-m", "pip", "install", "--quiet"]).args(python::PACKAGES))?;
        fs::rename(&partial, &root).with_context(|| format!("cannot make {}", root.display()))
    };
    if let Err(error) = installed() {
        say(&format!("there are no clients in Python, those tests will be skipped: {error:#}"));
    }
}

/// Installs the emulator that boots kernels of this architecture.
pub(crate) fn emulator(arch: Arch) -> Result<()> {
    packages(&[
        ("depmod", "kmod"),
        ("xz", "xz-utils"),
        match arch {
            Arch::Arm64 => ("qemu-system-aarch64", "qemu-system-arm"),
            Arch::Amd64 => ("qemu-system-x86_64", "qemu-system-x86"),
        },
    ])
}

/// Installs the compilers for programs that run on any Linux of this architecture. C code is compiled with
/// GNU's headers.
pub(crate) fn portable(arch: Arch) -> Result<()> {
    let compiler = format!("{}gcc", arch.tools());
    if machine::program(&compiler).is_none() {
        let (package, headers) = match arch.tools() {
            "" => ("gcc".to_owned(), "libc6-dev".to_owned()),
            tools => (
                format!("gcc-{}", tools.trim_end_matches('-').replace('_', "-")),
                format!("libc6-dev-{}-cross", arch.name()),
            ),
        };
        packages(&[(&compiler, &package), (&compiler, &headers)])?;
    }
    let target = arch.target();
    let installed =
        machine::output(Command::new("rustc").args(["--print", "target-libdir", "--target", &target]))?;
    if !Path::new(installed.trim()).is_dir() {
        say(&format!("Rust's library for {target} is missing: installing it"));
        machine::run(Command::new("rustup").args(["target", "add", &target]))?;
    }
    Ok(())
}

/// Installs the packages of missing tools.
pub(crate) fn packages(tools: &[(&str, &str)]) -> Result<()> {
    let missing = tools.iter().filter(|(tool, _)| machine::program(tool).is_none());
    let missing: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!("{} missing: installing", missing.join(", ")));
    machine::apt_install(&missing)
}

/// Installs cargo subcommands that a minimal toolchain lacks. Without one its check is skipped, and `ci`
/// prints a message.
fn cargo_tools() {
    for (tool, component) in CARGO_TOOLS.iter().filter(|(tool, _)| !machine::cargo_has(tool)) {
        if machine::program("rustup").is_none() {
            say(&format!("`cargo {tool}` is missing, and there is no rustup to add it"));
            continue;
        }
        say(&format!("`cargo {tool}` is missing: adding {component}"));
        if let Err(error) = machine::run(Command::new("rustup").args(["component", "add", component])) {
            say(&format!("{component} could not be added: {error:#}"));
        }
    }
}

/// Installs the nightly's clippy for the kernel programs. Without it they are not linted, and `ci` prints a
/// message.
fn kernel_clippy() {
    let Ok(toolchain) = toolchain::find() else { return };
    if toolchain.has_clippy() || toolchain.route() == Route::Debian {
        return;
    }
    say(&format!("{NIGHTLY} has no clippy: adding it"));
    let mut rustup = Command::new("rustup");
    if let Err(error) = machine::run(rustup.args(["component", "add", "clippy", "--toolchain", NIGHTLY])) {
        say(&format!("the kernel programs will not be linted: {error:#}"));
    }
}

/// Installs `cargo deny` if it is missing. It is built without optimisation, because it runs only for
/// seconds.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    let root = machine::tool_root(&format!("cargo-deny-{CARGO_DENY}"))?;
    let program = root.join("bin/cargo-deny");
    if !program.is_file() {
        say(&format!("cargo-deny {CARGO_DENY} is missing: compiling it, about a minute"));
        machine::run(unoptimised(&mut cargo_install(&root, "cargo-deny", CARGO_DENY)))?;
    }
    Ok(program)
}

fn say(text: &str) {
    eprintln!("setup: {text}");
}
