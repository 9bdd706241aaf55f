//! With few privileges, as in a container, and without the kernel's BTF: which functions work, and which
//! messages appear.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::{
    network::connect::closed_port,
    support::{
        AGENT, Process, Report, Tapio,
        limited::{ROOT, becoming, limited, maps_count, shipped},
        needs_a_kernel,
        process::exists,
        skip,
    },
};

const NOBODY: &[&str] = &["--reuid=65534", "--regid=65534", "--clear-groups"];

/// A copy of the agent that every user can reach; a home directory may be private.
struct Agent {
    path: PathBuf,
    _directory: TempDir,
}

impl Agent {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
        let path = directory.path().join("tapio");
        fs::copy(AGENT, &path).unwrap();
        Self { path, _directory: directory }
    }

    fn command(&self) -> Command {
        Command::new(&self.path)
    }
}

/// A shell command that runs one line of shell and then becomes `command`.
fn after(line: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{line} && exec \"$@\""), "sh"]);
    becoming(shell, command)
}

/// A machine-wide sysctl, restored on drop.
struct Sysctl {
    path: &'static Path,
    before: String,
}

impl Sysctl {
    /// Returns `None` if this kernel refuses that value.
    fn set(path: &'static str, value: &str) -> Option<Self> {
        let path = Path::new(path);
        let before = fs::read_to_string(path).ok()?;
        fs::write(path, value).ok()?;
        Some(Self { path, before })
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        let _ = fs::write(self.path, &self.before);
    }
}

#[test]
fn bpf_and_perfmon_suffice_for_any_user() {
    needs_a_kernel!();
    if !exists("setpriv") {
        skip!("there is no setpriv");
    }
    let agent = Agent::new();
    let capabilities = shipped();
    // Debian's default: no performance events without CAP_PERFMON, and perhaps not even with it.
    let _paranoid = Sysctl::set("/proc/sys/kernel/perf_event_paranoid", "3");
    for user in [NOBODY, ROOT] {
        let to = closed_port("127.0.0.1");
        let tapio = Tapio::start_by(limited(user, capabilities, &agent.command()));
        let mut client = Process::start("refused-client");
        assert_eq!(client.connect(to).unwrap_err(), "ECONNREFUSED");
        tapio.expect_one(|o| o.is_to(to)).named("connection_refused").of(&client);
        drop(tapio);

        let report = Report::of(limited(user, capabilities, &agent.command()));
        report.says("ok", "CAP_BPF", "loads programs");
        report.says("ok", "CAP_PERFMON", "attaches programs");
        report.says("-", "CAP_SYS_PTRACE", "have no direction until their server accepts another one");
        report.says("ok", "perf_event_paranoid", "without effect");
        report.is_whole();
    }
}

#[test]
fn what_no_capability_can_do_is_said_with_the_remedy() {
    needs_a_kernel!();
    if !exists("setpriv") {
        skip!("there is no setpriv");
    }
    let agent = Agent::new();
    for user in [NOBODY, ROOT] {
        let said = Tapio::refused_by(limited(user, "", &agent.command()));
        let remedy = "no right to load the programs of network: run as root, or with CAP_BPF";
        assert!(said.starts_with(remedy), "{said}");
        assert!(said.contains("CAP_PERFMON"), "{said}");
    }
}

#[test]
fn maps_that_exceed_a_limit_are_refused_with_the_remedy() {
    needs_a_kernel!();
    if !maps_count() {
        skip!("maps count against no limit since kernel 5.11");
    }
    if !exists("setpriv") {
        skip!("there is no setpriv");
    }
    let agent = Agent::new();
    for user in [NOBODY, ROOT] {
        let command = || limited(user, ",+bpf,+perfmon", &after("ulimit -l 64", &agent.command()));
        let said = Tapio::refused_by(command());
        assert!(said.contains("RLIMIT_MEMLOCK, which is 64 KiB here"), "{said}");
        assert!(said.contains("run as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_RESOURCE"), "{said}");

        let report = Report::of(command());
        report.says("warn", "CAP_SYS_RESOURCE", "may not fit into RLIMIT_MEMLOCK");
        report.says("fail", "programs", "run as root, or with CAP_SYS_RESOURCE, or raise RLIMIT_MEMLOCK");
        report.ends("hooks attached; only files can be observed.");
    }
}

#[test]
fn a_kernel_without_types_is_said_with_the_remedy() {
    needs_a_kernel!();
    if !exists("unshare") {
        skip!("there is no unshare");
    }
    // The mount disappears with the last process of its namespace.
    let without = || {
        let mut unshare = Command::new("unshare");
        unshare.arg("--mount");
        becoming(unshare, &after("mount -t tmpfs none /sys/kernel/btf", &Command::new(AGENT)))
    };
    let said = Tapio::refused_by(without());
    assert!(said.starts_with("/sys/kernel/btf/vmlinux cannot be read: "), "{said}");
    assert!(said.contains("CONFIG_DEBUG_INFO_BTF=y"), "{said}");

    let report = Report::of(without());
    report.says("fail", "types (BTF)", "CONFIG_DEBUG_INFO_BTF=y");
    report.says("fail", "tcp_probe", "not attached");
    report.ends("hooks attached; only files can be observed.");
}
