//! Sums the waits of each cgroup to windows, and judges each window.

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap},
};
use tapio_common::{
    Comm, CooldownKey, Header, ROOT_CGROUP,
    baseline::Baseline,
    cpu::{CpuEvent, Settings, Track, Wait, WindowVerdict, kind, program},
};
use tapio_ebpf::{Run, is_agent, now_ns, since};

use crate::{AGENT, SETTINGS, constant, task::Task};

/// Maximum number of cgroups that are tracked; the one that ran longest ago is evicted.
const MAX_CGROUPS: u32 = 4096;

#[map]
static CGROUPS: LruHashMap<u64, Track> = LruHashMap::with_max_entries(MAX_CGROUPS, 0);
/// Initial value of a new cgroup: all zeros. A map value, since a program's stack is too small for it.
#[map]
static NEW_TRACK: Array<Track> = Array::with_max_entries(1, 0);

/// Adds the wait before a slice to the cgroup of the task whose slice ends; 0 if it had not to wait.
#[inline(never)]
pub(crate) fn account(task: Task, waited_ns: u64, instead: u64) {
    if is_agent(&constant(&AGENT)) {
        return;
    }
    let cgroup_id = task.cgroup();
    if cgroup_id <= ROOT_CGROUP {
        return;
    }
    let now = now_ns();
    let Some(track) = track(cgroup_id) else { return };
    if waited_ns != 0 && !task.is_nice() {
        let wait = Wait { ns: waited_ns, cgroup_id, instead, throttled_ns: task.throttled_ns() };
        track.add(&wait, now);
    }
    if track.window_ended(now, constant(&SETTINGS.window_ns)) {
        close(track, cgroup_id, now);
        track.begin();
    }
}

#[inline(always)]
fn track(id: u64) -> Option<&'static mut Track> {
    if let Some(track) = CGROUPS.get_ptr_mut(&id) {
        // SAFETY: a map value. CPUs that race here can lose a wait.
        return Some(unsafe { &mut *track });
    }
    // SAFETY: a map value that is never written.
    let new = unsafe { &*NEW_TRACK.get_ptr(0)? };
    // If the map has no room, this wait is lost.
    let _ = CGROUPS.insert(&id, new, 0);
    let track = CGROUPS.get_ptr_mut(&id)?;
    // SAFETY: as above.
    Some(unsafe { &mut *track })
}

/// Ends a window: judges it, and emits an event if it is to be reported.
#[inline(never)]
fn close(track: &mut Track, cgroup_id: u64, now: u64) {
    let window_ns = since(now, track.began_ns);
    // Set first, so that another CPU does not end the same window.
    track.began_ns = now;
    let settings: Settings = constant(&SETTINGS);
    let mut before = Baseline::default();
    let verdict = track.close(window_ns, now, &settings, &mut before);
    let Some(run) = Run::begin(program::SCHED_SWITCH) else { return };
    if let WindowVerdict::Learning = verdict {
        if track.baseline.samples() == 1 {
            run.new_key();
        }
        return run.learning();
    }
    if let WindowVerdict::Normal = verdict {
        return run.normal();
    }
    let key = CooldownKey {
        cgroup_id,
        comm: Comm::default(),
        subject: [0; 16],
        detail: 0,
        kind: kind::SCHEDULING_DELAY,
    };
    run.emit_unless_cooling_down(&key, settings.cooldown_ns, now, |event: &mut CpuEvent, suppressed| {
        event.header = Header { time_ns: now, cgroup_id, pid: 0, suppressed, comm: Comm::default() };
        event.kind = kind::SCHEDULING_DELAY;
        event.waits = track.waits;
        event.window_ns = window_ns;
        event.since_ns = track.since_ns;
        event.baseline = before;
    });
}
