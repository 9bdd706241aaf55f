//! Process exits: decides which of them are reported.

use aya_ebpf::{bindings::BPF_NOEXIST, macros::map, maps::LruHashMap};
use tapio_common::{
    Header,
    container::{self as fields, ContainerEvent, Memory, OomCgroup, UNKNOWN, flag, kind, origin, program},
};
use tapio_ebpf::{Run, forget, now_ns, since};

use crate::{
    last_signal::{self, SIGINT, SIGKILL, SIGQUIT, SIGTERM},
    task::Task,
};

/// Reported deaths that may be reported again: the OOM killer marks the victim before it exits, and two threads may
/// exit at the same time.
const MAX_REPORTED: u32 = 4096;

#[map]
static REPORTED: LruHashMap<Death, u8> = LruHashMap::with_max_entries(MAX_REPORTED, 0);

/// Value in [`REPORTED`]: the death was reported by itself.
const SEPARATELY: u8 = 0;
/// Value in [`REPORTED`]: the death was reported with that of another process, which shares the same memory.
const WITH_ANOTHER: u8 = 1;
/// Value in [`REPORTED`]: the death was reported as killed by the kernel. The OOM killer may still give the reason: a
/// victim can exit before the task that killed it marks it.
const KILLED_BY_KERNEL: u8 = 2;

#[repr(C)]
#[derive(Clone, Copy)]
struct Death {
    started_ns: u64,
    tgid: u64,
}

// include/uapi/asm-generic/signal.h
const SIGHUP: u32 = 1;
const SIGPIPE: u32 = 13;
const SIGALRM: u32 = 14;

/// Signals by which processes terminate in an orderly way: a request, a reader or terminal that closed, their own
/// alarm.
const ORDERLY: u32 = 1 << SIGHUP | 1 << SIGINT | 1 << SIGQUIT | 1 << SIGPIPE | 1 << SIGALRM | 1 << SIGTERM;

/// Returns true for the first report of a death.
#[inline(always)]
fn is_first_report(tgid: u32, started_ns: u64, how: u8) -> bool {
    let death = Death { started_ns, tgid: u64::from(tgid) };
    // The first insertion wins. If the map is full, the oldest entry is evicted.
    REPORTED.insert(&death, how, u64::from(BPF_NOEXIST)).is_ok()
}

/// Returns true the first time that the OOM killer confirms a death. It turns a process that was part of another victim
/// into a victim of its own, and replaces a death that was reported without a reason.
#[inline(always)]
pub(crate) fn is_first_confirmation(tgid: u32, started_ns: u64) -> bool {
    let death = Death { started_ns, tgid: u64::from(tgid) };
    let Some(reported) = REPORTED.get_ptr_mut(&death) else {
        return is_first_report(tgid, started_ns, SEPARATELY);
    };
    // SAFETY: a map value.
    unsafe { core::mem::replace(&mut *reported, SEPARATELY) != SEPARATELY }
}

/// Marks a death as part of another one, which is reported.
#[inline(always)]
pub(crate) fn mark_as_part_of_another(tgid: u32, started_ns: u64) {
    let death = Death { started_ns, tgid: u64::from(tgid) };
    // A death that was already reported by itself stays so.
    let _ = REPORTED.insert(&death, WITH_ANOTHER, u64::from(BPF_NOEXIST));
}

/// Processes whose child was killed by a signal, by tgid of the parent. Many parents then exit with status 128 + that
/// signal, or raise the same signal themselves.
#[map]
static KILLED_CHILDREN: LruHashMap<u32, KilledChild> = LruHashMap::with_max_entries(MAX_REPORTED, 0);

#[repr(C)]
#[derive(Clone, Copy)]
struct KilledChild {
    /// Start time of the parent, since its PID may be reused.
    parent_started_ns: u64,
    at_ns: u64,
    signal: u64,
}

/// How long after a child was killed by signal n the parent's status 128 + n, or signal n, is attributed to it: 10 s.
const KILLED_CHILD_NS: u64 = 10_000_000_000;

/// A process: its id, and when it started.
#[derive(Clone, Copy)]
struct Process {
    tgid: u32,
    started_ns: u64,
}

impl Process {
    #[inline(always)]
    fn of(task: Task) -> Self {
        Self { tgid: task.tgid(), started_ns: task.leader().started_ns() }
    }

    /// Records that a child of it was killed by a signal.
    #[inline(always)]
    fn record_killed_child(self, signal: u32) {
        let child =
            KilledChild { parent_started_ns: self.started_ns, at_ns: now_ns(), signal: u64::from(signal) };
        // If the map has no room, the exit of the parent is reported, too.
        let _ = KILLED_CHILDREN.insert(&self.tgid, child, 0);
    }

    /// Returns true if a child of it was recently killed by this signal, so its own exit may only propagate that.
    #[inline(always)]
    fn lost_child_to(self, signal: u32) -> bool {
        let Some(child) = KILLED_CHILDREN.get_ptr(&self.tgid) else { return false };
        // SAFETY: a map value.
        let child = unsafe { &*child };
        child.parent_started_ns == self.started_ns
            && u64::from(signal) == child.signal
            && since(now_ns(), child.at_ns) < KILLED_CHILD_NS
    }
}

pub(crate) fn exited(task: *const u8) {
    let task = Task(task);
    // A process ends with its last thread. If the last two exit at the same time, both see 0.
    if task.shared::<u32>(fields::LIVE) != 0 {
        return;
    }
    let Some(run) = Run::begin(program::SCHED_PROCESS_EXIT) else { return };
    let code = task.group_exit_code();
    if code == 0 {
        return run.normal();
    }
    let signal = code & 0x7f;
    if signal < 32 && ORDERLY & (1 << signal) != 0 {
        return run.normal();
    }
    let flags = task.flags();
    let is_main = flags & (flag::INIT | flag::SESSION_OF_HOST) != 0;
    let status = (code >> 8) & 0xff;
    if signal == 0 && status > 128 && Process::of(task).lost_child_to(status - 128) {
        Process::of(task.parent()).record_killed_child(status - 128);
        return run.normal();
    }
    if signal == 0 && !is_main {
        return run.normal();
    }
    // The kernel kills all processes of a PID namespace with its first one; only the first one is reported.
    if flags & flag::IN_NAMESPACE != 0
        && flags & flag::INIT == 0
        && signal == SIGKILL
        && task.reaper().is_ending()
    {
        return run.normal();
    }
    report(task, flags, code, run);
}

/// Reads everything first: newer verifiers search all types for each pointer that is read, on each path to it.
#[inline(never)]
fn report(task: Task, mut flags: u32, code: u32, run: Run) {
    let (leader, parent) = (task.leader(), task.parent());
    let process = Process { tgid: task.tgid(), started_ns: leader.started_ns() };
    let forget = |value: u32| forget(value.into(), process.started_ns) as u32;
    let (signal, status) = (forget(code & 0x7f), forget((code >> 8) & 0xff));
    flags = forget(flags);
    let of_parent = Process::of(parent);
    let cgroup_id = task.cgroup_id();
    let oom_score_adj = task.oom_score_adj();
    if leader.has_not_executed() {
        flags |= flag::NOT_EXECUTED;
    }
    if flags & (flag::INIT | flag::IN_NAMESPACE) == flag::IN_NAMESPACE
        && parent.namespace_level() < task.namespace_level()
    {
        flags |= flag::ENTERED;
    }
    flags = forget(flags | task.cpu_limit());
    let comm = leader.comm();
    let last_signal = last_signal::of(process.tgid, process.started_ns);
    // The process was asked to terminate, and reports that by its status.
    if let Some(last_signal) = last_signal
        && signal == 0
        && last_signal.asked_signal != 0
        && status == 128 + last_signal.asked_signal
    {
        return run.normal();
    }
    // The child's death was reported; `timeout`, `unshare` and `sudo` then raise the same signal.
    if signal != 0 && last_signal.is_some_and(|last| last.is_raised(signal)) && process.lost_child_to(signal)
    {
        of_parent.record_killed_child(signal);
        return run.normal();
    }
    // Kills from within the same cgroup are reported for the main process only: the parent's exit is not suppressed.
    if signal != 0 && !last_signal.is_some_and(|last| last.is_from_own_cgroup(cgroup_id)) {
        of_parent.record_killed_child(signal);
    }
    let by_kernel = signal == SIGKILL && last_signal.is_some_and(|last| last.origin == origin::KERNEL);
    let how = if by_kernel { KILLED_BY_KERNEL } else { SEPARATELY };
    if !is_first_report(process.tgid, process.started_ns, how) {
        return run.normal();
    }
    run.emit(|event: &mut ContainerEvent| {
        event.header = Header { time_ns: now_ns(), cgroup_id, pid: process.tgid, suppressed: 0, comm };
        event.kind = if signal == 0 { kind::EXIT_ERROR } else { kind::SIGNALLED };
        (event.flags, event.signal, event.status) = (flags, signal, status);
        event.oom_score_adj = oom_score_adj;
        event.address = UNKNOWN;
        event.started_ns = process.started_ns;
        event.memory = Memory {
            anon_bytes: UNKNOWN,
            file_bytes: UNKNOWN,
            shmem_bytes: UNKNOWN,
            page_tables_bytes: UNKNOWN,
        };
        event.oom_cgroup =
            OomCgroup { cgroup_id: UNKNOWN, usage_bytes: UNKNOWN, limit_bytes: UNKNOWN, levels_up: UNKNOWN };
        let Some(last_signal) = last_signal else { return };
        (event.asked_signal, event.asked_ns) = (last_signal.asked_signal, last_signal.asked_ns);
        event.aborted_ns = last_signal.aborted_ns;
        // The process may have been ended by something other than its last signal.
        let asked = signal == 0 && last_signal.signal == last_signal.asked_signal;
        if last_signal.signal != signal && !asked {
            return;
        }
        (event.origin, event.code) = (last_signal.origin, last_signal.code);
        event.address = last_signal.address;
        event.actor = last_signal.actor;
        if last_signal.origin == origin::PROCESS && last_signal.actor.pid == of_parent.tgid {
            event.flags |= flag::BY_PARENT;
        }
    });
}
