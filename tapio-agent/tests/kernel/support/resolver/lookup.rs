//! Resolvers of real programs.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::NamedTempFile;

use crate::support::{Cgroup, Namespace, guest, process::find};

#[path = "../../../../../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "where the cache is")]
mod toolchain;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A program that resolves names.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Client {
    /// `getent`, with glibc.
    Glibc,
    /// `nslookup` of busybox, which asks by itself, for all names of the search list. It fails unless all of
    /// them exist.
    Busybox,
    /// `kubectl`, with Go's own resolver.
    Go,
}

/// A finished lookup.
#[derive(Debug)]
pub(crate) struct Lookup {
    /// The process that asked.
    pub(crate) pid: u32,
    pub(crate) comm: &'static str,
    pub(crate) output: Output,
}

impl Client {
    /// Its command name.
    fn comm(self) -> &'static str {
        match self {
            Self::Glibc => "getent",
            Self::Busybox => "busybox",
            Self::Go => "kubectl",
        }
    }

    /// The program, or why there is none.
    fn program(self) -> Result<PathBuf, String> {
        let built = match self {
            Self::Go => built(self.comm()),
            Self::Glibc | Self::Busybox => None,
        };
        built.or_else(|| find(self.comm())).ok_or_else(|| format!("there is no {}", self.comm()))
    }

    fn arguments(self, name: &str) -> Vec<String> {
        match self {
            Self::Glibc => ["ahosts", name].map(str::to_owned).into(),
            Self::Busybox => ["nslookup", name].map(str::to_owned).into(),
            Self::Go => vec![
                "--kubeconfig=/dev/null".to_owned(),
                format!("--server=http://{name}:1"),
                "--request-timeout=5s".to_owned(),
                "get".to_owned(),
                "--raw".to_owned(),
                "/".to_owned(),
            ],
        }
    }
}

/// A program that `cargo xtask kube build` has built.
fn built(name: &str) -> Option<PathBuf> {
    let directory = match std::env::var_os("KUBEBUILDER_ASSETS").filter(|value| !value.is_empty()) {
        Some(named) => PathBuf::from(named),
        None => toolchain::cache().ok()?.join("kube"),
    };
    Some(directory.join(name)).filter(|program| program.is_file())
}

/// Resolves a name with a real program, in the cgroup of the test unless another is given. The error says
/// which program is missing.
pub(crate) fn lookup_by(
    client: Client,
    namespace: &Namespace,
    cgroup: Option<&Cgroup>,
    resolv_conf: &str,
    name: &str,
) -> Result<Lookup, String> {
    let program = client.program()?;
    let file = self::resolv_conf(resolv_conf);
    // It becomes the program once it is in the cgroup.
    let mut command = with_resolv_conf(namespace, file.path(), "read -r _ &&");
    command.arg(program).args(client.arguments(name)).env("GODEBUG", "netdns=go");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("ip: {error}"))?;
    let pid = child.id();
    if let Some(cgroup) = cgroup {
        cgroup.add(pid);
    }
    // If it could not mount the file, its output says so.
    let _ = child.stdin.take().expect("a pipe").write_all(b"go\n");
    let output = child.wait_with_output().expect("a child");
    Ok(Lookup { pid, comm: client.comm(), output })
}

/// A file with this text, removed on drop.
pub(super) fn resolv_conf(text: &str) -> NamedTempFile {
    let permissions = fs::Permissions::from_mode(0o644);
    let mut file = tempfile::Builder::new().permissions(permissions).tempfile().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("space in the directory of temporary files");
    file
}

/// A command that becomes the program in its first argument, which sees a file as `/etc/resolv.conf`. The
/// mount disappears with the last process of its namespace.
pub(super) fn with_resolv_conf(namespace: &Namespace, file: &Path, first: &str) -> Command {
    if !Path::new(RESOLV_CONF).exists() {
        assert!(guest::is_one(), "there is no {RESOLV_CONF} to mount a file over");
        fs::create_dir_all("/etc").and_then(|()| fs::write(RESOLV_CONF, "")).expect("a writable /etc");
    }
    let script = format!("mount -o bind \"$0\" {RESOLV_CONF} && {first} exec \"$@\"");
    let mut command = namespace.command(Path::new("unshare"));
    command.args(["--mount", "sh", "-c", &script]).arg(file);
    command
}
