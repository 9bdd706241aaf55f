//! OOM kills. The victim and the memory it holds are recorded when the kernel sends it SIGKILL; the same task then
//! confirms that the OOM killer chose the victim.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel},
    macros::map,
    maps::PerCpuArray,
};
use tapio_common::{
    CGROUP_V1, Header,
    container::{self as fields, Actor, ContainerEvent, Memory, OomCgroup, UNKNOWN, kind, origin, program},
};
use tapio_ebpf::{Run, forget, is_absent, load, now_ns, since};

use crate::{
    OFFSETS, PAGE_BYTES, constant, exit,
    last_signal::SIGKILL,
    task::{Task, id},
};

/// How many levels of cgroups, from the process's own upwards, are searched for the OOM cgroup.
const MAX_LEVELS: u64 = 24;
/// A cgroup whose usage is within this many pages of its limit can be the OOM cgroup: the allocation that failed was
/// not larger than a huge page.
const MAX_HEADROOM: u64 = 512;
/// A cgroup that has more than 1/8 of its limit free was not the OOM cgroup. Less may be free in the OOM cgroup, since
/// others in it may have released memory in the meantime.
const CLEARLY_FREE: u64 = 8;
/// Victims of one OOM event are killed within this time of one another.
const TOGETHER_NS: u64 = 1_000_000_000;
/// Limits from here on, in pages, mean no limit: `PAGE_COUNTER_MAX` and values close to it.
const NO_LIMIT: u64 = 1 << 48;

/// The process that the kernel last sent SIGKILL on this CPU. The sending task holds a lock that keeps it on its CPU
/// until it has marked the victim.
#[map]
static PENDING_VICTIM: PerCpuArray<PendingVictim> = PerCpuArray::with_max_entries(1, 0);

#[repr(C)]
struct PendingVictim {
    /// Pid and tgid of the task that sent the signal.
    killer: u64,
    /// Thread id of the victim, by which kernels before 6.8 and its backports mark it. Later ones pass its address.
    thread: u32,
    /// 1 if the victim was confirmed, or is part of one that was.
    reported: u32,
    address: u64,
    /// Address of its `mm_struct`.
    mm: u64,
    event: ContainerEvent,
}

/// Records a process that the kernel sent SIGKILL.
#[inline(never)]
pub(crate) fn record_victim(task: Task, actor: &Actor) {
    let Some(pending) = PENDING_VICTIM.get_ptr_mut(0) else { return };
    // SAFETY: a map value of this CPU. If an interrupt kills a process as well, it overwrites the value, and neither
    // victim is confirmed.
    let pending = unsafe { &mut *pending };
    let killer = bpf_get_current_pid_tgid();
    let now = now_ns();
    let mm = task.mm() as u64;
    // `memory.oom.group` kills all processes of a cgroup: the first one may have freed its memory before the second
    // dies.
    let follows = pending.reported != 0
        && pending.killer == killer
        && since(now, pending.event.header.time_ns) < TOGETHER_NS;
    let before = if follows { pending.event.oom_cgroup } else { NOT_KNOWN };
    // Right after the victim, the kernel kills the processes that share its memory: they are part of it.
    let is_part = pending.reported != 0 && pending.killer == killer && pending.mm == mm;
    if is_part {
        exit::mark_as_part_of_another(task.tgid(), task.leader().started_ns());
    }
    (pending.killer, pending.reported, pending.mm) = (killer, u32::from(is_part), mm);
    pending.thread = task.pid();
    pending.address = task.0 as u64;
    let leader = task.leader();
    let event = &mut pending.event;
    event.header = Header {
        time_ns: now,
        cgroup_id: task.cgroup_id(),
        pid: task.tgid(),
        suppressed: 0,
        comm: leader.comm(),
    };
    event.kind = kind::OOM_KILL;
    event.flags = leader.flags();
    event.signal = SIGKILL;
    event.origin = origin::KERNEL;
    event.address = UNKNOWN;
    event.oom_score_adj = task.oom_score_adj();
    event.started_ns = leader.started_ns();
    event.actor = *actor;
    event.memory = held(task);
    find_oom_cgroup(task, event.header.cgroup_id & CGROUP_V1 != 0, &before, &mut event.oom_cgroup);
}

/// The OOM killer marked a victim, which confirms that it was OOM-killed.
pub(crate) fn confirm_victim(victim: u64) {
    let Some(run) = Run::begin(program::MARK_VICTIM) else { return };
    let Some(pending) = PENDING_VICTIM.get_ptr_mut(0) else { return run.normal() };
    // SAFETY: as above.
    let pending = unsafe { &mut *pending };
    if pending.killer != bpf_get_current_pid_tgid() {
        return run.normal();
    }
    if !pending.matches(victim) {
        return run.normal();
    }
    pending.reported = 1;
    if !exit::is_first_confirmation(pending.event.header.pid, pending.event.started_ns) {
        return run.normal();
    }
    run.emit(|event: &mut ContainerEvent| *event = pending.event);
}

impl PendingVictim {
    #[inline(always)]
    fn matches(&self, victim: u64) -> bool {
        self.address == victim || u64::from(self.thread) == victim
    }
}

/// Memory that a process holds.
#[inline(always)]
fn held(task: Task) -> Memory {
    let mm = task.mm();
    Memory {
        anon_bytes: pages(mm, fields::ANON_PAGES, fields::OLD_ANON_PAGES),
        file_bytes: pages(mm, fields::FILE_PAGES, fields::OLD_FILE_PAGES),
        shmem_bytes: pages(mm, fields::SHMEM_PAGES, fields::OLD_SHMEM_PAGES),
        page_tables_bytes: if is_absent(&OFFSETS[fields::PAGE_TABLES]) {
            UNKNOWN
        } else {
            // SAFETY: a typed pointer and an offset of its fields.
            unsafe { load(mm, &OFFSETS[fields::PAGE_TABLES]) }
        },
    }
}

/// A page counter, in bytes. CPUs update it in batches, so it may be slightly off, and even below zero, which counts as
/// 0.
#[inline(always)]
fn pages(mm: *const u8, field: usize, old: usize) -> u64 {
    let pages: i64 = if !is_absent(&OFFSETS[field]) {
        // SAFETY: a typed pointer and an offset of its fields.
        unsafe { load(mm, &OFFSETS[field]) }
    } else if !is_absent(&OFFSETS[old]) {
        // Older verifiers cannot load from an array of this type.
        let Some(pages) = read::<u64>(mm, old) else { return UNKNOWN };
        pages as i64
    } else {
        return UNKNOWN;
    };
    if pages < 0 { 0 } else { (pages as u64).wrapping_mul(constant(&PAGE_BYTES)) }
}

const NOT_KNOWN: OomCgroup =
    OomCgroup { cgroup_id: UNKNOWN, usage_bytes: UNKNOWN, limit_bytes: UNKNOWN, levels_up: UNKNOWN };

/// Finds the OOM cgroup among the process's own and those above it: the one of the victim killed just before, if it is
/// among them, else the one with the least headroom.
#[inline(always)]
fn find_oom_cgroup(task: Task, is_v1: bool, before: &OomCgroup, found: &mut OomCgroup) {
    *found = NOT_KNOWN;
    if is_absent(&OFFSETS[fields::USAGE]) || is_absent(&OFFSETS[fields::MEMORY_CSS]) {
        return;
    }
    let mut css = task.memory_css();
    let mut least_headroom = MAX_HEADROOM + 1;
    let mut is_near = 0;
    for level in 0..MAX_LEVELS {
        if css.is_null() {
            break;
        }
        let Some(usage) = read::<u64>(css, fields::USAGE) else { return };
        let Some(limit) = read::<u64>(css, fields::LIMIT) else { return };
        if limit < NO_LIMIT {
            // SAFETY: a typed pointer and an offset of its fields.
            let cgroup: *const u8 = unsafe { load(css, &OFFSETS[fields::CSS_CGROUP]) };
            let cgroup_id = if is_v1 { id(cgroup) | CGROUP_V1 } else { id(cgroup) };
            if cgroup_id == before.cgroup_id {
                *found = OomCgroup { levels_up: level, ..*before };
                return;
            }
            let headroom = limit.saturating_sub(usage);
            is_near = forget(u64::from(is_near != 0 || headroom < limit / CLEARLY_FREE), usage);
            if headroom < least_headroom {
                least_headroom = forget(headroom, usage);
                let page_bytes = constant(&PAGE_BYTES);
                found.cgroup_id = cgroup_id;
                found.usage_bytes = usage.wrapping_mul(page_bytes);
                found.limit_bytes = limit.wrapping_mul(page_bytes);
                found.levels_up = level;
            }
        }
        // SAFETY: as above.
        css = unsafe { load(css, &OFFSETS[fields::CSS_PARENT]) };
    }
    // A cgroup further up than the search went may be the OOM cgroup.
    if !css.is_null() {
        return;
    }
    // cgroup v1 also has combined limits of memory and swap, which are not read.
    if least_headroom > MAX_HEADROOM && is_near == 0 && !is_v1 {
        found.cgroup_id = 0;
    }
}

/// Reads a number that no typed load can reach: only the start of a `mem_cgroup`, its `cgroup_subsys_state`, has a
/// type.
#[inline(always)]
pub(crate) fn read<T>(base: *const u8, field: usize) -> Option<T> {
    // SAFETY: the helper tolerates any address, and callers only read numbers and raw pointers.
    unsafe { bpf_probe_read_kernel(base.add(constant(&OFFSETS[field]) as usize).cast::<T>()) }.ok()
}
