//! What a death was: by signal and status, by who had a hand in it, and by whose it is.

use tapio_common::{
    Comm,
    container::{ContainerEvent, UNKNOWN, flag, kind, origin},
};

use super::signal;
use crate::observer::{Malformed, Sandbox};

/// A death so long after SIGTERM is no end of a stop: Kubernetes waits for 30 s unless a pod wants more, systemd for 90 s.
pub(super) const STOP_NS: u64 = 3_600_000_000_000;
/// The same after SIGINT and SIGQUIT. Some images are stopped with these, but a process may also handle them and go on,
/// as a JVM that writes the stacks of its threads.
pub(super) const HANDLED_NS: u64 = 120_000_000_000;
/// The first process of a pid namespace that ends so long after it has raised SIGABRT may have handled it.
const ABORT_NS: u64 = 10_000_000_000;

/// How it died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
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
    pub(super) fn of(event: &ContainerEvent) -> Result<Self, Malformed> {
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
pub(super) enum Unexecuted {
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
pub(super) fn unexecuted(event: &ContainerEvent) -> Option<Unexecuted> {
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
pub(super) fn asked(event: &ContainerEvent) -> Option<(u32, u64)> {
    let ago_ns = event.header.time_ns.saturating_sub(event.asked_ns);
    let most_ns = if event.asked_signal == signal::SIGTERM { STOP_NS } else { HANDLED_NS };
    (event.asked_signal != 0 && ago_ns <= most_ns).then_some((event.asked_signal, ago_ns))
}

/// The limit of the process that the kernel ended it for.
pub(super) fn limit(event: &ContainerEvent, death: Death) -> Option<&'static str> {
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
pub(super) fn is_restart(event: &ContainerEvent, death: Death) -> bool {
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
pub(super) fn command(comm: Comm) -> [u8; 16] {
    let mut comm = <[u8; 16]>::from(comm);
    if let Some(end) = comm.iter().position(|byte| *byte == 0) {
        comm[end..].fill(0);
    }
    comm
}

/// Whether it looks like the end of a pod's sandbox. A crash and an OOM kill do not: nobody ends a sandbox that way.
pub(super) fn sandbox(event: &ContainerEvent, death: Death) -> Sandbox {
    if matches!(death, Death::OomKill | Death::Crash | Death::Abort) {
        return Sandbox::No;
    }
    let is_first = event.flags & flag::INIT != 0;
    let is_killed = event.signal == signal::SIGKILL && event.origin == origin::PROCESS;
    // Pause exits when it is asked to. So what survived a request is something else of that name.
    let is_pause = command(event.header.comm) == PAUSE && is_killed && event.asked_signal == 0;
    if event.oom_score_adj as i32 == SANDBOX_SCORE || (is_first && is_pause) {
        return Sandbox::Likely { is_first };
    }
    if is_killed { Sandbox::Unlisted } else { Sandbox::No }
}
