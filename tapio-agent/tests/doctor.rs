//! `tapio doctor` on this host: with all privileges, with few, and without its requirements.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::{Command, Output};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use serde_json::Value;
use tapio_agent::{
    doctor::{Doctor, State},
    observer,
};

const HOOKS: [&str; 4] = ["tcp_probe", "inet_sock_set_state", "tcp_retransmit_skb", "tcp_receive_reset"];

/// Runs `tapio doctor` with these arguments, optionally behind another command (`before`).
fn doctor(before: &[&str], arguments: &[&str]) -> (String, Option<i32>) {
    doctor_in(&[], before, arguments)
}

/// The same with only these environment variables.
fn doctor_in(environment: &[(&str, &str)], before: &[&str], arguments: &[&str]) -> (String, Option<i32>) {
    let words = before.iter().chain(&[env!("CARGO_BIN_EXE_tapio"), "doctor"]).chain(arguments);
    let words: Vec<_> = words.collect();
    let Output { status, stdout, stderr } = Command::new(words[0])
        .args(&words[1..])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&stderr), "", "a report is all there is");
    (String::from_utf8(stdout).unwrap(), status.code())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn has_btf() -> bool {
    std::path::Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// The arguments that drop all capabilities but these; `None` if this process has none to drop.
fn without_capabilities(kept: &str) -> Option<Vec<String>> {
    if !is_root() {
        return kept.is_empty().then(Vec::new);
    }
    Command::new("setpriv").arg("--version").output().ok()?;
    let bounding = format!("--bounding-set=-all{kept}");
    Some(vec!["setpriv".into(), bounding, "--inh-caps=-all".into(), "--ambient-caps=-all".into()])
}

/// The report line with this name and state.
fn line<'a>(report: &'a str, state: &str, name: &str) -> Option<&'a str> {
    report.lines().find(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some(state) && words.next() == Some(name)
    })
}

/// What is said of an observer.
fn section<'a>(report: &'a str, observer: &str) -> &'a str {
    let mut sections = report.split("\n\n");
    sections.find(|section| section.starts_with(&format!("observer {observer}\n"))).unwrap()
}

#[test]
fn as_root_every_hook_is_attached() {
    if !is_root() || !has_btf() {
        println!("SKIP as_root_every_hook_is_attached: not root, or a kernel without BTF");
        return;
    }
    let (report, code) = doctor(&[], &["--listen=off"]);
    for hook in HOOKS {
        assert!(line(&report, "ok", hook).is_some_and(|line| line.contains("network.")), "{report}");
    }
    for right in ["CAP_BPF", "CAP_PERFMON"] {
        assert!(line(&report, "ok", right).is_some(), "{report}");
    }
    assert!(report.is_ascii(), "{report}");
    // Few virtual machines expose the counters that sched_switch reads, and some kernels are built without
    // fentry.
    let mut attached = observer::HOOKS;
    let [node, network] = ["node", "network"].map(|observer| section(&report, observer));
    for (of, hook, why) in [
        (node, "sched_switch", "PMU"),
        (network, "tcp_v4_connect", "fentry"),
        (network, "tcp_v6_connect", "fentry"),
    ] {
        if line(of, "ok", hook).is_none() {
            let line = line(of, "warn", hook).unwrap_or_else(|| panic!("{report}"));
            assert!(line.contains(why), "{line}");
            attached -= 1;
        }
    }
    let last = report.lines().last().unwrap();
    assert!(last.starts_with(&format!("{attached} of {} hooks attached", observer::HOOKS)), "{report}");
    for (of, hook) in [(node, "sched_switch"), (network, "tcp_v4_connect")] {
        let is_missing = last.contains(&format!("without {hook} there is no n"));
        assert_eq!(is_missing, line(of, "ok", hook).is_none(), "{last}");
    }
    assert_eq!(code, Some(0));
}

#[test]
fn without_rights_each_missing_one_is_named_and_what_it_costs() {
    let Some(before) = without_capabilities("") else {
        println!("SKIP without_rights_each_missing_one_is_named_and_what_it_costs: there is no setpriv");
        return;
    };
    let before: Vec<_> = before.iter().map(String::as_str).collect();
    let (report, code) = doctor(&before, &[]);
    for right in ["CAP_BPF", "CAP_PERFMON"] {
        let line = line(&report, "fail", right).unwrap_or_else(|| panic!("{report}"));
        assert!(line.contains("only files can be observed"), "{line}");
    }
    assert!(line(&report, "warn", "CAP_SYS_PTRACE").is_none(), "{report}");
    assert!(report.contains("remedy: run as root, or with CAP_BPF (in a pod: capabilities.add: [BPF])"));
    for hook in HOOKS {
        assert!(line(&report, "fail", hook).is_some_and(|line| line.contains("without it: no network.")));
    }
    // Checks that need no privileges still run.
    assert!(report.contains("cgroups") && report.contains("state directory"), "{report}");
    let last = format!("\n0 of {} hooks attached; only files can be observed.\n", observer::HOOKS);
    assert!(report.ends_with(&last), "{report}");
    assert_eq!(code, Some(1));
}

#[test]
fn one_missing_right_is_the_remedy_of_each_hook() {
    let Some(before) = without_capabilities(",+bpf") else {
        println!("SKIP one_missing_right_is_the_remedy_of_each_hook: not root, or there is no setpriv");
        return;
    };
    let before: Vec<_> = before.iter().map(String::as_str).collect();
    let (report, code) = doctor(&before, &["--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    let sections = report["sections"].as_array().unwrap();
    let hooks = sections.iter().find(|section| section["name"] == "observer network").unwrap();
    for line in hooks["lines"].as_array().unwrap() {
        assert_eq!(line["state"], "failed");
        assert_eq!(line["remedy"], "run as root, or with CAP_PERFMON", "{line}");
    }
    assert_eq!((&report["attached"], &report["hooks"]), (&Value::from(0), &Value::from(observer::HOOKS)));
    assert_eq!(code, Some(1));
}

#[test]
fn without_btf_it_says_so_and_goes_on() {
    let mut doctor = Doctor::new(Box::default(), None, false);
    doctor.types = "/nowhere/vmlinux".into();
    let report = doctor.examine();
    assert_eq!((report.tally.attached, report.tally.hooks), (0, observer::HOOKS));
    let lines = || report.sections.iter().flat_map(|section| &section.lines);
    let types = lines().find(|line| line.name == "types (BTF)").unwrap();
    assert!(types.found.starts_with("/nowhere/vmlinux cannot be read"), "{types:?}");
    assert!(matches!(&types.state, State::Failed { remedy } if remedy.contains("CONFIG_DEBUG_INFO_BTF")));
    assert!(lines().any(|line| line.name == "cgroups"));
    assert_eq!(lines().filter(|line| HOOKS.contains(&line.name.as_str())).count(), 4);
}

#[test]
fn places_that_are_not_there_are_said() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tapio.yaml");
    let empty = directory.path().display();
    std::fs::write(&file, format!("cgroup_root: {empty}\nproc_root: {empty}\nlisten: off\n")).unwrap();
    let sinks = ["--polku=127.0.0.1:1,127.0.0.1:2", "--otlp=http://127.0.0.1:1"];
    let others = ["--config", file.to_str().unwrap(), "--state-dir=/proc/tapio"];
    let (report, _) = doctor(&[], &[&others[..], &sinks].concat());
    for (state, name, word) in [
        ("warn", "cgroups", "only processes are named"),
        ("warn", "processes", "none at"),
        ("warn", "listening", "shows no processes"),
        ("warn", "state", "/proc/tapio is not writable"),
        ("fail", "POLKU", "refused"),
        ("fail", "OTLP", "refused"),
        ("ok", "listen", "off"),
        ("ok", "file", "tapio.yaml"),
    ] {
        assert!(line(&report, state, name).is_some_and(|line| line.contains(word)), "{name}: {report}");
    }
    assert!(report.contains("POLKU 127.0.0.1:1 ") && report.contains("POLKU 127.0.0.1:2 "), "{report}");
}

#[test]
fn outside_of_a_cluster_there_is_nothing_to_say_of_one() {
    for arguments in [&["--listen=off"][..], &["--listen=off", "--kubernetes=off"]] {
        let (report, _) = doctor(&[], arguments);
        assert!(!report.contains("API server") && !report.contains("\nkubernetes\n"), "{report}");
    }
    let (report, _) = doctor(&[], &["--listen=off", "--kubernetes=on"]);
    let line = line(&report, "fail", "API").unwrap_or_else(|| panic!("{report}"));
    assert!(line.contains("no cluster is found") && line.contains("Set KUBECONFIG"), "{line}");
}

#[test]
fn a_pod_is_told_what_its_manifest_lacks() {
    let pod = ("KUBERNETES_SERVICE_HOST", "127.0.0.1");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tapio.yaml");
    let empty = directory.path().display();
    std::fs::write(&file, format!("cgroup_root: {empty}\nproc_root: {empty}\nlisten: off\n")).unwrap();
    let arguments = ["--config", file.to_str().unwrap(), "--state-dir=/proc/tapio"];
    let (report, _) = doctor_in(&[pod], &[], &arguments);
    if std::path::Path::new("/var/run/secrets/kubernetes.io/serviceaccount/token").exists() {
        println!("SKIP a_pod_is_told_what_its_manifest_lacks: this is a pod, with a token of its own");
        return;
    }
    assert!(line(&report, "warn", "API").is_some_and(|line| line.contains("has no token")), "{report}");
    for remedy in [
        "remedy: set automountServiceAccountToken: true",
        &format!(
            "hostPath: {{path: /sys/fs/cgroup}}}}] and the container volumeMounts: [{{name: sys-fs-cgroup, mountPath: {empty}"
        ),
        "remedy: set hostPID: true in the pod's spec, and leave `proc_root` at /proc",
        "hostPath: {path: /var/lib/tapio, type: DirectoryOrCreate}}]",
    ] {
        assert!(report.contains(remedy), "{remedy}: {report}");
    }
    let (report, _) = doctor_in(&[pod], &[], &["--listen=off", "--kubernetes=off"]);
    assert!(line(&report, "-", "API").is_some_and(|line| line.contains("off: nothing is named")), "{report}");
}

/// Installs a seccomp filter like the one a container runtime applies to a process without the capability, on
/// the thread that starts the agent.
#[test]
fn a_seccomp_filter_that_forbids_bpf_is_distinguished_from_a_missing_right() {
    const NAME: &str = "a_seccomp_filter_that_forbids_bpf_is_distinguished_from_a_missing_right";
    if !is_root() || !has_btf() {
        println!("SKIP {NAME}: not root, or a kernel without BTF");
        return;
    }
    let number = if cfg!(target_arch = "x86_64") { 321 } else { 280 };
    let refuse = SeccompAction::Errno(rustix::io::Errno::PERM.raw_os_error().unsigned_abs());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter =
        SeccompFilter::new([(number, Vec::new())].into(), SeccompAction::Allow, refuse, arch).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    let confined = std::thread::spawn(move || {
        seccompiler::apply_filter(&program).unwrap();
        doctor(&[], &["--listen=off", "--observer=container"])
    });
    let (report, code) = confined.join().unwrap();
    assert!(line(&report, "ok", "CAP_BPF").is_some(), "{report}");
    assert!(line(&report, "-", "seccomp").is_some(), "{report}");
    let programs = line(&report, "fail", "programs").unwrap_or_else(|| panic!("{report}"));
    assert!(programs.contains("not permitted"), "{programs}");
    assert!(!programs.contains("run as root"), "{programs}");
    assert!(report.contains("remedy: let the seccomp profile allow bpf(2)"), "{report}");
    assert!(!report.contains("remedy: run as root"), "{report}");
    assert_eq!(code, Some(1));
}
