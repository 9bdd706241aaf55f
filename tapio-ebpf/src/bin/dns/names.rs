//! Names that do not exist: most of them belong to a search list, which a client tries from its first entry on.

use aya_ebpf::{macros::map, maps::LruHashMap};
use tapio_common::{
    baseline::{Baseline, Verdict},
    dns::{Question, code},
};

use crate::{SETTINGS, constant, query::Open};

/// Maximum number of names that are known to exist.
const MAX_NAMES: u32 = 16_384;
/// Maximum number of first labels whose look-ups are counted.
const MAX_STEMS: u32 = 16_384;
/// Maximum number of cgroups whose look-ups are counted.
const MAX_CLIENTS: u32 = 4_096;

/// Names that exist, by hash of resolver and name, and when they were last resolved.
#[map]
static NAMES: LruHashMap<u64, u64> = LruHashMap::with_max_entries(MAX_NAMES, 0);

/// NXDOMAIN answers for names with the same first label. The steps of a search list share it, and one that succeeds
/// excuses those before it.
#[map]
static STEMS: LruHashMap<Stem, Steps> = LruHashMap::with_max_entries(MAX_STEMS, 0);

/// Look-ups by cgroup.
#[map]
static CLIENTS: LruHashMap<u64, Lookups> = LruHashMap::with_max_entries(MAX_CLIENTS, 0);

#[repr(C)]
#[derive(Clone, Copy)]
struct Stem {
    cgroup_id: u64,
    /// Hash of the label.
    label: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Steps {
    /// The window that they were counted in, by its start.
    window_ns: u64,
    /// Answers that the name does not exist, without one that it does.
    absent: u64,
}

/// The look-ups of a cgroup in the current window.
#[repr(C)]
#[derive(Clone, Copy)]
struct Lookups {
    start_ns: u64,
    /// Answers that a name does not exist, without those that another step of the search list excuses.
    absent: u32,
    answers: u32,
    /// The baseline of `absent`.
    baseline: Baseline,
}

/// A window with far more absent names than normal.
pub(crate) struct Window {
    pub(crate) length_ns: u64,
    pub(crate) absent: u32,
    pub(crate) answers: u32,
    pub(crate) before: Baseline,
}

/// What the absence of a name means.
pub(crate) enum Absence {
    Normal,
    /// The resolver resolved it before, for the last time then.
    Gone(u64),
    Burst(Window),
}

/// Counts an answer.
#[inline(never)]
pub(crate) fn answered(open: &Open, question: &Question, now: u64) -> Absence {
    let resolver: [u64; 2] = bytemuck::cast(open.resolver.address);
    let name = question.name ^ resolver[0] ^ resolver[1].rotate_left(17);
    let is_absent = question.code == code::NXDOMAIN;
    let resolved = NAMES.get_ptr_mut(&name);
    if question.code == code::NOERROR && question.answers != 0 {
        match resolved {
            // SAFETY: a map value.
            Some(resolved) => unsafe { *resolved = now },
            None => {
                let _ = NAMES.insert(&name, &now, 0);
            }
        }
    } else if is_absent && let Some(resolved) = resolved {
        // SAFETY: as above.
        let resolved = unsafe { *resolved };
        // So that it is reported once.
        let _ = NAMES.remove(&name);
        return Absence::Gone(resolved);
    }
    if !is_absent && question.code != code::NOERROR {
        return Absence::Normal;
    }
    count(open, is_absent, now)
}

#[inline(always)]
fn count(open: &Open, is_absent: bool, now: u64) -> Absence {
    let Some(lookups) = CLIENTS.get_ptr_mut(&open.client.cgroup_id) else {
        let first = Lookups { start_ns: now, absent: 0, answers: 0, baseline: Baseline::default() };
        let _ = CLIENTS.insert(&open.client.cgroup_id, &first, 0);
        return Absence::Normal;
    };
    // SAFETY: a map value; CPUs that race here can miscount by a few.
    let lookups = unsafe { &mut *lookups };
    let mut absence = Absence::Normal;
    let length_ns = now.wrapping_sub(lookups.start_ns);
    if length_ns >= constant(&SETTINGS.nxdomain_window_ns) {
        absence = close(lookups, length_ns, now);
        (lookups.start_ns, lookups.absent, lookups.answers) = (now, 0, 0);
    }
    lookups.answers = lookups.answers.wrapping_add(1);
    let stem = Stem { cgroup_id: open.client.cgroup_id, label: open.stem };
    let steps = STEMS.get_ptr_mut(&stem);
    match (steps, is_absent) {
        (Some(steps), true) => {
            lookups.absent = lookups.absent.wrapping_add(1);
            // SAFETY: as above.
            let steps = unsafe { &mut *steps };
            if steps.window_ns != lookups.start_ns {
                *steps = Steps { window_ns: lookups.start_ns, absent: 0 };
            }
            steps.absent += 1;
        }
        (None, true) => {
            lookups.absent = lookups.absent.wrapping_add(1);
            let _ = STEMS.insert(&stem, &Steps { window_ns: lookups.start_ns, absent: 1 }, 0);
        }
        (Some(steps), false) => {
            // SAFETY: as above.
            let steps = unsafe { &mut *steps };
            if steps.window_ns == lookups.start_ns {
                lookups.absent = lookups.absent.saturating_sub(steps.absent as u32);
            }
            steps.absent = 0;
        }
        (None, false) => {}
    }
    absence
}

/// Judges a window that is over.
#[inline(always)]
fn close(lookups: &mut Lookups, length_ns: u64, now: u64) -> Absence {
    let limits = constant(&SETTINGS.nxdomain);
    let before = lookups.baseline;
    let (absent, answers) = (lookups.absent, lookups.answers);
    let verdict = lookups.baseline.observe(u64::from(absent), now, &limits);
    let is_many = u64::from(absent) > limits.floor;
    let is_burst = match verdict {
        // Nothing that this workload asks for exists.
        Verdict::Learning => absent == answers,
        Verdict::Normal => false,
        Verdict::Spike => true,
        Verdict::Shift => absent as u64 > before.mean(),
    };
    if is_many && is_burst {
        Absence::Burst(Window { length_ns, absent, answers, before })
    } else {
        Absence::Normal
    }
}
