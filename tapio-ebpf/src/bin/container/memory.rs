//! Victims of a lack of memory. Who it is, and what it holds, is taken with the signal that kills it; that it was for
//! want of memory, the same task says next.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel},
    macros::map,
    maps::PerCpuArray,
};
use tapio_common::{
    Header, VERSION_1,
    container::{self as fields, Actor, ContainerEvent, Full, Memory, UNKNOWN, kind, origin, program},
};
use tapio_ebpf::{Run, is_absent, load, now_ns};

use crate::{
    OFFSETS, PAGE_BYTES, constant, exit,
    fate::SIGKILL,
    task::{Task, id},
};

/// Groups from a process's own up that are looked at for the one that is full.
const MAX_LEVELS: u64 = 24;
/// A group this near its limit, in pages, is full: what was asked for was not more than a huge page.
const ROOM: u64 = 512;
/// What of its limit a group has to have free, so that it was not the one that was full: others of it may have given back
/// some since.
const CLEARLY_FREE: u64 = 8;
/// Those that are killed together follow one another within this time.
const TOGETHER_NS: u64 = 1_000_000_000;
/// A limit in pages that is none, `PAGE_COUNTER_MAX` and what is near.
const NO_LIMIT: u64 = 1 << 48;

/// Whom a task has just sent SIGKILL as the kernel. The lock that it holds keeps it on its CPU until it has said why.
#[map]
static SUSPECT: PerCpuArray<Suspect> = PerCpuArray::with_max_entries(1, 0);

#[repr(C)]
struct Suspect {
    /// Who killed.
    by: u64,
    /// The victim, as older kernels name it: its thread, and as later ones do: its address.
    thread: u32,
    /// It was confirmed, or is part of one that was.
    reported: u32,
    address: u64,
    /// Address of its memory.
    memory: u64,
    event: ContainerEvent,
}

/// Takes down who was sent SIGKILL by the kernel.
#[inline(never)]
pub(crate) fn suspected(task: Task, actor: &Actor) {
    let Some(suspect) = SUSPECT.get_ptr_mut(0) else { return };
    // SAFETY: a map value of this CPU; an interrupt that kills, too, overwrites it, and neither is confirmed.
    let suspect = unsafe { &mut *suspect };
    let by = bpf_get_current_pid_tgid();
    let now = now_ns();
    let memory = task.mm() as u64;
    // With `memory.oom.group` all of a group are killed, and by the second the first may have given back its memory.
    let follows = suspect.reported != 0
        && suspect.by == by
        && now.wrapping_sub(suspect.event.header.time_ns) < TOGETHER_NS;
    let before = if follows { suspect.event.full } else { NOT_KNOWN };
    // Right after the victim those are killed that have the same memory: they are part of it.
    let is_part = suspect.reported != 0 && suspect.by == by && suspect.memory == memory;
    if is_part {
        exit::is_part_of_another(task.tgid(), task.leader().started_ns());
    }
    (suspect.by, suspect.reported, suspect.memory) = (by, u32::from(is_part), memory);
    suspect.thread = task.pid();
    suspect.address = task.0 as u64;
    let leader = task.leader();
    let event = &mut suspect.event;
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
    event.score_adj = task.oom_score_adj();
    event.started_ns = leader.started_ns();
    event.actor = *actor;
    event.memory = held(task);
    full(task, event.header.cgroup_id & VERSION_1 != 0, &before, &mut event.full);
}

/// The kernel says that it OOM-killed a process.
pub(crate) fn confirmed(victim: u64) {
    let Some(run) = Run::begin(program::MARK_VICTIM) else { return };
    let Some(suspect) = SUSPECT.get_ptr_mut(0) else { return run.normal() };
    // SAFETY: as above.
    let suspect = unsafe { &mut *suspect };
    if suspect.by != bpf_get_current_pid_tgid() {
        return run.normal();
    }
    if !suspect.is(victim) {
        return run.normal();
    }
    suspect.reported = 1;
    if !exit::is_first_to_confirm(suspect.event.header.pid, suspect.event.started_ns) {
        return run.normal();
    }
    run.emit(|event: &mut ContainerEvent| *event = suspect.event);
}

impl Suspect {
    #[inline(always)]
    fn is(&self, victim: u64) -> bool {
        self.address == victim || u64::from(self.thread) == victim
    }
}

/// What a process holds.
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

/// A count of pages, in bytes. Each CPU adds some pages at a time, so it may be a little off, and below zero.
#[inline(always)]
fn pages(mm: *const u8, field: usize, old: usize) -> u64 {
    let pages: i64 = if !is_absent(&OFFSETS[field]) {
        // SAFETY: a typed pointer and an offset of its fields.
        unsafe { load(mm, &OFFSETS[field]) }
    } else if !is_absent(&OFFSETS[old]) {
        // An array of a type that older verifiers do not look through.
        let Some(pages) = read::<u64>(mm, old) else { return UNKNOWN };
        pages as i64
    } else {
        return UNKNOWN;
    };
    if pages < 0 { 0 } else { (pages as u64).wrapping_mul(constant(&PAGE_BYTES)) }
}

const NOT_KNOWN: Full =
    Full { cgroup_id: UNKNOWN, usage_bytes: UNKNOWN, limit_bytes: UNKNOWN, levels_up: UNKNOWN };

/// Finds the group that is full: of a process's own and those above the one that was for whom was killed just before it, or
/// the one with the least room.
#[inline(always)]
fn full(task: Task, version_1: bool, before: &Full, full: &mut Full) {
    *full = NOT_KNOWN;
    if is_absent(&OFFSETS[fields::USAGE]) || is_absent(&OFFSETS[fields::MEMORY_CSS]) {
        return;
    }
    let mut css = task.memory_css();
    let mut least = ROOM + 1;
    let mut is_near = false;
    for level in 0..MAX_LEVELS {
        if css.is_null() {
            break;
        }
        let Some(usage) = read::<u64>(css, fields::USAGE) else { return };
        let Some(limit) = read::<u64>(css, fields::LIMIT) else { return };
        if limit < NO_LIMIT {
            // SAFETY: a typed pointer and an offset of its fields.
            let cgroup: *const u8 = unsafe { load(css, &OFFSETS[fields::CSS_CGROUP]) };
            let group = if version_1 { id(cgroup) | VERSION_1 } else { id(cgroup) };
            if group == before.cgroup_id {
                *full = Full { levels_up: level, ..*before };
                return;
            }
            let room = limit.saturating_sub(usage);
            is_near |= room < limit / CLEARLY_FREE;
            if room < least {
                least = room;
                let page_bytes = constant(&PAGE_BYTES);
                full.cgroup_id = group;
                full.usage_bytes = usage.wrapping_mul(page_bytes);
                full.limit_bytes = limit.wrapping_mul(page_bytes);
                full.levels_up = level;
            }
        }
        // SAFETY: as above.
        css = unsafe { load(css, &OFFSETS[fields::CSS_PARENT]) };
    }
    // Groups above those that were looked at may be full.
    if !css.is_null() {
        return;
    }
    // Version 1 also has limits of memory and swap together, which are not looked at.
    if least > ROOM && !is_near && !version_1 {
        full.cgroup_id = 0;
    }
}

/// A number that no typed load can reach. What is at a memory cgroup's beginning is the controller's part, which has
/// a type, and is all of it that has.
#[inline(always)]
pub(crate) fn read<T>(base: *const u8, field: usize) -> Option<T> {
    // SAFETY: the helper reads safely, and what it reads is a number.
    unsafe { bpf_probe_read_kernel(base.add(constant(&OFFSETS[field]) as usize).cast::<T>()) }.ok()
}
