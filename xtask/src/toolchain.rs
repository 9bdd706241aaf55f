//! The pinned compilers that turn `tapio-ebpf` into BPF object files, and their location on this machine.
//!
//! Two routes lead to the same code (`cargo xtask setup` installs either):
//!
//! - **rustup**: a nightly with `rust-src`, and a `bpf-linker` that loads that nightly's own LLVM.
//! - **debian**: Debian's `rustc-web`, which includes a `core` for BPF, and a `bpf-linker` built on the same
//!   LLVM.
//!
//! `tapio-agent/build.rs` includes this file, so it uses only std.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The nightly of the rustup route. Its LLVM is 22.
pub(crate) const NIGHTLY: &str = "nightly-2026-05-20";
/// The apt packages of the Debian route: the compiler, its BPF `core`, and the build dependencies of
/// `bpf-linker`.
pub(crate) const DEBIAN_PACKAGES: &[&str] = &[
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "libstd-rust-web-dev-bpf",
    "llvm-22-dev",
    "libpolly-22-dev",
    "libzstd-dev",
];
/// The LLVM that Debian's compiler and its `bpf-linker` must share.
pub(crate) const DEBIAN_LLVM: &str = "22";
/// The target of the kernel programs.
pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// The kernel programs' profile in `Cargo.toml`.
pub(crate) const PROFILE: &str = "kernel";
/// Chooses a route by name if both are installed; by default rustup comes first.
pub(crate) const ROUTE_VARIABLE: &str = "TAPIO_TOOLCHAIN";

/// Debian's own compiler, regardless of `PATH`.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none/lib";

/// A way to install a compiler for the kernel programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// A pinned nightly.
    Rustup,
    /// Debian's packages.
    Debian,
}

/// A matching compiler and linker for the kernel programs.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    route: Route,
    linker: PathBuf,
}

/// The toolchain to use on this machine. The error is one line that names the missing part and the command to
/// run.
pub(crate) fn find() -> Result<Toolchain, String> {
    let routes = match env::var(ROUTE_VARIABLE) {
        Ok(name) => vec![Route::named(&name).map_err(|error| format!("{ROUTE_VARIABLE}: {error}"))?],
        Err(_) => Route::ALL.to_vec(),
    };
    let mut missing = Vec::new();
    for route in routes {
        match route.find() {
            Ok(toolchain) => return Ok(toolchain),
            Err(what) => missing.push(format!("{}: {what}", route.name())),
        }
    }
    let missing = missing.join("; ");
    Err(format!("no compiler for the kernel programs, run `cargo xtask setup` ({missing})"))
}

impl Route {
    /// The routes in the order in which they are tried.
    pub(crate) const ALL: [Self; 2] = [Self::Rustup, Self::Debian];

    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rustup => "rustup",
            Self::Debian => "debian",
        }
    }

    /// The route of this name.
    pub(crate) fn named(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|route| route.name() == name)
            .ok_or_else(|| format!("there is no route `{name}`; the routes are `rustup` and `debian`"))
    }

    /// The version of `bpf-linker` that fits this route's LLVM.
    pub(crate) fn linker_version(self) -> &'static str {
        match self {
            Self::Rustup => "0.10.3",
            Self::Debian => "0.13.0",
        }
    }

    /// The installation directory of this route's `bpf-linker`, separate from the other route's and from the
    /// user's own.
    pub(crate) fn linker_root(self) -> Result<PathBuf, String> {
        Ok(cache()?.join(format!("bpf-linker-{}", self.linker_version())))
    }

    /// The route's toolchain, or the missing part.
    pub(crate) fn find(self) -> Result<Toolchain, String> {
        self.compiler()?;
        Ok(Toolchain { route: self, linker: self.linker()? })
    }

    /// Checks that the compiler is installed; the error names the missing part.
    pub(crate) fn compiler(self) -> Result<(), String> {
        match self {
            Self::Rustup => nightly(),
            Self::Debian => debian_compiler(),
        }
    }

    /// The linker of this route's version: the one that set-up installs, or one in `PATH`.
    pub(crate) fn linker(self) -> Result<PathBuf, String> {
        let wanted = self.linker_version();
        let mut candidates = vec![self.linker_root()?.join("bin/bpf-linker")];
        if self == Self::Rustup {
            let path = env::var_os("PATH").unwrap_or_default();
            candidates.extend(env::split_paths(&path).map(|directory| directory.join("bpf-linker")));
        }
        candidates
            .into_iter()
            .find(|candidate| candidate.is_file() && reported_version(candidate).as_deref() == Some(wanted))
            .ok_or_else(|| format!("bpf-linker {wanted} is missing"))
    }
}

impl Toolchain {
    /// The route of this toolchain.
    pub(crate) fn route(&self) -> Route {
        self.route
    }

    pub(crate) fn linker(&self) -> &Path {
        &self.linker
    }

    /// A cargo that is ready for `build`, `check` or `clippy` of `tapio-ebpf` with `--target` [`TARGET`]: the
    /// compiler and the flags are set, and nothing is inherited from a cargo that runs this process.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = self.tool("cargo");
        if self.route == Route::Rustup {
            command.env("CARGO_UNSTABLE_BUILD_STD", "core");
        }
        // Flags are separated by 0x1f, so that a path may contain spaces.
        let flags: Vec<OsString> = self.rustc_flags();
        command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}".as_ref()));
        command
    }

    /// Builds the kernel programs of a workspace into a directory, with subdirectories for [`TARGET`] and
    /// [`PROFILE`].
    pub(crate) fn build(&self, workspace: &Path, target: &Path) -> Command {
        let mut cargo = self.cargo();
        cargo.args(["build", "--profile", PROFILE, "--package", "tapio-ebpf", "--bins", "--target", TARGET]);
        cargo.arg("--target-dir").arg(target).current_dir(workspace);
        cargo
    }

    /// Whether its cargo has a clippy of the same version; Debian's has none.
    pub(crate) fn has_clippy(&self) -> bool {
        self.route == Route::Rustup && output(self.cargo().args(["clippy", "--version"])).is_some()
    }

    /// The compiler itself, with the flags for kernel programs.
    pub(crate) fn rustc(&self) -> Command {
        let mut command = self.tool("rustc");
        command.arg("--target").arg(TARGET).args(self.rustc_flags());
        command
    }

    fn tool(&self, name: &str) -> Command {
        let mut command = match self.route {
            Route::Rustup => {
                let mut command = Command::new("rustup");
                command.args(["run", NIGHTLY, name]);
                command
            }
            Route::Debian => Command::new(if name == "cargo" { DEBIAN_CARGO } else { DEBIAN_RUSTC }),
        };
        forget_parent(&mut command);
        if self.route == Route::Debian {
            command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }

    fn rustc_flags(&self) -> Vec<OsString> {
        let mut linker = OsString::from("linker=");
        linker.push(&self.linker);
        // The linker generates BTF from the debug information.
        let mut flags = vec!["-C".into(), linker];
        flags.extend(["-C", "debuginfo=2", "-C", "link-arg=--btf"].map(OsString::from));
        // Keeps build paths out of the object files.
        flags.extend(remapped());
        flags
    }
}

/// Unsets variables of a parent cargo, clippy or rustup; keeps the user's settings for the network and
/// registries. `LD_LIBRARY_PATH` goes too: it names the parent's LLVM, which the rustup route's linker would
/// load in place of its own.
fn forget_parent(command: &mut Command) {
    const KEPT: &[&str] = &[
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    const OTHERS: &[&str] = &[
        "RUSTC",
        "RUSTC_BOOTSTRAP",
        "RUSTC_LINKER",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "RUST_RECURSION_COUNT",
        "LD_LIBRARY_PATH",
        "CLIPPY_ARGS",
        "CLIPPY_CONF_DIR",
    ];
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let from_cargo = text.starts_with("CARGO") && !KEPT.iter().any(|kept| text.starts_with(kept));
        if from_cargo || OTHERS.contains(&text) {
            command.env_remove(&name);
        }
    }
}

/// Looks for the files, because `rustup toolchain list` takes longer than a build with nothing to do.
fn nightly() -> Result<(), String> {
    let toolchains = directory("RUSTUP_HOME", ".rustup")?.join("toolchains");
    // <name>-<architecture>-unknown-linux-<gnu or musl>
    let prefix = format!("{NIGHTLY}-{}-", env::consts::ARCH);
    let mut entries = toolchains.read_dir().into_iter().flatten().flatten();
    let installed = entries.find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    let Some(installed) = installed.map(|entry| entry.path()).filter(|path| path.join("bin/rustc").is_file())
    else {
        return Err(format!("{NIGHTLY} is missing"));
    };
    if installed.join("lib/rustlib/src/rust/library/core").is_dir() {
        Ok(())
    } else {
        Err(format!("{NIGHTLY} is there without rust-src"))
    }
}

fn debian_compiler() -> Result<(), String> {
    if !Path::new(DEBIAN_CARGO).is_file() || !Path::new(DEBIAN_CORE).is_dir() {
        return Err("rustc-web, cargo-web or libstd-rust-web-dev-bpf is missing".into());
    }
    let version = output(Command::new(DEBIAN_RUSTC).arg("-vV")).unwrap_or_default();
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: ")).unwrap_or("unknown");
    if llvm.split('.').next() == Some(DEBIAN_LLVM) {
        Ok(())
    } else {
        Err(format!("{DEBIAN_RUSTC} has LLVM {llvm}, bpf-linker needs {DEBIAN_LLVM}"))
    }
}

/// `bpf-linker --version` prints `bpf-linker 0.10.3`.
fn reported_version(program: &Path) -> Option<String> {
    let text = output(Command::new(program).arg("--version"))?;
    text.split_whitespace().nth(1).map(str::to_owned)
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

/// The directory of pinned tools.
pub(crate) fn cache() -> Result<PathBuf, String> {
    Ok(directory("XDG_CACHE_HOME", ".cache")?.join("tapio"))
}

/// Flags that keep source paths out of compiled code: those of the workspace, where `cargo` runs packages,
/// and those of the libraries.
pub(crate) fn remapped() -> Vec<OsString> {
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let workspace = package.as_deref().and_then(Path::parent).map(Path::to_owned);
    let cargo = directory("CARGO_HOME", ".cargo").ok();
    let rustup = directory("RUSTUP_HOME", ".rustup").ok();
    let named = [(workspace, "/tapio"), (cargo, "/cargo"), (rustup, "/rustup")];
    named.into_iter().filter_map(|(directory, name)| Some(remap(&directory?, name))).collect()
}

/// The flag that renames a directory in compiled code.
pub(crate) fn remap(directory: &Path, name: &str) -> OsString {
    let mut flag = OsString::from("--remap-path-prefix=");
    flag.push(directory);
    flag.push("=");
    flag.push(name);
    flag
}

/// A directory named by a variable, or at this path in the home directory.
fn directory(variable: &str, in_home: &str) -> Result<PathBuf, String> {
    let named = env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    named
        .or_else(|| env::home_dir().map(|home| home.join(in_home)))
        .ok_or_else(|| format!("neither {variable} nor HOME is set"))
}
