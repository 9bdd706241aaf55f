//! Records the last signal that may terminate each process, with its sender, until the process exits.

use aya_ebpf::{macros::map, maps::LruHashMap};
use tapio_common::container::{self as fields, Actor, UNKNOWN, origin, program};
use tapio_ebpf::{Current, Run, forget_all, is_absent, now_ns};

use crate::{
    AGENT, OFFSETS, constant, memory,
    task::{Task, current_has_entered, current_memory_cgroup},
};

/// `TRACE_SIGNAL_DELIVERED`, include/trace/events/signal.h. With any other result the signal is ignored or already
/// pending.
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

/// Signals whose senders are recorded. Signals such as SIGALRM, SIGPROF, SIGIO and real-time signals are left out: they
/// terminate only processes that do not expect them, and are sent by the thousand. So are SIGHUP and SIGPIPE, which
/// terminate processes all the time.
const RECORDED: u32 = bits(&[
    SIGINT, SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGKILL, SIGUSR1, SIGSEGV, SIGUSR2, SIGTERM,
    SIGXCPU, SIGXFSZ, SIGSYS,
]);

/// Signals that ask a process to terminate.
const TERMINATION_REQUESTS: u32 = bits(&[SIGINT, SIGQUIT, SIGTERM]);

// include/linux/sched/signal.h: special values of the siginfo pointer.
const SEND_SIG_NOINFO: u64 = 0;
const SEND_SIG_PRIV: u64 = 1;

// include/uapi/asm-generic/siginfo.h: the codes of signals that processes send.
const SI_USER: i32 = 0;
const SI_QUEUE: i32 = -1;
const SI_TKILL: i32 = -6;

/// Maximum number of processes with a recorded signal; the least recently used one is evicted.
const MAX_LAST_SIGNALS: u32 = 16_384;

#[map]
static LAST_SIGNALS: LruHashMap<u32, LastSignal> = LruHashMap::with_max_entries(MAX_LAST_SIGNALS, 0);

/// The last signal to a process that may terminate it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LastSignal {
    /// Start time of the process, since its PID may be reused.
    started_ns: u64,
    pub(crate) signal: u32,
    pub(crate) origin: u32,
    pub(crate) code: u32,
    /// The last of [`TERMINATION_REQUESTS`] that another process or the kernel sent; 0 if none was.
    pub(crate) asked_signal: u32,
    pub(crate) asked_ns: u64,
    /// When the process last raised SIGABRT itself; 0 if it never did.
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

/// Returns true if the sender of this signal is recorded.
#[inline(always)]
pub(crate) fn may_terminate(signal: u32) -> bool {
    signal < 32 && RECORDED & (1 << signal) != 0
}

pub(crate) fn signalled(signal: u32, info: *const u8, task: *const u8, result: i32) {
    // The kernel ignores these for the first process of a PID namespace that has no handler. They are recorded
    // nevertheless: it was asked to terminate, or it aborts, and then ends in another way.
    if result != DELIVERED && !requests_termination(signal) && signal != SIGABRT {
        return;
    }
    let Some(run) = Run::begin(program::SIGNAL_GENERATE) else { return };
    run.normal();
    let task = Task(task);
    let started_ns = task.leader().started_ns();
    let forget = |value: u64| tapio_ebpf::forget(value, started_ns);
    let signal = || forget(signal.into()) as u32;
    let is_delivered = forget(u64::from(result == DELIVERED));
    let current = Current::get(&constant(&AGENT), &OFFSETS[fields::CURRENT_LEADER], &OFFSETS[fields::COMM]);
    let tgid = task.tgid();
    let itself = forget(u64::from(current.pid == tgid));
    let v1_cgroup = if task.has_v1_memory_hierarchy() { current_memory_cgroup() } else { None };
    let comm = if itself != 0 { task.leader().comm() } else { current.comm };
    let mut actor = Actor {
        cgroup_id: forget(v1_cgroup.unwrap_or(current.cgroup_id)),
        pid: current.pid,
        entered: 0,
        comm: forget_all::<_, 2>(comm, started_ns),
    };
    if signal() == SIGKILL && info as u64 == SEND_SIG_PRIV {
        memory::record_victim(task, &actor);
    }
    let Described { origin, code, address } = describe(signal(), info, itself != 0);
    let (origin, code) = (forget(origin.into()) as u32, forget(code.into()) as u32);
    let is_within = origin == origin::PROCESS && actor.cgroup_id == task.cgroup_id();
    if is_within && !requests_termination(signal()) {
        actor.entered = current_has_entered();
    }
    actor.entered = forget(actor.entered.into()) as u32;
    let asks = requests_termination(signal()) && origin != origin::ITSELF;
    let aborts = signal() == SIGABRT && origin == origin::ITSELF;
    let now_ns = now_ns();
    let mut last = LastSignal {
        started_ns,
        signal: signal(),
        origin,
        code,
        asked_signal: forget(if asks { signal().into() } else { 0 }) as u32,
        asked_ns: forget(if asks { now_ns } else { 0 }),
        aborted_ns: forget(if aborts { now_ns } else { 0 }),
        address: forget(address),
        actor,
    };
    let Some(known) = LAST_SIGNALS.get_ptr_mut(&tgid) else {
        // If the map has no room, the sender will not be known.
        let _ = LAST_SIGNALS.insert(&tgid, last, 0);
        return;
    };
    // SAFETY: a map value; of two simultaneous signals either may be recorded.
    let known = unsafe { &mut *known };
    if known.started_ns != last.started_ns {
        *known = last;
        return;
    }
    if last.asked_signal == 0 {
        last.asked_signal = known.asked_signal;
        last.asked_ns = known.asked_ns;
    }
    if last.aborted_ns == 0 {
        last.aborted_ns = known.aborted_ns;
    }
    if known.outranks(&last, is_delivered != 0) {
        known.asked_signal = last.asked_signal;
        known.asked_ns = last.asked_ns;
        known.aborted_ns = last.aborted_ns;
    } else {
        *known = last;
    }
}

impl LastSignal {
    /// Returns true if a process in the same cgroup sent the signal that was not started there from outside.
    #[inline(always)]
    pub(crate) fn is_from_own_cgroup(&self, cgroup_id: u64) -> bool {
        self.origin == origin::PROCESS && self.actor.cgroup_id == cgroup_id && self.actor.entered == 0
    }

    /// Returns true if the process sent the signal to itself and did not cause a fault. Where lockdown hides the
    /// `si_code`, it may be a fault nevertheless.
    #[inline(always)]
    pub(crate) fn is_raised(&self, signal: u32) -> bool {
        self.signal == signal && self.origin == origin::ITSELF && self.code as i32 <= 0
    }

    /// Returns true if a later signal to the same process must not replace this one. SIGKILL is final, an ignored
    /// signal has no effect, and a handler passes a fault on by raising the same signal again.
    #[inline(always)]
    fn outranks(&self, later: &Self, is_delivered: bool) -> bool {
        if self.signal == SIGKILL || !is_delivered {
            return true;
        }
        self.signal == later.signal && later.origin == origin::ITSELF && later.address == UNKNOWN
    }
}

#[inline(always)]
const fn requests_termination(signal: u32) -> bool {
    TERMINATION_REQUESTS & (1 << signal) != 0
}

/// What the siginfo says.
struct Described {
    origin: u32,
    code: u32,
    address: u64,
}

/// Reads who sent a signal, and why, from its siginfo.
#[inline(always)]
fn describe(signal: u32, info: *const u8, itself: bool) -> Described {
    let from = |origin| Described { origin, code: 0, address: UNKNOWN };
    if info as u64 == SEND_SIG_PRIV {
        return from(origin::KERNEL);
    }
    let by_process = if itself { origin::ITSELF } else { origin::PROCESS };
    // The process exceeded its file size limit: the kernel sends SIGXFSZ as if the process itself had, without a code.
    let by_limit = itself && signal == SIGXFSZ;
    if info as u64 == SEND_SIG_NOINFO {
        return from(if by_limit { origin::KERNEL } else { by_process });
    }
    let Some(code) = read_number(info, fields::SI_CODE) else {
        // Also reached without siginfo, where the verifier assumes that the pointer is never null.
        if by_limit {
            return from(origin::KERNEL);
        }
        // Lockdown. The faulting thread itself receives its fault; only SIGBUS for a memory failure comes from
        // elsewhere.
        let sent = signal != SIGBUS || itself;
        return from(if sent { by_process } else { origin::UNKNOWN });
    };
    match code as i32 {
        SI_USER | SI_TKILL | SI_QUEUE => Described { code, ..from(by_process) },
        // The faulting thread itself receives its fault.
        1.. if itself => Described {
            origin: origin::ITSELF,
            code,
            address: memory::read(info, fields::SI_ADDR).unwrap_or(UNKNOWN),
        },
        _ => Described { code, ..from(origin::KERNEL) },
    }
}

/// Reads a number of the siginfo, with a helper: since 6.13 and its backports the verifier gives the pointer no type,
/// as it may be null.
#[inline(always)]
fn read_number(info: *const u8, field: usize) -> Option<u32> {
    if is_absent(&OFFSETS[field]) {
        return None;
    }
    memory::read(info, field)
}

/// The last signal to a process; `None` if none was recorded, or if it was another process with the same PID.
#[inline(always)]
pub(crate) fn of(tgid: u32, started_ns: u64) -> Option<&'static LastSignal> {
    let last = LAST_SIGNALS.get_ptr(&tgid)?;
    // SAFETY: a map value.
    let last = unsafe { &*last };
    if last.started_ns != started_ns {
        return None;
    }
    Some(last)
}
