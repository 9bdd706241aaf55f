//! Ends of processes: which of them are news.

use aya_ebpf::{bindings::BPF_NOEXIST, macros::map, maps::LruHashMap};
use tapio_common::{
    Header,
    container::{self as fields, ContainerEvent, Full, Memory, UNKNOWN, flag, kind, origin, program},
};
use tapio_ebpf::{Run, now_ns};

use crate::{
    fate::{self, SIGINT, SIGKILL, SIGQUIT, SIGTERM},
    task::Task,
};

/// Deaths that were reported and may come again: by the kernel's word before the end, or by two threads at once.
const MAX_TOLD: u32 = 4096;

#[map]
static TOLD: LruHashMap<Death, u8> = LruHashMap::with_max_entries(MAX_TOLD, 0);

/// What [`TOLD`] holds: it was reported itself.
const ITSELF: u8 = 0;
/// It was reported with another, whose memory it shares.
const WITH_ANOTHER: u8 = 1;
/// It was reported as killed by the kernel, which may yet say why: a victim can be gone before the one that killed it gets to
/// that.
const BY_KERNEL: u8 = 2;

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

/// Signals that end processes in good order: asked to end, a reader or a terminal that went, their own alarm.
const ORDERLY: u32 = 1 << SIGHUP | 1 << SIGINT | 1 << SIGQUIT | 1 << SIGPIPE | 1 << SIGALRM | 1 << SIGTERM;

/// True for the first of those that would tell the end of a process.
#[inline(always)]
fn is_first_to_tell(tgid: u32, started_ns: u64, how: u8) -> bool {
    let death = Death { started_ns, tgid: u64::from(tgid) };
    // Whoever puts it in first. A map without room drops the oldest.
    TOLD.insert(&death, how, u64::from(BPF_NOEXIST)).is_ok()
}

/// True for the first time that the kernel says why. It makes one that was a part of another a victim of its own, and
/// stands in the place of a death that was reported without a reason.
#[inline(always)]
pub(crate) fn is_first_to_confirm(tgid: u32, started_ns: u64) -> bool {
    let death = Death { started_ns, tgid: u64::from(tgid) };
    let Some(reported) = TOLD.get_ptr_mut(&death) else { return is_first_to_tell(tgid, started_ns, ITSELF) };
    // SAFETY: a map value.
    unsafe { core::mem::replace(&mut *reported, ITSELF) != ITSELF }
}

/// The end of a process will be that of another, which is reported.
#[inline(always)]
pub(crate) fn is_part_of_another(tgid: u32, started_ns: u64) {
    let death = Death { started_ns, tgid: u64::from(tgid) };
    // One that was reported already stays so.
    let _ = TOLD.insert(&death, WITH_ANOTHER, u64::from(BPF_NOEXIST));
}

/// Processes of which a child was killed, and how that was: many end then with status 128 + its signal, or raise the same
/// signal themselves.
#[map]
static BEREFT: LruHashMap<u32, Bereft> = LruHashMap::with_max_entries(MAX_TOLD, 0);

#[repr(C)]
#[derive(Clone, Copy)]
struct Bereft {
    /// Of the process: its id may be used again.
    started_ns: u64,
    at_ns: u64,
    signal: u64,
}

/// Status 128 + n, or signal n, after this is no longer that of a child that was killed with n: 10 s.
const BEREFT_NS: u64 = 10_000_000_000;

/// Takes down that a parent's child was killed.
#[inline(always)]
fn bereave(parent: Task, signal: u32) {
    let bereft =
        Bereft { started_ns: parent.leader().started_ns(), at_ns: now_ns(), signal: u64::from(signal) };
    // Without room the parent's end is reported, too.
    let _ = BEREFT.insert(&parent.tgid(), bereft, 0);
}

/// Whether a child of a process was killed with this signal a moment ago, so that it may pass that on by its own end.
#[inline(always)]
fn is_bereft(task: Task, signal: u32) -> bool {
    let tgid = task.tgid();
    let Some(bereft) = BEREFT.get_ptr(&tgid) else { return false };
    // SAFETY: a map value.
    let bereft = unsafe { &*bereft };
    bereft.started_ns == task.leader().started_ns()
        && u64::from(signal) == bereft.signal
        && now_ns().wrapping_sub(bereft.at_ns) < BEREFT_NS
}

pub(crate) fn ended(task: *const u8) {
    let task = Task(task);
    // A process ends with its last thread; of two that end at once both see this.
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
    if signal == 0 && status > 128 && is_bereft(task, status - 128) {
        bereave(task.parent(), status - 128);
        return run.normal();
    }
    if signal == 0 && !is_main {
        return run.normal();
    }
    // Who ends with the first process of its namespace is no news of its own.
    if flags & flag::IN_NAMESPACE != 0
        && flags & flag::INIT == 0
        && signal == SIGKILL
        && task.reaper().is_ending()
    {
        return run.normal();
    }
    tell(task, flags, code, run);
}

#[inline(never)]
fn tell(task: Task, flags: u32, code: u32, run: Run) {
    let tgid = task.tgid();
    let leader = task.leader();
    let started_ns = leader.started_ns();
    let (signal, status) = (code & 0x7f, (code >> 8) & 0xff);
    let fate = fate::of(tgid, started_ns);
    // A process that was asked to end, did, and says so.
    if let Some(fate) = fate
        && signal == 0
        && fate.asked_signal != 0
        && status == 128 + fate.asked_signal
    {
        return run.normal();
    }
    // As `timeout`, `unshare` and `sudo` do: the child died, and was reported.
    if signal != 0 && fate.is_some_and(|fate| fate.is_raised(signal)) && is_bereft(task, signal) {
        bereave(task.parent(), signal);
        return run.normal();
    }
    // What is done within a group is reported for its main process only.
    if signal != 0 && !fate.is_some_and(|fate| fate.is_from_within(task.cgroup_id())) {
        bereave(task.parent(), signal);
    }
    let by_kernel = signal == SIGKILL && fate.is_some_and(|fate| fate.origin == origin::KERNEL);
    if !is_first_to_tell(tgid, started_ns, if by_kernel { BY_KERNEL } else { ITSELF }) {
        return run.normal();
    }
    run.emit(|event: &mut ContainerEvent| {
        event.header = Header {
            time_ns: now_ns(),
            cgroup_id: task.cgroup_id(),
            pid: tgid,
            suppressed: 0,
            comm: leader.comm(),
        };
        event.kind = if signal == 0 { kind::EXIT_ERROR } else { kind::SIGNALLED };
        (event.flags, event.signal, event.status) = (flags, signal, status);
        event.score_adj = task.oom_score_adj();
        if leader.is_only_forked() {
            event.flags |= flag::NOT_EXECUTED;
        }
        event.flags |= task.cpu_limit();
        let parent = task.parent();
        if flags & (flag::INIT | flag::IN_NAMESPACE) == flag::IN_NAMESPACE
            && parent.namespace_level() < task.namespace_level()
        {
            event.flags |= flag::ENTERED;
        }
        event.address = UNKNOWN;
        event.started_ns = started_ns;
        event.memory = Memory {
            anon_bytes: UNKNOWN,
            file_bytes: UNKNOWN,
            shmem_bytes: UNKNOWN,
            page_tables_bytes: UNKNOWN,
        };
        event.full =
            Full { cgroup_id: UNKNOWN, usage_bytes: UNKNOWN, limit_bytes: UNKNOWN, levels_up: UNKNOWN };
        let Some(fate) = fate else { return };
        (event.asked_signal, event.asked_ns) = (fate.asked_signal, fate.asked_ns);
        event.aborted_ns = fate.aborted_ns;
        // The last signal need not be the one that it ended of.
        let asked = signal == 0 && fate.signal == fate.asked_signal;
        if fate.signal != signal && !asked {
            return;
        }
        (event.origin, event.code) = (fate.origin, fate.code);
        event.address = fate.address;
        event.actor = fate.actor;
        if fate.origin == origin::PROCESS && fate.actor.pid == parent.tgid() {
            event.flags |= flag::BY_PARENT;
        }
    });
}
