//! Container: who died, and of what.
//!
//! Watches `signal_generate`, `mark_victim` and `sched_process_exit`. Says `container.oom_kill`,
//! `container.exit_error`, `container.crash` and `container.killed`. The kernel programs find out who sent what and
//! let through deaths that are news; here they get their type.

mod message;
mod settings;
mod signal;

pub use settings::Settings;
use tapio_common::{
    Comm,
    container::{self as fields, ContainerEvent, UNKNOWN, flag, kind, origin},
};

use super::{Actor, Anomaly, Attach, Hook, Malformed, Observer, Only, Sandbox, with};
use crate::occurrence::{Data, Outcome, Severity, Value};

/// How long a death by the kernel's hand waits for the word that it was for want of memory. That comes from the processor
/// that killed, right after; a virtual one may stand still in between.
const WORD_NS: u64 = 1_000_000_000;
/// A death so long after SIGTERM is no end of a stop: Kubernetes waits for 30 s unless a pod wants more, systemd for 90 s.
const STOP_NS: u64 = 3_600_000_000_000;
/// The same after SIGINT and SIGQUIT. Some images are stopped with these, but a process may also handle them and go on,
/// as a JVM that writes the stacks of its threads.
const HANDLED_NS: u64 = 120_000_000_000;
/// The first process of a pid namespace that ends so long after it has raised SIGABRT may have handled it.
const ABORT_NS: u64 = 10_000_000_000;
/// Deaths that wait for it; more are told at once.
const MAX_WAITING: usize = 1024;

/// The container observer.
#[derive(Debug)]
pub struct Container {
    settings: Settings,
    waiting: Vec<Waiting>,
}

/// A process that the kernel killed, as it is to be told if it was for no want of memory.
#[derive(Debug)]
struct Waiting {
    pid: u32,
    started_ns: u64,
    anomaly: Anomaly,
}

/// What the fields of every hook here rest upon.
const TASK: [usize; 19] = [
    fields::PID,
    fields::TGID,
    fields::COMM,
    fields::LEADER,
    fields::SIGNAL,
    fields::STARTED,
    fields::PARENT,
    fields::NSPROXY,
    fields::CGROUPS,
    fields::SIGNAL_FLAGS,
    fields::SESSION_LEADER,
    fields::PID_NS,
    fields::REAPER,
    fields::NS_LEVEL,
    fields::CGROUP,
    fields::CGROUP_ROOT,
    fields::CGROUP_LEVEL,
    fields::CGROUP_KN,
    fields::KN_ID,
];

impl Observer for Container {
    const NAME: &'static str = "container";
    const FIELDS: &'static [&'static str] = fields::FIELDS;
    const BY_HELPER: &'static [usize] = fields::BY_HELPER;
    // In the order of `tapio_common::container::program`.
    const HOOKS: &'static [Hook] = &[
        Hook {
            program: "signal_generate",
            attach: Attach::BtfTracepoint("signal_generate"),
            needs: &with::<_, 2, 21>(TASK, [fields::MM, fields::OOM_SCORE_ADJ]),
            gives: "container.oom_kill, who sent a signal, and the address of a fault",
        },
        Hook {
            program: "mark_victim",
            attach: Attach::BtfTracepoint("mark_victim"),
            needs: &[],
            gives: "container.oom_kill",
        },
        Hook {
            program: "sched_process_exit",
            attach: Attach::BtfTracepoint("sched_process_exit"),
            needs: &with::<_, 5, 24>(
                TASK,
                [
                    fields::LIVE,
                    fields::EXIT_CODE,
                    fields::GROUP_EXIT_CODE,
                    fields::OOM_SCORE_ADJ,
                    fields::FLAGS,
                ],
            ),
            gives: "container.exit_error, container.crash, container.killed",
        },
    ];
    type Settings = Settings;

    fn new(settings: &Settings) -> Self {
        Self { settings: settings.clone(), waiting: Vec::new() }
    }

    fn kernel_settings(_: &Settings) -> Vec<u8> {
        Vec::new()
    }

    fn observe(&mut self, record: &[u8], out: &mut Vec<Anomaly>) -> Result<(), Malformed> {
        let event: ContainerEvent =
            bytemuck::try_pod_read_unaligned(record).map_err(|_| Malformed::Size(record.len()))?;
        let anomaly = judge(&event, &self.settings)?;
        let (pid, started_ns) = (event.header.pid, event.started_ns);
        if event.kind == kind::OOM_KILL {
            self.waiting.retain(|waits| (waits.pid, waits.started_ns) != (pid, started_ns));
        }
        let by_kernel = event.kind == kind::SIGNALLED
            && event.signal == signal::SIGKILL
            && event.origin == origin::KERNEL;
        if by_kernel && self.waiting.len() < MAX_WAITING {
            self.waiting.push(Waiting { pid, started_ns, anomaly });
        } else {
            out.push(anomaly);
        }
        Ok(())
    }

    fn tick(&mut self, now_ns: u64, out: &mut Vec<Anomaly>) {
        let over = |waits: &mut Waiting| now_ns.saturating_sub(waits.anomaly.time_ns) >= WORD_NS;
        out.extend(self.waiting.extract_if(.., over).map(|waits| waits.anomaly));
    }

    fn held_back(&self) -> u64 {
        self.waiting.iter().map(|waits| waits.anomaly.count).sum()
    }
}

/// How it died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    OomKill,
    ExitError,
    Crash,
    /// It called `abort`, and as the first process of its pid namespace ended otherwise.
    Abort,
    Killed,
    /// It was asked to end before, and did not.
    Stopped,
    /// A command that was run in a container from outside was killed by who ran it: an exec probe that took too long.
    Exec,
}

impl Death {
    fn of(event: &ContainerEvent) -> Result<Self, Malformed> {
        Ok(match event.kind {
            kind::OOM_KILL => Self::OomKill,
            kind::EXIT_ERROR | kind::SIGNALLED if is_abort(event) => Self::Abort,
            kind::EXIT_ERROR => Self::ExitError,
            kind::SIGNALLED if is_crash(event) => Self::Crash,
            kind::SIGNALLED if is_exec(event) => Self::Exec,
            kind::SIGNALLED if event.signal == signal::SIGKILL && asked(event).is_some() => Self::Stopped,
            kind::SIGNALLED => Self::Killed,
            other => return Err(Malformed::Kind(other)),
        })
    }
}

/// A signal of its own making, or one of which that is not known; then it is not said, either.
fn is_crash(event: &ContainerEvent) -> bool {
    signal::is_fault(event.signal) && matches!(event.origin, origin::ITSELF | origin::UNKNOWN)
}

/// Whether it called `abort`: SIGABRT without a handler, which the kernel does not let end the first process of a pid
/// namespace. `abort` then executes an instruction that is none (HLT, BRK, UDF, a write to address 0), and where that is
/// handled ends with status 127.
fn is_abort(event: &ContainerEvent) -> bool {
    let is_recent = event.header.time_ns.saturating_sub(event.aborted_ns) <= ABORT_NS;
    if event.flags & flag::INIT == 0 || event.aborted_ns == 0 || !is_recent {
        return false;
    }
    if event.kind == kind::EXIT_ERROR {
        return matches!(event.status, signal::NOT_FOUND | signal::ABORTED);
    }
    let is_own = matches!(event.origin, origin::ITSELF | origin::UNKNOWN);
    let is_of_abort = match event.signal {
        signal::SIGILL | signal::SIGTRAP => true,
        signal::SIGSEGV => matches!(event.address, 0 | UNKNOWN),
        _ => false,
    };
    is_own && is_of_abort
}

/// Whether who ran a command in a container from outside killed it. Runtimes do when the time for it is over.
fn is_exec(event: &ContainerEvent) -> bool {
    let by_runtime = flag::ENTERED | flag::BY_PARENT;
    event.signal == signal::SIGKILL && event.flags & by_runtime == by_runtime
}

/// Why it is known that the command of a container or service was never executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unexecuted {
    /// The container's first process still is the runtime's own.
    Runtime,
    /// It is the process that systemd forked, which says by its status what it could not do.
    Systemd,
}

/// How runtimes call the process that is to execute a container's command.
const RUNTIMES: [&[u8]; 3] = [b"runc:[", b"youki:[", b"crun\0"];
/// Statuses of what systemd could not do before it executed a command, systemd.exec(5).
const SYSTEMD: std::ops::RangeInclusive<u32> = 200..=245;

/// Whether the command was never executed; `None` where that is not certain.
fn unexecuted(event: &ContainerEvent) -> Option<Unexecuted> {
    let comm = command(event.header.comm);
    let is_set = |flags| event.flags & flags == flags;
    if is_set(flag::INIT | flag::NOT_EXECUTED) && RUNTIMES.iter().any(|runtime| comm.starts_with(runtime)) {
        return Some(Unexecuted::Runtime);
    }
    // It calls itself after the command, in brackets.
    let name = comm.split(|byte| *byte == 0).next().unwrap_or_default();
    let is_systemds = name.starts_with(b"(") && name.ends_with(b")");
    let is_status = event.kind == kind::EXIT_ERROR && SYSTEMD.contains(&event.status);
    (is_set(flag::SESSION_OF_HOST) && is_systemds && is_status).then_some(Unexecuted::Systemd)
}

/// The signal that asked it to end, and how long before, nanoseconds: not one that it has long survived.
fn asked(event: &ContainerEvent) -> Option<(u32, u64)> {
    let ago_ns = event.header.time_ns.saturating_sub(event.asked_ns);
    let most_ns = if event.asked_signal == signal::SIGTERM { STOP_NS } else { HANDLED_NS };
    (event.asked_signal != 0 && ago_ns <= most_ns).then_some((event.asked_signal, ago_ns))
}

/// An event as an anomaly.
fn judge(event: &ContainerEvent, settings: &Settings) -> Result<Anomaly, Malformed> {
    let death = Death::of(event)?;
    let header = &event.header;
    let (kind, severity, outcome, message): (_, _, _, message::Message) = match death {
        Death::OomKill => ("container.oom_kill", Severity::Error, Outcome::Failure, message::oom_kill),
        Death::ExitError => ("container.exit_error", Severity::Error, Outcome::Failure, message::exit_error),
        Death::Crash => ("container.crash", Severity::Error, Outcome::Failure, message::crash),
        Death::Abort => ("container.crash", Severity::Error, Outcome::Failure, message::abort),
        Death::Killed => ("container.killed", Severity::Error, Outcome::Failure, message::killed),
        Death::Exec => ("container.killed", Severity::Warning, Outcome::Timeout, message::exec),
        Death::Stopped => ("container.killed", Severity::Warning, Outcome::Timeout, message::stopped),
    };
    let had_a_hand = match death {
        Death::OomKill => true,
        // Who asked.
        Death::ExitError => event.origin == origin::PROCESS && asked(event).is_some(),
        Death::Abort => false,
        // Of a crash what it did itself is its nature; that it ended itself otherwise is its own affair.
        Death::Crash => event.origin == origin::PROCESS,
        Death::Killed | Death::Stopped | Death::Exec => {
            matches!(event.origin, origin::PROCESS | origin::ITSELF)
        }
    };
    Ok(Anomaly {
        kind,
        severity,
        outcome,
        time_ns: header.time_ns,
        cgroup_id: header.cgroup_id,
        pid: header.pid,
        comm: command(header.comm),
        actor: (event.actor.pid != 0 && had_a_hand).then(|| {
            let fields::Actor { cgroup_id, pid, comm, .. } = event.actor;
            Box::new(Actor { cgroup_id, pid, comm: command(comm) })
        }),
        full: (death == Death::OomKill).then_some(event.full.cgroup_id).and_then(known).filter(|id| *id != 0),
        only: Only {
            scope: settings.scope,
            from_outside: matches!(death, Death::Killed | Death::Stopped | Death::Exec),
            usual_window_ns: (death == Death::ExitError).then(|| settings.usual_window.as_ns()),
            sandbox: sandbox(event, death),
            by_pod: is_restart(event, death),
            unless_steady: false,
        },
        antagonist: None,
        peer: None,
        detail: match death {
            Death::ExitError => event.status,
            Death::Abort => signal::SIGABRT,
            _ => event.signal,
        },
        data: data(event, death),
        baseline: None,
        magnitude: known(event.memory.anon_bytes).unwrap_or_default(),
        count: 1 + u64::from(header.held_back),
        pace: None,
        message,
    })
}

/// The limit of the process that the kernel ended it for.
fn limit(event: &ContainerEvent, death: Death) -> Option<&'static str> {
    let is_set = |flag| event.flags & flag != 0;
    if event.origin != origin::KERNEL || !matches!(death, Death::Killed | Death::Stopped) {
        return None;
    }
    match event.signal {
        signal::SIGXFSZ => Some("RLIMIT_FSIZE"),
        // Without that limit it is one of real-time scheduling.
        signal::SIGXCPU if is_set(flag::CPU_LIMITED) => Some("RLIMIT_CPU"),
        signal::SIGKILL if is_set(flag::CPU_USED_UP) => Some("RLIMIT_CPU"),
        _ => None,
    }
}

/// Whether a container's first process ended since others wanted it to, as kubelet does each time that a liveness or startup
/// probe has failed.
fn is_restart(event: &ContainerEvent, death: Death) -> bool {
    let was_stopped = match death {
        Death::Stopped => true,
        Death::Killed => event.signal == signal::SIGKILL && event.origin == origin::PROCESS,
        Death::ExitError => asked(event).is_some(),
        _ => false,
    };
    was_stopped && event.flags & flag::INIT != 0
}

/// `oom_score_adj` that containerd, CRI-O and cri-dockerd give a pod's sandbox. Kubernetes gives it to no container: these
/// have -997, or 2 and more.
const SANDBOX_SCORE: i32 = -998;
/// The first process of a sandbox, where the runtime may not lower its score.
const PAUSE: [u8; 16] = *b"pause\0\0\0\0\0\0\0\0\0\0\0";

/// A command name with zeros after its end: older kernels leave the rest of the name before there.
fn command(comm: Comm) -> [u8; 16] {
    let mut comm = <[u8; 16]>::from(comm);
    if let Some(end) = comm.iter().position(|byte| *byte == 0) {
        comm[end..].fill(0);
    }
    comm
}

/// Whether it looks like the end of a pod's sandbox. A crash and an OOM kill do not: nobody ends a sandbox that way.
fn sandbox(event: &ContainerEvent, death: Death) -> Sandbox {
    if matches!(death, Death::OomKill | Death::Crash | Death::Abort) {
        return Sandbox::No;
    }
    let is_first = event.flags & flag::INIT != 0;
    let is_killed = event.signal == signal::SIGKILL && event.origin == origin::PROCESS;
    // Pause exits when it is asked to. So what survived a request is something else of that name.
    let is_pause = command(event.header.comm) == PAUSE && is_killed && event.asked_signal == 0;
    if event.score_adj as i32 == SANDBOX_SCORE || (is_first && is_pause) {
        return Sandbox::Likely { is_first };
    }
    if is_killed { Sandbox::Unlisted } else { Sandbox::No }
}

fn data(event: &ContainerEvent, death: Death) -> Data {
    let mut data = Vec::with_capacity(12);
    let mut put = |key, value: Value| data.push((key, value));
    match death {
        Death::OomKill => {
            let (full, memory) = (&event.full, &event.memory);
            if let Some(cgroup_id) = known(full.cgroup_id) {
                put("constraint", if cgroup_id == 0 { "node" } else { "cgroup" }.into());
            }
            for (key, value) in [
                ("usage_bytes", full.usage_bytes),
                ("limit_bytes", full.limit_bytes),
                ("levels_up", full.levels_up),
                ("anon_bytes", memory.anon_bytes),
                ("file_bytes", memory.file_bytes),
                ("shmem_bytes", memory.shmem_bytes),
                ("page_tables_bytes", memory.page_tables_bytes),
            ] {
                if let Some(value) = known(value) {
                    put(key, value.into());
                }
            }
            put("oom_score_adj", Value::Signed(i64::from(event.score_adj as i32)));
        }
        Death::ExitError => {
            put("status", u64::from(event.status).into());
            let meaning = match unexecuted(event) {
                // The status is the runtime's, whose statuses have no meaning.
                Some(Unexecuted::Runtime) => None,
                Some(Unexecuted::Systemd) => signal::systemd(event.status).map(Into::into),
                None => signal::meaning(event.status),
            };
            if let Some(meaning) = meaning {
                put("meaning", Value::Text(meaning));
            }
        }
        Death::Abort => {
            put("signal", Value::Text(signal::name(signal::SIGABRT)));
            put("origin", "itself".into());
            let ended_with = match event.signal {
                0 => format!("status {}", event.status).into(),
                signal => signal::name(signal),
            };
            put("ended_with", Value::Text(ended_with));
        }
        Death::Crash | Death::Killed | Death::Stopped | Death::Exec => {
            put("signal", Value::Text(signal::name(event.signal)))
        }
    }
    if death == Death::Crash {
        put("origin", if event.origin == origin::ITSELF { "itself" } else { "unknown" }.into());
        if let Some(code) = signal::code(event.signal, event.code as i32) {
            put("code", code.into());
        }
        if let Some(address) =
            known(event.address).filter(|_| signal::has_address(event.signal, event.code as i32))
        {
            put("address", Value::Text(format!("{address:#x}").into()));
        }
    }
    if matches!(death, Death::ExitError | Death::Killed | Death::Stopped) && unexecuted(event).is_some() {
        put("executed", "never".into());
    }
    if let Some(limit) = limit(event, death) {
        put("limit", limit.into());
    }
    if death == Death::Exec {
        put("started_by", "exec".into());
    }
    if matches!(death, Death::Killed | Death::Stopped) && event.origin == origin::KERNEL {
        put("sender", "kernel".into());
    }
    if let Some((asked, ago_ns)) = asked(event)
        && !matches!(death, Death::OomKill | Death::Crash | Death::Abort)
    {
        put("asked_signal", Value::Text(signal::name(asked)));
        put("asked_ms", (ago_ns / 1_000_000).into());
    }
    let is_main = event.flags & (flag::INIT | flag::SESSION_OF_HOST) != 0;
    put("process_role", if is_main { "main" } else { "child" }.into());
    put("ran_ms", (event.header.time_ns.saturating_sub(event.started_ns) / 1_000_000).into());
    Data(data)
}

const fn known(number: u64) -> Option<u64> {
    if number == UNKNOWN { None } else { Some(number) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn killed(pid: u32, kind: u32, time_ns: u64) -> ContainerEvent {
        let mut event: ContainerEvent = bytemuck::Zeroable::zeroed();
        (event.header.pid, event.header.time_ns, event.started_ns) = (pid, time_ns, 7);
        (event.kind, event.signal, event.origin) = (kind, signal::SIGKILL, origin::KERNEL);
        event
    }

    fn observe(container: &mut Container, event: &ContainerEvent) -> Vec<&'static str> {
        let mut out = Vec::new();
        container.observe(bytemuck::bytes_of(event), &mut out).unwrap();
        out.iter().map(|anomaly| anomaly.kind).collect()
    }

    fn tick(container: &mut Container, now_ns: u64) -> Vec<u32> {
        let mut out = Vec::new();
        container.tick(now_ns, &mut out);
        assert!(out.iter().all(|anomaly| anomaly.kind == "container.killed"));
        out.iter().map(|anomaly| anomaly.pid).collect()
    }

    #[test]
    fn a_victim_that_is_gone_before_the_kernel_says_why_is_told_once_with_the_reason() {
        let mut container = Container::new(&Settings::default());
        assert!(observe(&mut container, &killed(1, kind::SIGNALLED, 100)).is_empty());
        assert!(observe(&mut container, &killed(2, kind::SIGNALLED, 200)).is_empty());
        assert_eq!(observe(&mut container, &killed(1, kind::OOM_KILL, 90)), ["container.oom_kill"]);
        assert!(tick(&mut container, 150 + WORD_NS).is_empty());
        assert_eq!(tick(&mut container, 200 + WORD_NS), [2], "nobody said why");
        let other = ContainerEvent { started_ns: 8, ..killed(2, kind::OOM_KILL, 300) };
        observe(&mut container, &killed(2, kind::SIGNALLED, 300));
        observe(&mut container, &other);
        assert_eq!(tick(&mut container, u64::MAX), [2], "the other had its id before");
    }

    #[test]
    fn a_request_that_was_long_survived_is_no_reason() {
        let told = |kind, asked_signal, ago_ns| {
            let mut event = killed(1, kind, 2 * STOP_NS);
            (event.origin, event.actor.pid) = (origin::PROCESS, 77);
            (event.asked_signal, event.asked_ns) = (asked_signal, event.header.time_ns - ago_ns);
            let told = judge(&event, &Settings::default()).unwrap();
            let asked = told.data.text("asked_signal").map(str::to_owned).zip(told.data.number("asked_ms"));
            (told.severity, asked, told.actor.is_some())
        };
        const SIGINT: u32 = 2;
        const SIGQUIT: u32 = 3;
        for (signal, name, most_ns) in [
            (signal::SIGTERM, "SIGTERM", STOP_NS),
            (SIGINT, "SIGINT", HANDLED_NS),
            (SIGQUIT, "SIGQUIT", HANDLED_NS),
        ] {
            let asked = Some((name.to_owned(), most_ns / 1_000_000));
            assert_eq!(told(kind::SIGNALLED, signal, most_ns), (Severity::Warning, asked.clone(), true));
            assert_eq!(told(kind::SIGNALLED, signal, most_ns + 1), (Severity::Error, None, true), "{name}");
            assert_eq!(told(kind::EXIT_ERROR, signal, most_ns), (Severity::Error, asked, true));
            assert_eq!(told(kind::EXIT_ERROR, signal, most_ns + 1), (Severity::Error, None, false), "{name}");
        }
    }

    #[test]
    fn a_storm_of_deaths_by_the_kernel_is_bounded() {
        let mut container = Container::new(&Settings::default());
        let told: usize =
            (0..2000).map(|pid| observe(&mut container, &killed(pid, kind::SIGNALLED, 1)).len()).sum();
        assert_eq!(told + tick(&mut container, u64::MAX).len(), 2000);
        assert_eq!(told, 2000 - MAX_WAITING);
    }
}
