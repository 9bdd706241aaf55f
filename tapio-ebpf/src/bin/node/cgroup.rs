//! Sums slices to windows and judges each window, for the cgroup that ran and for the node.

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap},
};
use tapio_common::{
    Comm, CooldownKey, Header, ROOT_CGROUP, WHOLE_NODE,
    baseline::Baseline,
    node::{
        cycles::{self, CyclesEvent, Settings, Track, Usage, WindowVerdict, program},
        kind,
    },
};
use tapio_ebpf::{Run, cgroup_of, is_agent, now_ns, since};

use crate::{AGENT, COUNTERS, OFFSETS, SETTINGS, constant, sampling::Cpu};

/// Maximum number of cgroups that are tracked; the one that ran longest ago is evicted.
const MAX_CGROUPS: u32 = 4096;

#[map]
static CGROUPS: LruHashMap<u64, Track> = LruHashMap::with_max_entries(MAX_CGROUPS, 0);
#[map]
static NODE: Array<Track> = Array::with_max_entries(1, 0);
/// Initial value of a new cgroup: all zeros. A map value, since a program's stack is too small for it.
#[map]
static NEW_TRACK: Array<Track> = Array::with_max_entries(1, 0);

/// Adds the slice that ends to the cgroup of the task that ran, and to the node.
#[inline(always)]
pub(crate) fn account(prev: *const u8, cpu: &Cpu, shift: u32) {
    let Some(mut slice) = slice(cpu, shift & 15) else { return };
    let now = now_ns();
    let settings = &SETTINGS;
    if !is_agent(&constant(&AGENT)) {
        let path = [
            &OFFSETS[cycles::CGROUPS],
            &OFFSETS[cycles::CGROUP],
            &OFFSETS[cycles::CGROUP_KN],
            &OFFSETS[cycles::KN_ID],
        ];
        // SAFETY: a typed pointer and offsets of its fields.
        let id = unsafe { cgroup_of(prev, path) };
        if let Some(track) = track(id) {
            let settings = constant(settings);
            if let Some(expected) = track.expect(slice.instructions, &settings) {
                (slice.known_cycles, slice.expected_cycles) = (slice.cycles, expected);
            }
            track.usage.add(&slice);
            if track.window_ended(now, settings.window_ns) {
                close(track, id, now);
            }
        }
    }
    let Some(node) = NODE.get_ptr_mut(0) else { return };
    // SAFETY: a map value. CPUs that race here can lose a slice.
    let node = unsafe { &mut *node };
    node.usage.add(&slice);
    if node.window_ended(now, constant(&SETTINGS.window_ns)) {
        close(node, WHOLE_NODE, now);
    }
}

/// Counter differences over the slice. `None` if they are impossible.
#[inline(always)]
fn slice(cpu: &Cpu, shift: u32) -> Option<Usage> {
    let (start, now) = (&cpu.start, &cpu.now);
    let ns = now.cycles.enabled.wrapping_sub(start.cycles.enabled);
    let counted_ns = now.cycles.running.wrapping_sub(start.cycles.running);
    // Kernels before 5.17 report wrong times for a counter that was multiplexed with another.
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

#[inline(always)]
fn track(id: u64) -> Option<&'static mut Track> {
    if let Some(track) = CGROUPS.get_ptr_mut(&id) {
        // SAFETY: a map value. CPUs that race here can lose a slice.
        return Some(unsafe { &mut *track });
    }
    // SAFETY: a map value that is never written.
    let new = unsafe { &*NEW_TRACK.get_ptr(0)? };
    // If the map has no room, this slice is lost.
    let _ = CGROUPS.insert(&id, new, 0);
    let track = CGROUPS.get_ptr_mut(&id)?;
    // SAFETY: as above.
    Some(unsafe { &mut *track })
}

/// A window that has ended.
struct Window {
    usage: Usage,
    length_ns: u64,
    /// The baseline of the CPI before it.
    before: Baseline,
}

/// Ends a window: judges it, and emits an event if it is to be reported.
#[inline(never)]
fn close(track: &mut Track, id: u64, now: u64) {
    let began = track.began_ns;
    // Set first, so that another CPU does not end the same window.
    track.began_ns = now;
    let mut window = Window { usage: track.usage, length_ns: since(now, began), before: Baseline::default() };
    track.usage = Usage::default();
    // Not copied, for its place on the stack; the compiler must not take the value for that of its own time.
    let settings: &Settings = core::hint::black_box(&SETTINGS);
    let verdict = track.close(&window.usage, window.length_ns, now, settings, &mut window.before);
    if let WindowVerdict::Idle = verdict {
        return;
    }
    let Some(run) = Run::begin(program::SCHED_SWITCH) else { return };
    match verdict {
        WindowVerdict::Outlier if id != ROOT_CGROUP => report(track, id, now, &window, run),
        WindowVerdict::Learning => {
            if track.cpi.samples() == 1 {
                run.new_key();
            }
            run.learning();
        }
        _ => run.normal(),
    }
}

/// In a function of its own, for its place on the stack.
#[inline(never)]
fn report(track: &Track, id: u64, now: u64, window: &Window, run: Run) {
    let mut kind = kind::CPI_OUTLIER;
    if id == WHOLE_NODE {
        if !window.usage.is_slower_than_its_mix(constant(&SETTINGS.cpi.ratio_percent)) {
            return run.normal();
        }
        kind = kind::IPC_DEGRADED;
    }
    let key = CooldownKey { cgroup_id: id, comm: Comm::default(), subject: [0; 16], detail: 0, kind };
    let cooldown_ns = constant(&SETTINGS.cooldown_ns);
    run.emit_unless_cooling_down(&key, cooldown_ns, now, |event: &mut CyclesEvent, suppressed| {
        event.header = Header { time_ns: now, cgroup_id: id, pid: 0, suppressed, comm: Comm::default() };
        event.kind = kind;
        event.extra_kind = constant(&COUNTERS[2]);
        event.usage = window.usage;
        event.window_ns = window.length_ns;
        event.since_ns = track.since_ns;
        event.cpi = window.before;
    });
}
