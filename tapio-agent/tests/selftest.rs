//! `tapio selftest` on this host: all faults, and the cleanup after an interruption.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    io::Read as _,
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tapio_agent::observer;

/// For what a busy machine does late.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tests run one at a time, because they measure round trip times.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why it cannot run here.
fn hindrance() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    if fs::metadata("/sys/kernel/btf/vmlinux").is_err() {
        return Some("a kernel without BTF".to_owned());
    }
    ["ip", "tc"]
        .iter()
        .find(|name| Command::new(name).arg("-V").output().is_err())
        .map(|name| format!("there is no {name}"))
}

macro_rules! needs_a_kernel {
    ($test:literal) => {
        if let Some(reason) = hindrance() {
            println!("SKIP {}: {reason}", $test);
            return;
        }
    };
}

fn selftest(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_tapio"))
        .arg("selftest")
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Its output and exit code.
fn end(child: Child) -> (String, Option<i32>) {
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (String::from_utf8(said).unwrap(), output.status.code())
}

/// Network namespaces with this prefix.
fn namespaces(prefix: &str) -> Vec<String> {
    let names = fs::read_dir("/var/run/netns").into_iter().flatten().flatten();
    names
        .filter_map(|name| name.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

/// Number of children of self-tests in that namespace.
fn players(namespace: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
        .filter(|line| String::from_utf8_lossy(line).contains(namespace))
        .count()
}

#[test]
fn all_faults_are_reported_once() {
    needs_a_kernel!("all_faults_are_reported_once");
    let _turn = turn();
    let begin = Instant::now();
    let child = selftest(&[]);
    let mine = format!("tapio-selftest-{}-", child.id());
    let (said, code) = end(child);
    if said.contains("skipped") {
        println!("SKIP all_faults_are_reported_once: {said}");
        return;
    }
    let faults: Vec<_> = observer::FAULTS.iter().flat_map(|(_, faults)| *faults).collect();
    let (last, lines) =
        said.lines().collect::<Vec<_>>().split_last().map(|(l, all)| (*l, all.to_vec())).unwrap();
    assert_eq!(lines.len(), faults.len(), "{said}");
    for (line, fault) in lines.iter().zip(&faults) {
        assert!(line.starts_with(fault.name) && line.contains("reported"), "{said}");
        assert!(fault.kinds.iter().any(|kind| line.contains(kind)), "{said}");
        // What is dropped is the namespace's, not a process's.
        let has_process = fault.kinds != ["link.listen_overflow"];
        assert!(line.contains("tapio-fault") == has_process, "{said}");
    }
    assert_eq!(last, format!("{0} of {0} faults reported", faults.len()));
    assert!(faults.len() >= 6);
    assert_eq!(code, Some(0));
    assert_eq!(namespaces(&mine), [""; 0]);
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

/// Interrupts it during this fault.
fn interrupted(signal: Signal, at: &str) {
    let mut child = selftest(&[]);
    let mine = format!("tapio-selftest-{}-", child.id());
    let mut said = String::new();
    let mut out = child.stdout.take().unwrap();
    let mut bytes = [0; 256];
    while !said.contains(at) {
        let read = out.read(&mut bytes).unwrap();
        assert!(read > 0, "it ended: {said}");
        said += &String::from_utf8_lossy(&bytes[..read]);
    }
    let begin = Instant::now();
    while (namespaces(&mine).len() < 2 || players(&mine) == 0) && begin.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(namespaces(&mine).len(), 2, "{said}");
    kill_process(Pid::from_child(&child), signal).unwrap();
    out.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said}");
    assert!(said.contains("interrupted"), "{said}");
    assert_eq!(namespaces(&mine), [""; 0]);
    let begin = Instant::now();
    while players(&mine) > 0 {
        assert!(begin.elapsed() < PATIENCE, "a child lives");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn interrupted_it_leaves_nothing_behind() {
    needs_a_kernel!("interrupted_it_leaves_nothing_behind");
    let _turn = turn();
    interrupted(Signal::INT, "connect given up");
    interrupted(Signal::TERM, "rising round trips");
}

#[test]
fn killed_it_leaves_what_the_next_run_removes() {
    needs_a_kernel!("killed_it_leaves_what_the_next_run_removes");
    let _turn = turn();
    let mut child = selftest(&[]);
    let mine = format!("tapio-selftest-{}-", child.id());
    let begin = Instant::now();
    while namespaces(&mine).len() < 2 && begin.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(namespaces(&mine).len(), 2);

    let (said, code) = end(selftest(&[]));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("network namespace {mine}a\n")), "{said}");
    assert_eq!(namespaces(&mine), [""; 0]);
}

#[test]
fn what_cannot_be_caused_is_skipped_with_the_remedy() {
    needs_a_kernel!("what_cannot_be_caused_is_skipped_with_the_remedy");
    let _turn = turn();
    let child = Command::new(env!("CARGO_BIN_EXE_tapio"))
        .arg("selftest")
        .env_clear()
        .env("PATH", "/nowhere")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (said, code) = end(child);
    assert_eq!(
        said.matches("skipped   there is no `ip` here; remedy: install iproute2").count(),
        2,
        "{said}"
    );
    assert!(said.ends_with("7 of 7 faults reported, 3 skipped\n"), "{said}");
    assert_eq!(code, Some(0));
}
