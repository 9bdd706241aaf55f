//! Classifies a death: by signal and status, by who caused it, and by whose process it was.

use tapio_common::{
    Comm,
    container::{ContainerEvent, UNKNOWN, flag, kind, origin},
};

use super::signal;
use crate::observer::{Malformed, Sandbox};

/// A death this long after SIGTERM is not caused by it: Kubernetes waits 30 s unless a pod asks for more,
/// systemd 90 s.
pub(super) const STOP_NS: u64 = 3_600_000_000_000;
/// The same for SIGINT and SIGQUIT. Some images are stopped with these, but a process may also handle them
/// and go on, like a JVM that prints its thread dump.
pub(super) const HANDLED_NS: u64 = 120_000_000_000;
/// If the first process of a pid namespace ends later than this after it raised SIGABRT, it may have handled
/// that signal.
const ABORT_NS: u64 = 10_000_000_000;

/// The kind of death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    OomKill,
    ExitError,
    Crash,
    /// The process called `abort`. As the first process of its pid namespace it ended otherwise than by
    /// SIGABRT.
    Abort,
    Killed,
    /// The process was asked to end, did not, and was killed.
    Stopped,
    /// A command run in a container from outside was killed by the process that ran it: an exec probe that
    /// timed out.
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

/// A fault signal that the process raised itself, or whose origin is unknown. In the latter case no origin is
/// reported.
fn is_crash(event: &ContainerEvent) -> bool {
    signal::is_fault(event.signal) && matches!(event.origin, origin::ITSELF | origin::UNKNOWN)
}

/// Whether the process called `abort`: SIGABRT without a handler, which the kernel does not deliver to the
/// first process of a pid namespace. `abort` then executes an illegal instruction (HLT, BRK, UDF, a write to
/// address 0), and if that is handled it exits with status 127.
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

/// Whether a command run in a container from outside was killed by the process that ran it. Runtimes do that
/// on a timeout.
fn is_exec(event: &ContainerEvent) -> bool {
    let by_runtime = flag::ENTERED | flag::BY_PARENT;
    event.signal == signal::SIGKILL && event.flags & by_runtime == by_runtime
}

/// How it is known that the command of a container or service was never executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unexecuted {
    /// The container's first process is still the runtime's own.
    Runtime,
    /// The process was forked by systemd, and its exit status says what systemd failed to do.
    Systemd,
}

/// Command names of the processes in which runtimes execute a container's command.
const RUNTIMES: [&[u8]; 3] = [b"runc:[", b"youki:[", b"crun\0"];
/// Exit statuses for what systemd failed to do before it executed a command, systemd.exec(5).
const SYSTEMD: std::ops::RangeInclusive<u32> = 200..=245;

/// Whether the command was never executed; `None` if that is not certain.
pub(super) fn unexecuted(event: &ContainerEvent) -> Option<Unexecuted> {
    let comm = command(event.header.comm);
    let is_set = |flags| event.flags & flags == flags;
    if is_set(flag::INIT | flag::NOT_EXECUTED) && RUNTIMES.iter().any(|runtime| comm.starts_with(runtime)) {
        return Some(Unexecuted::Runtime);
    }
    // systemd names its process after the command, in parentheses.
    let name = comm.split(|byte| *byte == 0).next().unwrap_or_default();
    let is_systemds = name.starts_with(b"(") && name.ends_with(b")");
    let is_status = event.kind == kind::EXIT_ERROR && SYSTEMD.contains(&event.status);
    (is_set(flag::SESSION_OF_HOST) && is_systemds && is_status).then_some(Unexecuted::Systemd)
}

/// The signal that asked the process to end, and how long before its death, nanoseconds. A signal that it
/// survived for long does not count.
pub(super) fn asked(event: &ContainerEvent) -> Option<(u32, u64)> {
    let ago_ns = event.header.time_ns.saturating_sub(event.asked_ns);
    let most_ns = if event.asked_signal == signal::SIGTERM { STOP_NS } else { HANDLED_NS };
    (event.asked_signal != 0 && ago_ns <= most_ns).then_some((event.asked_signal, ago_ns))
}

/// The resource limit for which the kernel ended the process.
pub(super) fn limit(event: &ContainerEvent, death: Death) -> Option<&'static str> {
    let is_set = |flag| event.flags & flag != 0;
    if event.origin != origin::KERNEL || !matches!(death, Death::Killed | Death::Stopped) {
        return None;
    }
    match event.signal {
        signal::SIGXFSZ => Some("RLIMIT_FSIZE"),
        // Without RLIMIT_CPU, the kernel sends it for the limit of real-time scheduling.
        signal::SIGXCPU if is_set(flag::CPU_LIMITED) => Some("RLIMIT_CPU"),
        signal::SIGKILL if is_set(flag::CPU_USED_UP) => Some("RLIMIT_CPU"),
        _ => None,
    }
}

/// Whether a container's first process ended at the request of another process, such as the kubelet after a
/// failed liveness or startup probe.
pub(super) fn is_restart(event: &ContainerEvent, death: Death) -> bool {
    let was_stopped = match death {
        Death::Stopped => true,
        Death::Killed => event.signal == signal::SIGKILL && event.origin == origin::PROCESS,
        Death::ExitError => asked(event).is_some(),
        _ => false,
    };
    was_stopped && event.flags & flag::INIT != 0
}

/// `oom_score_adj` that containerd, CRI-O and cri-dockerd give a pod's sandbox. Kubernetes gives it to no
/// container: those have -997, or 2 and more.
const SANDBOX_SCORE: i32 = -998;
/// The command name of a sandbox's first process, for runtimes that may not lower its score.
const PAUSE: [u8; 16] = *b"pause\0\0\0\0\0\0\0\0\0\0\0";

/// Fills the command name with zeros after its end, because older kernels leave the rest of an earlier name
/// there.
pub(super) fn command(comm: Comm) -> [u8; 16] {
    let mut comm = <[u8; 16]>::from(comm);
    if let Some(end) = comm.iter().position(|byte| *byte == 0) {
        comm[end..].fill(0);
    }
    comm
}

/// Whether it looks like the end of a pod's sandbox. Crashes and OOM kills do not: nobody ends a sandbox that
/// way.
pub(super) fn sandbox(event: &ContainerEvent, death: Death) -> Sandbox {
    if matches!(death, Death::OomKill | Death::Crash | Death::Abort) {
        return Sandbox::No;
    }
    let is_first = event.flags & flag::INIT != 0;
    let is_killed = event.signal == signal::SIGKILL && event.origin == origin::PROCESS;
    // Pause exits when it is asked to, so a process that ignored a request is something else of that name.
    let is_pause = command(event.header.comm) == PAUSE && is_killed && event.asked_signal == 0;
    if event.oom_score_adj as i32 == SANDBOX_SCORE || (is_first && is_pause) {
        return Sandbox::Likely { is_first };
    }
    if is_killed { Sandbox::Unlisted } else { Sandbox::No }
}
