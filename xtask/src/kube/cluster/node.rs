//! The part of `cluster up` that runs within the node's namespaces.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{ADDRESS, DIRECTORIES, KUBELET, mount_points, script, unit};
use crate::kube::apiserver::ApiServer;
use crate::kube::certificate::{self, For};
use crate::kube::program::Program;
use crate::kube::{image, programs_directory};
use crate::machine;

const PORT: u16 = 6443;
const PATIENCE: Duration = Duration::from_secs(30);
/// Settings that the kubelet would change for the whole machine: bind-mounted files with the values it wants
/// hide them.
const SYSCTLS: &[(&str, &str)] = &[
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

struct Node {
    state: PathBuf,
    programs: PathBuf,
    server: String,
}

/// Makes these namespaces a node.
pub(in crate::kube) fn node(state: &Path) -> Result<()> {
    let programs = programs_directory()?;
    network()?;
    let server = ApiServer::start(&programs, state, ADDRESS, PORT)?;
    let node = Node { state: state.to_owned(), programs, server: server.url() };
    node.mounts()?;
    node.settings(&machine::workspace()?.join("xtask/kube/node"))?;

    let certificates = |name: &str| format!("{}/{name}", state.display());
    node.control(
        "kube-controller-manager",
        &[
            "--use-service-account-credentials",
            &format!("--root-ca-file={}", certificates("ca.crt")),
            &format!("--service-account-private-key-file={}", certificates("serviceaccount.key")),
            &format!("--cluster-signing-cert-file={}", certificates("ca.crt")),
            &format!("--cluster-signing-key-file={}", certificates("ca.key")),
        ],
    )?;
    node.control("kube-scheduler", &[])?;
    let containerd = node.start("containerd", &[&format!("--config={}", certificates("containerd.toml"))])?;
    containerd.wait_until(PATIENCE, || {
        let mut ctr = node.program("ctr");
        ctr.arg("version").stdout(Stdio::null()).stderr(Stdio::null());
        ctr.status().is_ok_and(|status| status.success())
    })?;
    node.images()?;
    let names = format!("IP:{ADDRESS}, IP:127.0.0.1, DNS:node");
    certificate::make(state, "node", "/CN=node", For::Server(&names), "ca")?;
    certificate::user(state, "kubelet", "/O=system:nodes/CN=system:node:node", &node.server)?;
    node.start(
        "kubelet",
        &[
            &format!("--kubeconfig={}", certificates("kubelet.kubeconfig")),
            &format!("--config={}", certificates("kubelet.yaml")),
            "--hostname-override=node",
            &format!("--node-ip={ADDRESS}"),
        ],
    )?;
    certificate::user(state, "kube-proxy", "/CN=system:kube-proxy", &node.server)?;
    node.start(
        "kube-proxy",
        &[&format!("--config={}", certificates("kube-proxy.yaml")), "--hostname-override=node"],
    )?;
    Ok(())
}

/// Configures the node's end of the link.
fn network() -> Result<()> {
    let own = std::process::id().to_string();
    let outside = std::os::unix::process::parent_id().to_string();
    machine::run(
        Command::new("nsenter").args([
            "--target", &outside, "--net", "ip", "link", "set", "kube1", "netns", &own, "name", "eth0",
        ]),
    )?;
    let address = format!("{ADDRESS}/30");
    for arguments in [
        &["address", "add", &address, "dev", "eth0"][..],
        &["link", "set", "eth0", "up"],
        &["link", "set", "lo", "up"],
    ] {
        machine::run(Command::new("ip").args(arguments))?;
    }
    Ok(())
}

impl Node {
    /// Mounts the file systems of a usual node, and the cluster's own directories and settings over the
    /// machine's.
    fn mounts(&self) -> Result<()> {
        let mount = |arguments: &[&str]| machine::run(Command::new("mount").args(arguments));
        for point in mount_points()?.iter().filter(|point| *point != KUBELET) {
            mount(&["--make-private", point])?;
        }
        mount(&["--make-rshared", "/"])?;
        mount(&["-t", "bpf", "bpf", "/sys/fs/bpf"])?;
        mount(&["-t", "tracefs", "tracefs", "/sys/kernel/tracing"])?;
        let root = self.state.join("root");
        for path in DIRECTORIES.iter().filter(|path| **path != KUBELET) {
            let own = root.join(path.trim_start_matches('/'));
            fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
            mount(&["--bind", &own.to_string_lossy(), path])?;
        }
        mount(&["--bind", &self.state.to_string_lossy(), "/etc/kubernetes"])?;
        for (name, value) in SYSCTLS {
            let own = root.join("sysctl").join(name.replace('/', "."));
            let parent = root.join("sysctl");
            fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;
            fs::write(&own, format!("{value}\n"))
                .with_context(|| format!("cannot write {}", own.display()))?;
            mount(&["--bind", &own.to_string_lossy(), &format!("/proc/sys/{name}")])?;
        }
        Ok(())
    }

    /// Copies the programs' settings to the paths they read.
    fn settings(&self, from: &Path) -> Result<()> {
        machine::run(Command::new("cp").arg("-r").arg(from.join(".")).arg(&self.state))
    }

    /// Starts a part of the control plane, with the credentials of the user of that name.
    fn control(&self, name: &str, arguments: &[&str]) -> Result<()> {
        let user = certificate::user(&self.state, name, &format!("/CN=system:{name}"), &self.server)?;
        let by = |flag: &str| format!("--{flag}={}", user.display());
        let own = [by("kubeconfig"), by("authentication-kubeconfig"), by("authorization-kubeconfig")];
        let own: Vec<&str> = own.iter().map(String::as_str).chain(["--leader-elect=false"]).collect();
        self.start(name, &[&own, arguments].concat()).map(drop)
    }

    /// Starts a program of the node by a script, which can start it again.
    fn start(&self, name: &str, arguments: &[&str]) -> Result<Program> {
        let mut text = "set -e\n".to_owned();
        for group in unit(name)? {
            let group = group.display();
            text += &format!("mkdir -p '{group}'\necho $$ >'{group}/cgroup.procs'\n");
        }
        let words = arguments.iter().map(|word| format!(" '{word}'")).collect::<String>();
        text += &format!("exec '{}'{words}\n", self.programs.join(name).display());
        let script = script(name, &self.state);
        fs::write(&script, text).with_context(|| format!("cannot write {}", script.display()))?;
        let program = Program::new(name, &self.state);
        program.start({
            let mut command = self.command("sh");
            command.arg(script);
            command
        })?;
        Ok(program)
    }

    /// One of the programs.
    fn program(&self, name: &str) -> Command {
        self.command(self.programs.join(name))
    }

    /// A command with a `PATH` to the programs.
    fn command(&self, name: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(name);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.programs.display()));
        // containerd warns that cgroup v1 is deprecated.
        command.env("CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS", "1");
        command
    }

    /// `localhost/busybox:1`, and `localhost/pause:1` for the sandboxes of pods.
    fn images(&self) -> Result<()> {
        let root = self.state.join("busybox");
        for directory in ["bin", "etc", "tmp"] {
            fs::create_dir_all(root.join(directory)).context("the image's root cannot be made")?;
        }
        let busybox = machine::program("busybox").context("busybox is not installed")?;
        fs::copy(busybox, root.join("bin/busybox")).context("busybox cannot be copied")?;
        machine::run(Command::new("chroot").arg(&root).args(["/bin/busybox", "--install", "-s", "/bin"]))?;
        for (name, command) in [("busybox", &["sh"][..]), ("pause", &["sleep", "infinity"])] {
            let archive = self.state.join(format!("{name}.tar"));
            let mut file = fs::File::create(&archive).context("the image cannot be written")?;
            image::write(&format!("localhost/{name}:1"), &root, command, &mut file)?;
            let mut ctr = self.program("ctr");
            ctr.args(["--namespace", "k8s.io", "images", "import"]).arg(&archive);
            machine::run(ctr.stdout(Stdio::null()))?;
        }
        Ok(())
    }
}
