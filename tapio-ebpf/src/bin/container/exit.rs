//! Ends of processes: which of them are news.

use aya_ebpf::{bindings::BPF_NOEXIST, macros::map, maps::LruHashMap};
use tapio_common::{
    Header,
    container::{self as fields, ContainerEvent, Full, Memory, UNKNOWN, flag, kind, program},
};
use tapio_ebpf::{Run, now_ns};

use crate::{
    fate::{self, SIGINT, SIGKILL, SIGQUIT, SIGTERM},
    task::Task,
};

/// Deaths that were told and may come again: by the kernel's word before the end, or by two threads at once.
const MAX_TOLD: u32 = 4096;

#[map]
static TOLD: LruHashMap<Death, u8> = LruHashMap::with_max_entries(MAX_TOLD, 0);

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
pub(crate) fn is_first_to_tell(tgid: u32, started_ns: u64) -> bool {
    let death = Death { started_ns, tgid: u64::from(tgid) };
    // Whoever puts it in first. A map without room drops the oldest.
    TOLD.insert(&death, 0, u64::from(BPF_NOEXIST)).is_ok()
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
    if !is_first_to_tell(tgid, started_ns) {
        return run.normal();
    }
    run.emit(|event: &mut ContainerEvent| {
        event.header = Header {
            time_ns: now_ns(),
            cgroup_id: task.cgroup_id(),
            pid: tgid,
            held_back: 0,
            comm: leader.comm(),
        };
        event.kind = if signal == 0 { kind::EXIT_ERROR } else { kind::SIGNALLED };
        (event.flags, event.signal, event.status) = (flags, signal, status);
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
        // The last signal need not be the one that it ended of.
        let asked = signal == 0 && fate.signal == fate.asked_signal;
        if fate.signal != signal && !asked {
            return;
        }
        (event.origin, event.code) = (fate.origin, fate.code);
        event.address = fate.address;
        event.actor = fate.actor;
    });
}
