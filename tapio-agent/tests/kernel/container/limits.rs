//! Process limits that the kernel enforces with a deadly signal.

use super::{of, start};
use crate::support::{Process, Tapio, needs_a_kernel, skip};

/// Asserts the report for a shell that runs this script under a limit.
fn is_reported(tapio: &Tapio, script: &str, signal: &str, limit: &str) {
    let cgroup = match crate::support::Cgroup::with_memory() {
        Ok(cgroup) => cgroup,
        Err(reason) => panic!("{reason}"),
    };
    let mut child = Process::start("child");
    child.enter(&cgroup);
    child.begin_script(script);
    child.await_death();
    let reported = tapio.expect_one(of(&cgroup)).is("container.killed").by_nobody().of_pid(child.pid());
    reported.says("signal", signal).says("sender", "kernel").says("limit", limit);
}

#[test]
fn who_uses_up_its_cpus_time_is_reported_with_the_limit() {
    needs_a_kernel!();
    // Skip if this machine cannot create cgroups: then no process is in a container.
    drop(super::container!());
    let tapio = start();
    let spin = "while :; do :; done";
    is_reported(&tapio, &format!("ulimit -S -t 1; {spin}"), "SIGXCPU", "RLIMIT_CPU");
    is_reported(&tapio, &format!("ulimit -t 1; {spin}"), "SIGKILL", "RLIMIT_CPU");
    is_reported(
        &tapio,
        &format!("trap : XCPU; ulimit -S -t 1; ulimit -H -t 2; {spin}"),
        "SIGKILL",
        "RLIMIT_CPU",
    );
}

#[test]
fn who_makes_a_file_too_large_is_reported_with_the_limit() {
    needs_a_kernel!();
    // A shell cannot handle a signal that was ignored at its start.
    const SIGXFSZ: u64 = 1 << 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    if u64::from_str_radix(ignored.trim(), 16).unwrap() & SIGXFSZ != 0 {
        skip!("who started the tests ignores SIGXFSZ, and so do they");
    }
    drop(super::container!());
    let tapio = start();
    let file = tempfile::NamedTempFile::new().unwrap();
    let dd = format!("dd if=/dev/zero of={} bs=65536 count=9 2>/dev/null", file.path().display());
    is_reported(&tapio, &format!("ulimit -f 1; exec {dd}"), "SIGXFSZ", "RLIMIT_FSIZE");
}

/// The same signals from another sender, with a limit far from reached.
#[test]
fn what_is_no_limit_is_not_reported_as_one() {
    needs_a_kernel!();
    let tapio = start();
    for (script, signal) in [("ulimit -t 1000; read go", 24), ("ulimit -t 1000; read go", 9), ("read go", 25)]
    {
        let cgroup = super::container!();
        let mut child = Process::start("child");
        child.enter(&cgroup);
        child.begin_script(&format!("echo '=> ok'; {script}"));
        child.await_line("ok");
        let mut killer = Process::start("killer");
        killer.kill(signal, child.pid());
        child.await_death();
        tapio.expect_one(of(&cgroup)).is("container.killed").by(&killer).says("limit", "");
    }
}
