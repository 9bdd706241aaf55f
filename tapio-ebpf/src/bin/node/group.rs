//! Slices to windows, windows to verdicts: of the group that ran, and of the node.

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap},
};
use tapio_common::{
    Comm, CooldownKey, Header, WHOLE_NODE,
    baseline::Baseline,
    node::{
        cycles::{self, Closed, CyclesEvent, ROOT, Settings, Track, Usage, program},
        kind,
    },
};
use tapio_ebpf::{Run, is_agent, load, now_ns};

use crate::{AGENT, COUNTERS, OFFSETS, SETTINGS, constant, sampling::Cpu};

/// Groups that are known at a time; the one that ran longest ago makes room.
const MAX_GROUPS: u32 = 4096;

#[map]
static GROUPS: LruHashMap<u64, Track> = LruHashMap::with_max_entries(MAX_GROUPS, 0);
#[map]
static NODE: Array<Track> = Array::with_max_entries(1, 0);
/// A group that was not met yet. A map value, since a program's stack is small.
#[map]
static NEW: Array<Track> = Array::with_max_entries(1, 0);

/// Adds the slice that ends to the group of the task that ran in it, and to the node.
#[inline(always)]
pub(crate) fn settle(prev: *const u8, cpu: &Cpu, shift: u32) {
    let Some(mut slice) = slice(cpu, shift & 15) else { return };
    let now = now_ns();
    let settings = &SETTINGS;
    if !is_agent(&constant(&AGENT)) {
        let id = group_of(prev);
        if let Some(track) = track(id) {
            let settings = constant(settings);
            if let Some(expected) = track.expect(slice.instructions, &settings) {
                (slice.known_cycles, slice.expected_cycles) = (slice.cycles, expected);
            }
            track.usage.add(&slice);
            if track.is_over(now, settings.window_ns) {
                close(track, id, now);
            }
        }
    }
    let Some(node) = NODE.get_ptr_mut(0) else { return };
    // SAFETY: a map value. CPUs that race for it lose a slice.
    let node = unsafe { &mut *node };
    node.usage.add(&slice);
    if node.is_over(now, constant(&SETTINGS.window_ns)) {
        close(node, WHOLE_NODE, now);
    }
}

/// What the counters did in it. `None` where they say nothing that can be.
#[inline(always)]
fn slice(cpu: &Cpu, shift: u32) -> Option<Usage> {
    let (start, now) = (&cpu.start, &cpu.now);
    let ns = now.cycles.enabled.wrapping_sub(start.cycles.enabled);
    let counted_ns = now.cycles.running.wrapping_sub(start.cycles.running);
    // Kernels before 5.17 are wrong about a counter that another had taken the place of.
    if counted_ns > ns || ns > 1 << 36 {
        return None;
    }
    Some(Usage {
        cycles: now.cycles.counter.wrapping_sub(start.cycles.counter) << shift,
        instructions: now.instructions.counter.wrapping_sub(start.instructions.counter) << shift,
        extra: now.extra.counter.wrapping_sub(start.extra.counter) << shift,
        ns: ns << shift,
        counted_ns: counted_ns << shift,
        slices: 1,
        known_cycles: 0,
        expected_cycles: 0,
    })
}

/// The group of a task, in the hierarchy of version 2.
#[inline(always)]
fn group_of(task: *const u8) -> u64 {
    // SAFETY: typed pointers and offsets of their fields; what is behind a null pointer reads as zero.
    unsafe {
        let groups: *const u8 = load(task, &OFFSETS[cycles::GROUPS]);
        let group: *const u8 = load(groups, &OFFSETS[cycles::GROUP]);
        let node: *const u8 = load(group, &OFFSETS[cycles::GROUP_NODE]);
        load(node, &OFFSETS[cycles::NODE_ID])
    }
}

#[inline(always)]
fn track(id: u64) -> Option<&'static mut Track> {
    if let Some(track) = GROUPS.get_ptr_mut(&id) {
        // SAFETY: a map value. CPUs that race for it lose a slice.
        return Some(unsafe { &mut *track });
    }
    // SAFETY: a map value that nobody writes to.
    let new = unsafe { &*NEW.get_ptr(0)? };
    // A map without room for it costs a slice.
    let _ = GROUPS.insert(&id, new, 0);
    let track = GROUPS.get_ptr_mut(&id)?;
    // SAFETY: as above.
    Some(unsafe { &mut *track })
}

/// Ends a window: judges it, and tells what is to be reported.
#[inline(never)]
fn close(track: &mut Track, id: u64, now: u64) {
    let began = track.began_ns;
    // First, so that another CPU does not end it, too.
    track.began_ns = now;
    let usage = track.usage;
    track.usage = Usage::default();
    let settings: Settings = constant(&SETTINGS);
    let window_ns = now.wrapping_sub(began);
    let mut before = Baseline::default();
    let closed = track.close(&usage, window_ns, now, &settings, &mut before);
    if let Closed::Idle = closed {
        return;
    }
    let Some(run) = Run::begin(program::SCHED_SWITCH) else { return };
    if let Closed::Learning = closed {
        if track.cpi.samples() == 1 {
            run.new_key();
        }
        return run.learning();
    }
    if let Closed::Normal = closed {
        return run.normal();
    }
    let mut kind = kind::CPI_OUTLIER;
    if id == ROOT {
        return run.normal();
    }
    if id == WHOLE_NODE {
        if !usage.is_beyond_its_mix(settings.cpi.ratio_percent) {
            return run.normal();
        }
        kind = kind::IPC_DEGRADED;
    }
    let key = CooldownKey { cgroup_id: id, comm: Comm::default(), subject: [0; 16], detail: 0, kind };
    run.emit_unless_quiet(&key, settings.cooldown_ns, now, |event: &mut CyclesEvent, suppressed| {
        event.header = Header { time_ns: now, cgroup_id: id, pid: 0, suppressed, comm: Comm::default() };
        event.kind = kind;
        event.extra_is = constant(&COUNTERS[2]);
        event.usage = usage;
        event.window_ns = window_ns;
        event.since_ns = track.since_ns;
        event.cpi = before;
    });
}
