//! Signals that may end a process: who sent the last one, for when it ends.

use aya_ebpf::{macros::map, maps::LruHashMap};
use tapio_common::container::{self as fields, Actor, UNKNOWN, origin, program};
use tapio_ebpf::{Current, Run, is_absent, now_ns};

use crate::{
    AGENT, OFFSETS, constant, memory,
    task::{Task, current_memory_group},
};

/// `TRACE_SIGNAL_DELIVERED`, include/trace/events/signal.h. Others are ignored, or wait already.
pub(crate) const DELIVERED: i32 = 0;

// include/uapi/asm-generic/signal.h
pub(crate) const SIGINT: u32 = 2;
pub(crate) const SIGQUIT: u32 = 3;
pub(crate) const SIGILL: u32 = 4;
pub(crate) const SIGTRAP: u32 = 5;
pub(crate) const SIGABRT: u32 = 6;
pub(crate) const SIGBUS: u32 = 7;
pub(crate) const SIGFPE: u32 = 8;
pub(crate) const SIGKILL: u32 = 9;
pub(crate) const SIGUSR1: u32 = 10;
pub(crate) const SIGSEGV: u32 = 11;
pub(crate) const SIGUSR2: u32 = 12;
pub(crate) const SIGTERM: u32 = 15;
pub(crate) const SIGXCPU: u32 = 24;
pub(crate) const SIGXFSZ: u32 = 25;
pub(crate) const SIGSYS: u32 = 31;

/// Signals whose senders are kept. Not those that end a process by default only where nobody awaits them, and are
/// sent by the thousand: SIGALRM, SIGPROF, SIGIO, real-time signals. SIGHUP and SIGPIPE end processes every day.
const KEPT: u32 = bits(&[
    SIGINT, SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGKILL, SIGUSR1, SIGSEGV, SIGUSR2, SIGTERM,
    SIGXCPU, SIGXFSZ, SIGSYS,
]);

/// Signals that ask a process to end.
const ASKS: u32 = bits(&[SIGINT, SIGQUIT, SIGTERM]);

// include/linux/sched/signal.h: instead of a pointer.
const SEND_SIG_NOINFO: u64 = 0;
const SEND_SIG_PRIV: u64 = 1;

// include/uapi/asm-generic/siginfo.h: what processes send has these codes.
const SI_USER: i32 = 0;
const SI_QUEUE: i32 = -1;
const SI_TKILL: i32 = -6;

/// Processes that were sent a signal; the one not used for longest makes room.
const MAX_FATES: u32 = 16_384;

#[map]
static FATES: LruHashMap<u32, Fate> = LruHashMap::with_max_entries(MAX_FATES, 0);

/// The last signal that may end a process.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Fate {
    /// Of the process: its id may be used again.
    started_ns: u64,
    pub(crate) signal: u32,
    pub(crate) origin: u32,
    pub(crate) code: u32,
    /// The last signal of [`ASKS`] from outside itself.
    pub(crate) asked_signal: u32,
    pub(crate) asked_ns: u64,
    /// When it last raised SIGABRT itself; 0 where it never did.
    pub(crate) aborted_ns: u64,
    pub(crate) address: u64,
    pub(crate) actor: Actor,
}

#[inline(always)]
const fn bits(signals: &[u32]) -> u32 {
    let (mut bits, mut i) = (0, 0);
    while i < signals.len() {
        bits |= 1 << signals[i];
        i += 1;
    }
    bits
}

/// Whether a signal is one whose sender is kept.
#[inline(always)]
pub(crate) fn may_end(signal: u32) -> bool {
    signal < 32 && KEPT & (1 << signal) != 0
}

pub(crate) fn signalled(signal: u32, info: *const u8, task: *const u8, result: i32) {
    // Without a handler the first process of a pid namespace ignores them, and both count: that it was asked to end, and
    // that it aborts, which then ends it in another way.
    if result != DELIVERED && !asks(signal) && signal != SIGABRT {
        return;
    }
    let Some(run) = Run::begin(program::SIGNAL_GENERATE) else { return };
    run.normal();
    let task = Task(task);
    let current = Current::get(&constant(&AGENT), &OFFSETS[fields::CURRENT_LEADER], &OFFSETS[fields::COMM]);
    let tgid = task.tgid();
    let own = if task.is_beside_version_1() { current_memory_group() } else { None };
    let comm = if current.pid == tgid { task.leader().comm() } else { current.comm };
    let actor = Actor { cgroup_id: own.unwrap_or(current.cgroup_id), pid: current.pid, reserved: 0, comm };
    if signal == SIGKILL && info as u64 == SEND_SIG_PRIV {
        memory::suspected(task, &actor);
    }
    let mut fate = Fate {
        started_ns: task.leader().started_ns(),
        signal,
        origin: origin::KERNEL,
        code: 0,
        asked_signal: 0,
        asked_ns: 0,
        aborted_ns: 0,
        address: UNKNOWN,
        actor,
    };
    describe(&mut fate, info, current.pid == tgid);
    if asks(signal) && fate.origin != origin::ITSELF {
        fate.asked_signal = signal;
        fate.asked_ns = now_ns();
    }
    if signal == SIGABRT && fate.origin == origin::ITSELF {
        fate.aborted_ns = now_ns();
    }
    let Some(known) = FATES.get_ptr_mut(&tgid) else {
        // A map without room costs the name of a sender.
        let _ = FATES.insert(&tgid, fate, 0);
        return;
    };
    // SAFETY: a map value; of two signals at once either may be kept.
    let known = unsafe { &mut *known };
    if known.started_ns != fate.started_ns {
        *known = fate;
        return;
    }
    if fate.asked_signal == 0 {
        fate.asked_signal = known.asked_signal;
        fate.asked_ns = known.asked_ns;
    }
    if fate.aborted_ns == 0 {
        fate.aborted_ns = known.aborted_ns;
    }
    if known.keeps(&fate, result) {
        known.asked_signal = fate.asked_signal;
        known.asked_ns = fate.asked_ns;
        known.aborted_ns = fate.aborted_ns;
    } else {
        *known = fate;
    }
}

impl Fate {
    /// Whether a process of the same group sent it.
    #[inline(always)]
    pub(crate) fn is_from_within(&self, cgroup_id: u64) -> bool {
        self.origin == origin::PROCESS && self.actor.cgroup_id == cgroup_id
    }

    /// Whether a process sent it to itself, and it is no fault of its own. Where lockdown hides which it was, it may be one.
    #[inline(always)]
    pub(crate) fn is_raised(&self, signal: u32) -> bool {
        self.signal == signal && self.origin == origin::ITSELF && self.code as i32 <= 0
    }

    /// Whether a later signal to the same process changes nothing: nothing comes after SIGKILL, nothing comes of one
    /// that is ignored, and one that a process sends to itself again is how a handler passes a fault on.
    #[inline(always)]
    fn keeps(&self, later: &Self, result: i32) -> bool {
        if self.signal == SIGKILL || result != DELIVERED {
            return true;
        }
        self.signal == later.signal && later.origin == origin::ITSELF && later.address == UNKNOWN
    }
}

#[inline(always)]
const fn asks(signal: u32) -> bool {
    ASKS & (1 << signal) != 0
}

/// Where a signal came from, by what it carries.
#[inline(always)]
fn describe(fate: &mut Fate, info: *const u8, itself: bool) {
    if info as u64 == SEND_SIG_PRIV {
        return;
    }
    let by_process = if itself { origin::ITSELF } else { origin::PROCESS };
    // A file that would become larger than it may: the kernel says so as if the process itself did, and with no more.
    let of_limit = itself && fate.signal == SIGXFSZ;
    if info as u64 == SEND_SIG_NOINFO {
        fate.origin = if of_limit { origin::KERNEL } else { by_process };
        return;
    }
    let Some(code) = number(info, fields::SI_CODE) else {
        // Also what has no info, where the verifier takes the pointer for one that is never null.
        if of_limit {
            return;
        }
        // Lockdown. A fault is dealt with by the thread that made it, but for one of the machine's memory.
        let sent = fate.signal != SIGBUS || itself;
        fate.origin = if sent { by_process } else { origin::UNKNOWN };
        return;
    };
    fate.code = code;
    let code = code as i32;
    if code == SI_USER || code == SI_TKILL || code == SI_QUEUE {
        fate.origin = by_process;
        return;
    }
    // A fault is dealt with by the thread that made it.
    if code > 0 && itself {
        fate.origin = origin::ITSELF;
        fate.address = memory::read(info, fields::SI_ADDR).unwrap_or(UNKNOWN);
    }
}

/// A number of what a signal carries. By a helper: verifiers since 6.13 and its backports give the pointer no type,
/// as it may be none.
#[inline(always)]
fn number(info: *const u8, field: usize) -> Option<u32> {
    if is_absent(&OFFSETS[field]) {
        return None;
    }
    memory::read(info, field)
}

/// What is known of a process's last signal.
#[inline(always)]
pub(crate) fn of(tgid: u32, started_ns: u64) -> Option<&'static Fate> {
    let fate = FATES.get_ptr(&tgid)?;
    // SAFETY: a map value.
    let fate = unsafe { &*fate };
    if fate.started_ns != started_ns {
        return None;
    }
    Some(fate)
}
