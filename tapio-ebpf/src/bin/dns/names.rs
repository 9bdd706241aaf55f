//! Names that do not exist: most of them belong to a search list, which a client tries from its first entry on.

use aya_ebpf::{macros::map, maps::LruHashMap};
use tapio_common::{
    baseline::{self, Baseline},
    dns::{code, kind},
};
use tapio_ebpf::since;

use crate::{
    SETTINGS, constant,
    work::{Verdict, Work},
};

/// Maximum number of names that are known to exist.
const MAX_NAMES: u32 = 16_384;
/// Maximum number of first labels whose look-ups are counted.
const MAX_STEMS: u32 = 8_192;
/// Maximum number of cgroups whose look-ups are counted.
const MAX_CLIENTS: u32 = 2_048;

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

/// Remembers a name that exists, and reports one that no longer does.
#[inline(never)]
pub(crate) fn remember(work: &mut Work, total_us: u64, queries: u32) {
    let now = work.verdict.now_ns;
    let resolver: [u64; 2] = bytemuck::cast(work.open.resolver.address);
    let name = work.question.name ^ resolver[0] ^ resolver[1].rotate_left(17);
    let is_absent = work.question.code == code::NXDOMAIN;
    let resolved = NAMES.get_ptr_mut(&name);
    if work.question.code == code::NOERROR && work.question.answers != 0 {
        match resolved {
            // SAFETY: a map value.
            Some(resolved) => unsafe { *resolved = now },
            None => {
                let _ = NAMES.insert(&name, &now, 0);
            }
        }
    } else if is_absent && let Some(resolved) = resolved {
        // SAFETY: as above.
        let since_ns = unsafe { *resolved };
        // So that it is reported once.
        let _ = NAMES.remove(&name);
        if work.verdict.is_awaited == 0 {
            work.verdict = Verdict {
                kind: kind::NAME_GONE,
                code: code::NXDOMAIN,
                value_us: total_us,
                queries,
                since_ns,
                ..Verdict::none(now)
            };
        }
    }
}

/// Counts an answer, and reports a window with a burst of names that do not exist.
#[inline(never)]
pub(crate) fn count(work: &mut Work) {
    let is_absent = work.question.code == code::NXDOMAIN;
    if !is_absent && work.question.code != code::NOERROR {
        return;
    }
    let now = work.verdict.now_ns;
    let cgroup_id = work.open.client.cgroup_id;
    let Some(lookups) = CLIENTS.get_ptr_mut(&cgroup_id) else {
        let first = Lookups { start_ns: now, absent: 0, answers: 0, baseline: Baseline::default() };
        let _ = CLIENTS.insert(&cgroup_id, &first, 0);
        return;
    };
    // SAFETY: a map value; CPUs that race here can miscount by a few.
    let lookups = unsafe { &mut *lookups };
    if since(now, lookups.start_ns) >= constant(&SETTINGS.nxdomain_window_ns) {
        close(lookups, work);
        (lookups.start_ns, lookups.absent, lookups.answers) = (now, 0, 0);
    }
    lookups.answers = lookups.answers.wrapping_add(1);
    let stem = Stem { cgroup_id, label: work.open.stem };
    let Some(steps) = STEMS.get_ptr_mut(&stem) else {
        if is_absent {
            lookups.absent = lookups.absent.wrapping_add(1);
            let _ = STEMS.insert(&stem, &Steps { window_ns: lookups.start_ns, absent: 1 }, 0);
        }
        return;
    };
    // SAFETY: as above.
    let steps = unsafe { &mut *steps };
    if steps.window_ns != lookups.start_ns {
        *steps = Steps { window_ns: lookups.start_ns, absent: 0 };
    }
    if is_absent {
        lookups.absent = lookups.absent.wrapping_add(1);
        steps.absent += 1;
    } else {
        lookups.absent = lookups.absent.saturating_sub(steps.absent as u32);
        steps.absent = 0;
    }
}

/// Judges a window that is over.
#[inline(always)]
fn close(lookups: &mut Lookups, work: &mut Work) {
    let now = work.verdict.now_ns;
    let limits = constant(&SETTINGS.nxdomain);
    let before = lookups.baseline;
    let (absent, answers) = (lookups.absent, lookups.answers);
    let is_burst = match lookups.baseline.observe(u64::from(absent), now, &limits) {
        // Nothing that this workload asks for exists.
        baseline::Verdict::Learning => absent == answers,
        baseline::Verdict::Normal => false,
        baseline::Verdict::Spike => true,
        baseline::Verdict::Shift => u64::from(absent) > before.mean(),
    };
    if is_burst && u64::from(absent) > limits.floor && work.verdict.is_awaited == 0 {
        work.verdict = Verdict {
            kind: kind::NXDOMAIN_BURST,
            code: code::NXDOMAIN,
            value_us: since(now, lookups.start_ns) / 1_000,
            queries: absent,
            answers,
            baseline: before,
            ..Verdict::none(now)
        };
    }
}
