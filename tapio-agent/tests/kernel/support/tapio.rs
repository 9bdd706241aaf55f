//! Runs the agent like a user does: the binary, as a child of the test. It has to be a separate process,
//! because the agent never judges its own traffic.

use std::{
    io::{BufRead as _, BufReader, PipeReader, Read, Write as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    fs::OFlags,
    process::{Pid, Signal, kill_process},
};
use serde_json::Value;
use tapio_agent::observer;
use tapio_common::Counts;

use super::{
    Occurrence,
    limited::{ROOT, limited, shipped},
    process::exists,
};

/// Time allowed to attach, for a debug build on a busy machine.
const START: Duration = Duration::from_secs(30);
/// Time allowed from a fault until its occurrence is printed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time allowed for the scans of the cgroups that a test waits for.
const SCANS: Duration = Duration::from_secs(400);
/// How long to wait for a second occurrence after the expected one.
const QUIET: Duration = Duration::from_secs(1);
/// How long to wait where no occurrence is expected: the agent delays a spike for two seconds, in case it is
/// a new level.
const SETTLED: Duration = Duration::from_millis(2800);

pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_tapio");

/// Environment variables passed to the agent. It refuses unknown ones with its own prefix, such as
/// `TAPIO_TOOLCHAIN`.
const PASSED: [&str; 2] = ["PATH", "RUST_BACKTRACE"];

pub(crate) struct Tapio {
    child: Child,
    output: Arc<Lines>,
    log: Arc<Lines>,
    readers: Vec<JoinHandle<()>>,
    configuration: PathBuf,
    /// Its state directory, removed on drop.
    state: PathBuf,
}

/// The agent's output until it exited.
pub(crate) struct Ended {
    pub(crate) occurrences: Vec<Occurrence>,
    pub(crate) programs: Vec<(String, Counts)>,
    /// Anomalies excluded by the report policy.
    pub(crate) out_of_scope: u64,
    /// Program runs that the kernel skipped, over all programs.
    pub(crate) missed: u64,
    /// State of its sinks, as in `/status`.
    pub(crate) sinks: Value,
    /// Its log, as lines of JSON.
    pub(crate) log: String,
}

#[derive(Default)]
struct Lines {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

/// Why the agent cannot run here at all.
pub(crate) fn hindrance() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    if !PathBuf::from("/sys/kernel/btf/vmlinux").exists() {
        return Some("the kernel has no BTF".to_owned());
    }
    ["ip", "setpriv", "sysctl", "tc"]
        .iter()
        .find(|name| !exists(name))
        .map(|name| format!("there is no {name}"))
}

impl Tapio {
    /// Starts it with the default thresholds and waits until its programs are attached.
    pub(crate) fn start() -> Self {
        Self::start_with(&[], "")
    }

    /// Like [`Self::start`], with arguments and a configuration file.
    pub(crate) fn start_with(arguments: &[&str], configuration: &str) -> Self {
        Self::spawn(Command::new(AGENT), usize::MAX, arguments, configuration).ready()
    }

    /// Like [`Self::start`], with the observer of this name.
    pub(crate) fn start_observer(name: &str) -> Self {
        Self::start_with(&[&format!("--observer={name}")], "")
    }

    /// Like [`Self::start_with`]; reads this many lines of its output and then closes the pipe, like `head`.
    pub(crate) fn start_read(lines: usize, arguments: &[&str], configuration: &str) -> Self {
        Self::spawn(Command::new(AGENT), lines, arguments, configuration).ready()
    }

    /// Like [`Self::start`], with exactly the capabilities it has in a pod.
    pub(crate) fn start_as_shipped() -> Self {
        Self::start_by(limited(ROOT, shipped(), &Command::new(AGENT)))
    }

    /// Like [`Self::start`], with a command that becomes the agent: `setpriv ... tapio`.
    pub(crate) fn start_by(command: Command) -> Self {
        Self::spawn(command, usize::MAX, &[], "").ready()
    }

    /// Starts it with a command under which it must fail. Returns its final output.
    #[track_caller]
    pub(crate) fn refused_by(command: Command) -> String {
        let mut tapio = Self::spawn(command, usize::MAX, &[], "");
        let deadline = Instant::now() + START;
        let status = loop {
            if let Some(status) = tapio.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it runs; it said:\n{}", tapio.log.text());
            thread::sleep(Duration::from_millis(50));
        };
        tapio.readers.drain(..).for_each(|reader| reader.join().unwrap());
        let said = tapio.log.text();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(!said.contains("panicked"), "{said}");
        let last = said.lines().last().and_then(|line| line.strip_prefix("error: "));
        last.unwrap_or_else(|| panic!("its last words are no error: {said}")).to_owned()
    }

    /// Like [`Self::start_with`], with a full standard output that stalls for as long as the other end is
    /// held.
    pub(crate) fn start_stalled(arguments: &[&str], configuration: &str) -> (Self, PipeReader) {
        let (reader, mut full) = std::io::pipe().unwrap();
        let flags = rustix::fs::fcntl_getfl(&full).unwrap();
        rustix::fs::fcntl_setfl(&full, flags | OFlags::NONBLOCK).unwrap();
        while full.write(&[b'\n'; 4096]).is_ok() {}
        while full.write(b"\n").is_ok() {}
        rustix::fs::fcntl_setfl(&full, flags).unwrap();
        let mut command = Command::new(AGENT);
        command.stdout(full);
        (Self::spawn_as(command, 0, arguments, configuration, false).ready(), reader)
    }

    fn spawn(command: Command, lines: usize, arguments: &[&str], configuration: &str) -> Self {
        Self::spawn_as(command, lines, arguments, configuration, true)
    }

    fn spawn_as(
        mut command: Command,
        lines: usize,
        arguments: &[&str],
        configuration: &str,
        is_read: bool,
    ) -> Self {
        let path = std::env::temp_dir().join(format!(
            "tapio-test-{}-{:08x}.yaml",
            std::process::id(),
            fastrand::u32(..)
        ));
        let state = path.with_extension("state");
        std::fs::File::create_new(&path).unwrap().write_all(configuration.as_bytes()).unwrap();
        if !arguments.iter().any(|argument| argument.starts_with("--observer=")) {
            command.arg("--observer=network");
        }
        if is_read {
            command.stdout(Stdio::piped());
        }
        let mut child = with_few_variables(&mut command)
            .env("TAPIO_STATE_DIR", &state)
            .args(["--output=json", "--listen=off", "--log-level=debug", "--log-format=json"])
            .arg(format!("--config={}", path.display()))
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (output, log) = (Arc::new(Lines::default()), Arc::new(Lines::default()));
        let mut readers = vec![log.read(child.stderr.take().unwrap(), usize::MAX)];
        readers.extend(child.stdout.take().map(|stdout| output.read(stdout, lines)));
        Self { child, output, log, readers, configuration: path, state }
    }

    fn ready(mut self) -> Self {
        self.wait_ready();
        let text = self.log.text();
        assert!(!text.contains("failed: "), "not all of its programs run:\n{text}");
        self
    }

    /// Waits until the agent has logged a line that contains both texts.
    pub(crate) fn expect_log(&self, one: &str, other: &str) {
        let has_both = |line: &String| line.contains(one) && line.contains(other);
        let found = self.log.wait(PATIENCE, |lines| lines.iter().any(has_both).then_some(()));
        assert!(found.is_some(), "no line with {one} and {other} in the log:\n{}", self.log.text());
    }

    /// Waits until the agent has scanned cgroups or namespaces this many times from now on. Scans use at most one part in 200 of
    /// a CPU, so that on an emulated one they are seconds apart.
    pub(crate) fn expect_scans(&self, count: usize) {
        let scans = |lines: &[String]| lines.iter().filter(|line| line.contains(" scanned")).count();
        let before = self.log.wait(Duration::ZERO, |lines| Some(scans(lines))).unwrap_or_default();
        let found = self.log.wait(SCANS, |lines| (scans(lines) >= before + count).then_some(()));
        assert!(found.is_some(), "not scanned {count} times:\n{}", self.log.text());
    }

    /// Whether the agent has logged a line that contains this text.
    pub(crate) fn has_logged(&self, text: &str) -> bool {
        self.log.text().contains(text)
    }

    fn wait_ready(&mut self) {
        let deadline = Instant::now() + START;
        let is_ready = |lines: &[String]| lines.iter().any(|line| line.contains("ready")).then_some(());
        while self.log.wait(Duration::from_millis(200), is_ready).is_none() {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the agent is not ready ({ended:?}); it said:\n{}",
                self.log.text()
            );
        }
    }

    /// Waits for the one occurrence that `is_meant` accepts, then checks for a while that no second one
    /// follows.
    #[track_caller]
    pub(crate) fn expect_one(&self, is_meant: impl Fn(&Occurrence) -> bool) -> Occurrence {
        self.expect_one_within(PATIENCE, is_meant)
    }

    /// Like [`Self::expect_one`], with a longer time limit for the first.
    #[track_caller]
    pub(crate) fn expect_one_within(
        &self,
        patience: Duration,
        is_meant: impl Fn(&Occurrence) -> bool,
    ) -> Occurrence {
        self.expect_within(patience, &is_meant);
        self.none_but(1, QUIET, &is_meant).remove(0)
    }

    /// Waits for the first occurrence that `is_meant` accepts; there may be more.
    #[track_caller]
    pub(crate) fn expect_some(&self, is_meant: impl Fn(&Occurrence) -> bool) -> Occurrence {
        self.expect_within(PATIENCE, is_meant)
    }

    /// Like [`Self::expect_some`], with a longer time limit.
    #[track_caller]
    pub(crate) fn expect_within(
        &self,
        patience: Duration,
        is_meant: impl Fn(&Occurrence) -> bool,
    ) -> Occurrence {
        let first = self
            .output
            .wait(patience, |lines| occurrences(lines).into_iter().find(|occurrence| is_meant(occurrence)));
        first.unwrap_or_else(|| panic!("no such occurrence; {}", self.seen()))
    }

    /// Checks for a while that no occurrence arrives that `is_meant` accepts.
    #[track_caller]
    pub(crate) fn expect_none(&self, is_meant: impl Fn(&Occurrence) -> bool) {
        self.none_but(0, SETTLED, &is_meant);
    }

    #[track_caller]
    fn none_but(
        &self,
        count: usize,
        patience: Duration,
        is_meant: &impl Fn(&Occurrence) -> bool,
    ) -> Vec<Occurrence> {
        let meant = |lines: &[String]| {
            let all = occurrences(lines);
            all.into_iter().filter(|occurrence| is_meant(occurrence)).collect::<Vec<_>>()
        };
        let more = self.output.wait(patience, |lines| Some(meant(lines)).filter(|all| all.len() > count));
        assert!(more.is_none(), "{} occurrences for {count}; {}", more.map_or(0, |m| m.len()), self.seen());
        self.output.now(meant)
    }

    fn seen(&self) -> String {
        format!("all that came:\n{}", self.output.text())
    }

    /// Sends SIGTERM and collects all output until it exits.
    pub(crate) fn end(self) -> Ended {
        self.terminate();
        self.ended()
    }

    /// Waits until it exits successfully, and collects all output.
    pub(crate) fn ended(mut self) -> Ended {
        let status = self.child.wait().unwrap();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        assert!(status.success(), "{status}; it said:\n{}", self.log.text());
        let ledger = self.log.now(ledger);
        let sinks = ledger["sinks"].clone();
        let anomalies = &ledger["anomalies"];
        let dropped: u64 = anomalies["dropped"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
        let reported = anomalies["reported"].as_u64().unwrap();
        let (out_of_scope, expected) =
            (anomalies["out_of_scope"].as_u64().unwrap(), anomalies["expected"].as_u64().unwrap());
        assert_eq!(
            anomalies["judged"].as_u64(),
            Some(reported + expected + dropped + out_of_scope),
            "{ledger}"
        );
        assert_eq!(anomalies["waiting"], 0, "{ledger}");
        Ended {
            occurrences: self.output.now(occurrences),
            programs: counts(&ledger),
            out_of_scope,
            missed: missed(&ledger),
            sinks,
            log: self.log.text(),
        }
    }

    /// Whether it is still running.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn terminate(&self) {
        let pid = Pid::from_child(&self.child);
        // It may have exited already.
        let _ = kill_process(pid, Signal::TERM);
    }
}

impl Ended {
    /// The counters of the sink of this name.
    #[track_caller]
    pub(crate) fn sink(&self, name: &str) -> &Value {
        self.sinks.as_array().unwrap().iter().find(|sink| sink["sink"] == name).expect("it has that sink")
    }
}

impl Drop for Tapio {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.configuration);
        let _ = std::fs::remove_dir_all(&self.state);
        if thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log.text());
        }
    }
}

/// The output of `tapio doctor`, run by a command that becomes the agent.
pub(crate) struct Report(String);

impl Report {
    pub(crate) fn of(mut command: Command) -> Self {
        let output = with_few_variables(&mut command).args(["doctor", "--listen=off"]).output().unwrap();
        let (report, said) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(said, "", "a report is all there is");
        Self(report)
    }

    /// Asserts that the line with that state and name, or its remedy, contains a text.
    #[track_caller]
    pub(crate) fn says(&self, state: &str, name: &str, what: &str) {
        let mut lines = self.0.lines().skip_while(|line| {
            let line = line.trim_start().strip_prefix(state).unwrap_or_default();
            !line.trim_start().starts_with(name)
        });
        let found = lines.next().is_some_and(|line| line.contains(what));
        let mut remedy = || lines.next().is_some_and(|line| line.contains("remedy: ") && line.contains(what));
        assert!(found || remedy(), "no {state} {name} with {what}:\n{}", self.0);
    }

    /// Asserts that everything is observed, with these exceptions: performance counters if the machine has
    /// none or its distribution's setting requires CAP_SYS_ADMIN for them, function exits if the kernel
    /// can attach no program to them, and programs that read untyped memory, which lockdown forbids.
    #[track_caller]
    pub(crate) fn is_whole(&self) {
        let refused = |hook: &str, reasons: [&str; 2]| {
            let of_hook =
                |state: &str| self.0.lines().find(|line| line.starts_with(&format!("  {state} {hook} ")));
            let why = of_hook("warn").or_else(|| of_hook("fail"));
            why.is_some_and(|why| reasons.iter().any(|reason| why.contains(reason)))
        };
        let no_counter = ["this machine has no PMU", "kernel.perf_event_paranoid is 3 or more (it is 3)"];
        let no_function =
            ["attaches no program to functions", "lockdown forbids reading untyped kernel memory"];
        let hooks = [
            ("sched_switch", no_counter),
            ("tcp_v4_connect", no_function),
            ("tcp_v6_connect", no_function),
            ("netif_receive_skb", no_function),
            ("net_dev_queue", no_function),
            ("neigh_timer_handler", no_function),
        ];
        let missing = hooks.iter().filter(|(hook, reasons)| refused(hook, *reasons)).count();
        let last = self.0.lines().last().unwrap_or_default();
        let all = observer::HOOKS;
        assert!(last.starts_with(&format!("{} of {all} hooks attached", all - missing)), "{}", self.0);
    }

    #[track_caller]
    pub(crate) fn ends(&self, words: &str) {
        assert!(self.0.trim_end().ends_with(words), "{}", self.0);
    }
}

fn with_few_variables(command: &mut Command) -> &mut Command {
    let kept = PASSED.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.env_clear().envs(kept)
}

/// The counters in the last line of the agent's log.
fn ledger(lines: &[String]) -> Value {
    let parsed = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut ledgers = parsed.filter_map(|line| line["fields"]["ledger"].as_str().map(ToOwned::to_owned));
    let ledger = ledgers.next_back().expect("the agent logs its ledger when it ends");
    serde_json::from_str(&ledger).unwrap()
}

/// The counts of each program.
fn counts(ledger: &Value) -> Vec<(String, Counts)> {
    let observers = ledger["programs"].as_object().unwrap().values();
    let programs = observers.flat_map(|programs| programs.as_object().unwrap());
    programs.map(|(program, counts)| (program.clone(), self::program(counts))).collect()
}

fn missed(ledger: &Value) -> u64 {
    let observers = ledger["programs"].as_object().unwrap().values();
    observers
        .flat_map(|programs| programs.as_object().unwrap().values())
        .filter_map(|p| p["missed"].as_u64())
        .sum()
}

fn program(counts: &Value) -> Counts {
    let number = |key: &str| counts[key].as_u64().unwrap_or_else(|| panic!("no {key} in {counts}"));
    Counts {
        seen: number("seen"),
        learning: number("learning"),
        normal: number("normal"),
        suppressed: number("suppressed"),
        emitted: number("emitted"),
        failed: number("failed"),
        keys: 0,
    }
}

fn occurrences(lines: &[String]) -> Vec<Occurrence> {
    lines.iter().map(|line| Occurrence::parse(line).unwrap()).collect()
}

impl Lines {
    /// Collects lines in a separate thread and closes the pipe after this many.
    fn read(self: &Arc<Self>, from: impl Read + Send + 'static, most: usize) -> JoinHandle<()> {
        let lines = Arc::clone(self);
        thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok).take(most) {
                lines.lines.lock().unwrap().push(line);
                lines.more.notify_all();
            }
        })
    }

    /// Waits until `found` returns something.
    fn wait<T>(&self, patience: Duration, mut found: impl FnMut(&[String]) -> Option<T>) -> Option<T> {
        let mut result = None;
        let lines = self.lines.lock().unwrap();
        let waited = self.more.wait_timeout_while(lines, patience, |lines| {
            result = found(lines);
            result.is_none()
        });
        drop(waited.unwrap());
        result
    }

    fn now<T>(&self, take: impl FnOnce(&[String]) -> T) -> T {
        take(&self.lines.lock().unwrap())
    }

    fn text(&self) -> String {
        self.now(|lines| lines.join("\n"))
    }
}
