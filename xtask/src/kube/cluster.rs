//! A cluster of one node, called `node`, in separate network and mount namespaces.
//!
//! Its API server is at 198.18.0.2:6443; pods and services are reachable from outside too. Programs run in
//! the cgroup `kube-node.slice` and pods in `kube-pods`: `down` kills the processes of those two, and nothing else.
//! The node's own programs have cgroups named after units in it, as systemd would make them.

mod node;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

pub(super) use self::node::node;
use super::apiserver;
use super::program::Program;
use super::{programs, programs_directory};
use crate::machine;

/// The addresses of the node and of the machine's end, on a separate link (RFC 2544's range).
const ADDRESS: &str = "198.18.0.2";
const OUTSIDE: &str = "198.18.0.1";
/// Pods and services.
const NETWORKS: [&str; 2] = ["10.244.0.0/24", "10.96.0.0/16"];
/// Its cgroups; the kubelet's settings name the second.
const PROGRAMS_GROUP: &str = "kube-node.slice";
const PODS_GROUP: &str = "kube-pods";
/// The state of the only cluster that can be up.
const STATE: &str = "/var/lib/tapio-kube";
/// Directories that the cluster has separately from the machine.
const DIRECTORIES: &[&str] = &[
    "/etc/kubernetes",
    "/run/containerd",
    "/run/netns",
    "/usr/libexec/kubernetes",
    "/var/lib/cni",
    "/var/lib/containerd",
    KUBELET,
    "/var/log/containers",
    "/var/log/pods",
];
/// Where the kubelet mounts the volumes of pods. The machine sees those mounts, as that of a usual node does.
const KUBELET: &str = "/var/lib/kubelet";
/// The directory that is mounted there.
const VOLUMES: &str = "/var/lib/tapio-kube-volumes";
const PACKAGES: &[&str] =
    &["openssl", "iproute2", "iptables", "runc", "containernetworking-plugins", "busybox-static"];
const PATIENCE: Duration = Duration::from_secs(60);

/// The program whose namespaces are the node's. A scenario may stop others.
const NODE: &str = "containerd";

pub(super) fn is_up() -> bool {
    Program::new(NODE, Path::new(STATE)).pid().is_some()
}

/// Starts the cluster unless it is up, and prints the kubeconfig of an admin.
pub(super) fn up() -> Result<()> {
    root()?;
    let state = Path::new(STATE);
    let admin = admin();
    if is_up() {
        println!("{}", admin.display());
        return Ok(());
    }
    down()?;
    machine::apt_install(PACKAGES)?;
    let programs = programs::build(&[])?;
    let started = start(state, &programs);
    if let Err(error) = started {
        // The returned error names the cause, and also anything that cannot be removed.
        return Err(match down() {
            Ok(()) => error,
            Err(left) => error.context(format!("and it could not be taken down: {left:#}")),
        });
    }
    println!("{}", admin.display());
    Ok(())
}

fn start(state: &Path, programs: &Path) -> Result<()> {
    let group = cgroup2()?.join(PROGRAMS_GROUP);
    let mut directories = vec![group.clone(), state.to_owned()];
    directories.extend(DIRECTORIES.iter().map(PathBuf::from));
    // The kubelet requires the pods' cgroup in each hierarchy.
    directories.extend(hierarchies()?.into_iter().map(|hierarchy| hierarchy.join(PODS_GROUP)));
    for directory in directories {
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    share()?;
    let outside = format!("{OUTSIDE}/30");
    for arguments in [
        &["link", "add", "kube0", "type", "veth", "peer", "name", "kube1"][..],
        &["address", "add", &outside, "dev", "kube0"],
        &["link", "set", "kube0", "up"],
        &["route", "add", NETWORKS[0], "via", ADDRESS],
        &["route", "add", NETWORKS[1], "via", ADDRESS],
    ] {
        machine::run(Command::new("ip").args(arguments))?;
    }
    // Enter the cgroup first, so that it includes every child process.
    let mut inner = Command::new("sh");
    inner.args([
        "-c",
        "echo $$ >\"$1\" && shift && exec unshare --mount --net --propagation unchanged -- \"$@\"",
        "sh",
    ]);
    inner.arg(group.join("cgroup.procs")).arg(std::env::current_exe().context("this program is gone")?);
    machine::run(inner.args(["kube", "cluster", "node"]).arg(state).stdout(Stdio::null()))?;

    let kubelet = Program::new("kubelet", state);
    let admin = format!("--kubeconfig={}", state.join("admin.kubeconfig").display());
    for what in [
        &["wait", "--for=condition=Ready", "node/node", "--timeout=1s"][..],
        &["get", "serviceaccount", "default"],
    ] {
        kubelet.wait_until(PATIENCE, || {
            let mut kubectl = Command::new(programs.join("kubectl"));
            kubectl.arg(&admin).args(what).stdout(Stdio::null()).stderr(Stdio::null());
            kubectl.status().is_ok_and(|status| status.success())
        })?;
    }
    Ok(())
}

/// Mounts the kubelet's directory so that what is mounted below it in another namespace is mounted here, too.
fn share() -> Result<()> {
    fs::create_dir_all(VOLUMES).with_context(|| format!("cannot make {VOLUMES}"))?;
    machine::run(Command::new("mount").args(["--bind", VOLUMES, KUBELET]))?;
    // Of a group of its own, whatever that of the directory is.
    machine::run(Command::new("mount").args(["--make-private", KUBELET]))?;
    machine::run(Command::new("mount").args(["--make-shared", KUBELET]))
}

/// The mount points of this namespace, as /proc/PID/mountinfo writes them (Documentation/filesystems/proc.rst, 3.5).
fn mount_points() -> Result<Vec<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("the mounts cannot be read")?;
    Ok(table.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect())
}

/// Stops the cluster. Its two cgroups contain all of its processes; its namespaces end with the last of them.
pub(super) fn down() -> Result<()> {
    root()?;
    let state = Path::new(STATE);
    if !state.exists() {
        return Ok(());
    }
    let unified = cgroup2()?;
    for name in [PROGRAMS_GROUP, PODS_GROUP] {
        let group = unified.join(name);
        if group.exists() {
            fs::write(group.join("cgroup.kill"), "1").context("the cluster's processes cannot be killed")?;
            let end = Instant::now() + PATIENCE;
            while populated(&group) {
                if Instant::now() > end {
                    bail!("processes in {} do not end", group.display());
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        for hierarchy in hierarchies()? {
            remove_groups(&hierarchy.join(name))?;
        }
    }
    let link = Path::new("/sys/class/net/kube0");
    if link.exists() {
        let deleted = machine::run(Command::new("ip").args(["link", "delete", "kube0"]));
        // The link disappears with the namespace of its other end, possibly a moment later.
        deleted.or_else(|error| if link.exists() { Err(error) } else { Ok(()) })?;
    }
    // Without it, what is mounted there is not the cluster's.
    if Path::new(VOLUMES).exists() {
        if mount_points()?.iter().any(|point| point == KUBELET) {
            machine::run(Command::new("umount").args(["--recursive", KUBELET]))?;
        }
        fs::remove_dir_all(VOLUMES).with_context(|| format!("cannot remove {VOLUMES}"))?;
    }
    for directory in DIRECTORIES {
        // A directory that is missing or not empty is not the cluster's.
        let _ = fs::remove_dir(directory);
    }
    match state.join("etcd.pid").is_file() {
        true => apiserver::remove(state),
        false => fs::remove_dir_all(state).with_context(|| format!("cannot remove {STATE}")),
    }
}

/// The kubeconfig of its admin.
pub(super) fn admin() -> PathBuf {
    Path::new(STATE).join("admin.kubeconfig")
}

/// Runs a command in the node's namespaces, as the cluster's admin.
pub(super) fn exec(command: &[&str]) -> Result<()> {
    machine::run(&mut inside(command)?)
}

/// A command in the node's namespaces, as the cluster's admin.
pub(super) fn inside(command: &[&str]) -> Result<Command> {
    root()?;
    let state = Path::new(STATE);
    let Some(node) = Program::new(NODE, state).pid() else {
        bail!("no cluster is up: cargo xtask kube cluster up");
    };
    let programs = programs_directory()?;
    let path = std::env::var("PATH").unwrap_or_default();
    let here = std::env::current_dir().context("this directory is gone")?;
    let mut inside = Command::new("nsenter");
    inside.args(["--target", &node.to_string(), "--mount", "--net"]);
    inside.arg(format!("--wd={}", here.display())).arg("--").args(command);
    inside.env("KUBECONFIG", admin());
    inside.env("PATH", format!("{}:{path}", programs.display()));
    Ok(inside)
}

/// Stops a program of the node, and removes its cgroups, as systemd does when a unit has ended.
pub(super) fn stop(name: &str) -> Result<()> {
    known(name)?.stop()?;
    let groups = unit(name)?;
    let end = Instant::now() + PATIENCE;
    // A process that has just ended is in its cgroup for a moment.
    while let Err(error) = groups.iter().try_for_each(|group| remove_groups(group)) {
        if Instant::now() > end {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Starts a program of the node that was stopped.
pub(super) fn start_again(name: &str) -> Result<()> {
    let program = known(name)?;
    match program.pid() {
        Some(_) => Ok(()),
        None => program.start(inside(&["sh", &script(name, Path::new(STATE)).to_string_lossy()])?),
    }
}

/// A program that the node has.
fn known(name: &str) -> Result<Program> {
    root()?;
    let state = Path::new(STATE);
    if !script(name, state).is_file() {
        bail!("the node has no program `{name}`, or no cluster is up");
    }
    Ok(Program::new(name, state))
}

/// The script that runs a program of the node in its cgroups.
fn script(name: &str, state: &Path) -> PathBuf {
    state.join(format!("{name}.sh"))
}

/// The cgroups of a program of the node: those that identify processes and account for memory.
fn unit(name: &str) -> Result<Vec<PathBuf>> {
    let memory = Path::new("/sys/fs/cgroup/memory");
    let roots = [cgroup2()?].into_iter().chain(memory.is_dir().then(|| memory.to_owned()));
    Ok(roots.map(|root| root.join(PROGRAMS_GROUP).join(format!("{name}.service"))).collect())
}

/// Imports images into the cluster.
pub(super) fn load(archives: &[&str]) -> Result<()> {
    for archive in archives {
        let archive = std::path::absolute(archive).context("there is no such archive")?;
        exec(&["ctr", "--namespace", "k8s.io", "images", "import", &archive.to_string_lossy()])?;
    }
    Ok(())
}

pub(super) fn root() -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    if !fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0) {
        bail!("a cluster takes root, for its namespaces and cgroups: run it as root");
    }
    Ok(())
}

/// The cgroup2 hierarchy of this machine.
fn cgroup2() -> Result<PathBuf> {
    let places = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let found = places.iter().map(Path::new).find(|place| place.join("cgroup.controllers").is_file());
    found.map(Path::to_owned).context("there is no cgroup2 hierarchy")
}

fn hierarchies() -> Result<Vec<PathBuf>> {
    let all = Path::new("/sys/fs/cgroup");
    let below = fs::read_dir(all).context("there are no cgroups")?;
    // In cgroup v1 each hierarchy has a directory; `cpu`, for example, is a link to `cpu,cpuacct`. With only
    // cgroup v2 there is one.
    let version_1 = below.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    match all.join("cgroup.controllers").is_file() {
        true => Ok(vec![all.to_owned()]),
        false => Ok(version_1.map(|entry| entry.path()).collect()),
    }
}

fn populated(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
}

/// Removes a cgroup and its descendants, if it exists.
fn remove_groups(group: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(group) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_groups(&entry.path())?;
    }
    fs::remove_dir(group).with_context(|| format!("cannot remove {}", group.display()))
}
