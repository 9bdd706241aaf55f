//! Folding: the first anomaly of a kind is sent at once. Its repeats become one follow-up per window, with
//! their count and the worst of them, and the window doubles while repeats continue. An anomaly [`WORSE`]
//! times as bad as the last report does not wait for the end of the window.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher as _, RandomState},
    mem,
    net::IpAddr,
};

use tapio_occurrence::OWNERS;

use crate::observer::{Actor, Anomaly, Pace};

/// The most subjects distinguished per kind and owner. Further ones share one window, so that a port scan
/// produces a handful of occurrences and not thousands.
const MAX_SUBJECTS: u32 = 16;
/// The most windows open at a time, over all owners. Owners beyond that share one window per kind.
const MAX_WINDOWS: usize = 16_384;
/// The most owners counted in a shared window.
const MAX_OWNERS: usize = 16_384;
/// The data key of a follow-up: how long after its time the latest of those came that it counts, in milliseconds.
pub(super) const UNTIL: &str = "until_ms";
/// By how many times the rate or magnitude must exceed what the window has reported to be reported at once. A
/// fault that keeps growing is thus reported a logarithmic number of times.
const WORSE: u64 = 10;
/// After this long without a repeat, the next anomaly counts as a new fault.
const QUIET_NS: u64 = 60 * 1_000_000_000;
/// Rates are anomalies per slot of this length.
const SLOT_NS: u64 = 1_000_000_000;

/// The open windows of one observer.
#[derive(Debug)]
pub struct Fold {
    window_ns: u64,
    max_window_ns: u64,
    windows: HashMap<Key, Window>,
    /// No window is over before.
    wake_ns: u64,
    subjects: HashMap<Owner, u32>,
    hasher: RandomState,
}

/// Anomalies with the same key are repeats of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// One subject of an owner.
    Subject(Owner, Subject),
    /// Subjects of an owner beyond [`MAX_SUBJECTS`].
    Owner(Owner),
    /// Owners of a kind beyond [`MAX_WINDOWS`].
    Kind(&'static str),
}

/// The peer, the actor by cgroup and command, and the detail that distinguishes anomalies of one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Subject {
    peer: Option<IpAddr>,
    /// A hash of the actor's cgroup and command. Storing both would enlarge the key of every anomaly, and
    /// most have no actor. 0 without an actor.
    actor: u64,
    detail: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Owner {
    kind: &'static str,
    cgroup_id: u64,
    comm: [u8; 16],
}

#[derive(Debug)]
struct Window {
    began_ns: u64,
    ends_ns: u64,
    length_ns: u64,
    /// Repeats in each quarter of the window.
    quarters: [u64; 4],
    /// When the last anomaly came.
    last_ns: u64,
    /// When the current slot began, and how many anomalies came in it.
    slot_ns: u64,
    slot: u64,
    /// The level of the last report, and the level since then.
    reported: Level,
    seen: Level,
    repeats: Option<Anomaly>,
    /// When the latest of the repeats happened.
    latest_ns: u64,
    /// Hashed owners of the repeats, in a window that several owners may share.
    owners: BTreeSet<u64>,
}

/// How bad a series of anomalies is.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    /// The most anomalies in one slot.
    rate: u64,
    magnitude: u64,
}

impl Fold {
    /// Windows start at `window_ns` and double up to `max_window_ns`.
    #[must_use]
    pub fn new(window_ns: u64, max_window_ns: u64) -> Self {
        Self {
            window_ns,
            max_window_ns,
            windows: HashMap::new(),
            wake_ns: u64::MAX,
            subjects: HashMap::new(),
            hasher: RandomState::new(),
        }
    }

    /// Returns what has to be reported at once: the first anomaly of its kind, or one that is much worse,
    /// together with the repeats before it. Stores any other repeat.
    pub fn admit(&mut self, anomaly: Anomaly, now_ns: u64) -> Option<Anomaly> {
        let owner = Owner::of(&anomaly);
        let key = self.key(owner, &anomaly);
        if let Some(window) = self.windows.get_mut(&key) {
            let owner = matches!(key, Key::Kind(_)).then(|| self.hasher.hash_one(owner));
            return window.repeat(anomaly, owner, self.window_ns, now_ns);
        }
        let window = Window::new(&anomaly, self.window_ns, now_ns);
        self.wake_ns = self.wake_ns.min(window.over_ns());
        self.windows.insert(key, window);
        if let Some(owner) = key.owner() {
            *self.subjects.entry(owner).or_default() += 1;
        }
        Some(anomaly)
    }

    /// Closes the windows that have ended. A window with repeats reports them and continues with a longer
    /// one; a quiet one is forgotten.
    pub fn flush(&mut self, now_ns: u64, out: &mut Vec<Anomaly>) {
        let Self { windows, subjects, max_window_ns, .. } = self;
        let mut wake_ns = u64::MAX;
        windows.retain(|key, window| {
            let is_quiet = window.is_quiet(now_ns);
            if now_ns < window.over_ns() {
                wake_ns = wake_ns.min(window.over_ns());
                return true;
            }
            if let Some(mut repeats) = window.take() {
                repeats.pace = Some(window.pace(now_ns));
                out.push(repeats);
                if !is_quiet {
                    window.go_on(*max_window_ns, now_ns);
                    wake_ns = wake_ns.min(window.over_ns());
                    return true;
                }
            }
            if let Some(owner) = key.owner()
                && let Some(count) = subjects.get_mut(&owner)
            {
                *count -= 1;
                if *count == 0 {
                    subjects.remove(&owner);
                }
            }
            false
        });
        self.wake_ns = wake_ns;
    }

    /// When the next [`Self::flush`] is due; `None` while no window is open.
    #[must_use]
    pub fn wake_at(&self) -> Option<u64> {
        (!self.windows.is_empty()).then_some(self.wake_ns)
    }

    /// Reports all stored repeats.
    pub fn finish(&mut self, out: &mut Vec<Anomaly>) {
        out.extend(self.windows.drain().filter_map(|(_, mut window)| window.take()));
        self.subjects.clear();
    }

    fn key(&self, owner: Owner, anomaly: &Anomaly) -> Key {
        let hash = |actor: &Actor| self.hasher.hash_one((actor.cgroup_id, actor.comm));
        let subject = Subject {
            peer: anomaly.peer.map(|(address, _)| address),
            actor: anomaly.actor.as_deref().map_or(0, hash),
            detail: anomaly.detail,
        };
        let key = Key::Subject(owner, subject);
        if self.windows.contains_key(&key) {
            return key;
        }
        match self.subjects.get(&owner) {
            Some(count) if *count >= MAX_SUBJECTS => Key::Owner(owner),
            _ if self.windows.len() >= MAX_WINDOWS => Key::Kind(owner.kind),
            _ => key,
        }
    }
}

impl Key {
    /// The owner whose subjects it counts among.
    const fn owner(&self) -> Option<Owner> {
        match self {
            Self::Subject(owner, _) | Self::Owner(owner) => Some(*owner),
            Self::Kind(_) => None,
        }
    }
}

impl Owner {
    const fn of(anomaly: &Anomaly) -> Self {
        Self { kind: anomaly.kind.name, cgroup_id: anomaly.cgroup_id, comm: anomaly.comm }
    }
}

impl Window {
    /// Opens a window with an anomaly that is reported at once.
    fn new(first: &Anomaly, length_ns: u64, now_ns: u64) -> Self {
        Self {
            began_ns: now_ns,
            ends_ns: now_ns.saturating_add(length_ns),
            length_ns,
            quarters: [0; 4],
            last_ns: now_ns,
            slot_ns: now_ns,
            slot: first.count,
            reported: Level { rate: first.count, magnitude: first.magnitude },
            seen: Level::default(),
            repeats: None,
            latest_ns: 0,
            owners: BTreeSet::new(),
        }
    }

    /// When it is over, or quiet.
    fn over_ns(&self) -> u64 {
        self.ends_ns.min(self.last_ns.saturating_add(QUIET_NS))
    }

    const fn is_quiet(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.last_ns) >= QUIET_NS
    }

    /// Stores a repeat. Returns all of them if they have to be reported at once.
    fn repeat(
        &mut self,
        anomaly: Anomaly,
        owner: Option<u64>,
        window_ns: u64,
        now_ns: u64,
    ) -> Option<Anomaly> {
        let was_quiet = self.is_quiet(now_ns);
        self.last_ns = now_ns;
        if was_quiet {
            (self.length_ns, self.reported, self.seen) = (window_ns, Level::default(), Level::default());
        }
        if now_ns.saturating_sub(self.slot_ns) >= SLOT_NS {
            (self.slot_ns, self.slot) = (now_ns, 0);
        }
        self.slot = self.slot.saturating_add(anomaly.count);
        self.seen.rate = self.seen.rate.max(self.slot);
        let quarter = now_ns.saturating_sub(self.began_ns) / (self.length_ns / 4).max(1);
        if let Some(quarter) = self.quarters.get_mut(quarter.min(3) as usize) {
            *quarter = quarter.saturating_add(anomaly.count);
        }
        if anomaly.kind.is_measured {
            self.seen.magnitude = self.seen.magnitude.max(anomaly.magnitude);
        }
        if let Some(owner) = owner
            && self.owners.len() < MAX_OWNERS
        {
            self.owners.insert(owner);
        }
        self.latest_ns = self.latest_ns.max(anomaly.time_ns);
        match &mut self.repeats {
            Some(worst) => worst.absorb(anomaly),
            none => *none = Some(anomaly),
        }
        let is_worse = self.seen.is_worse_than(self.reported);
        if !was_quiet && !is_worse {
            return None;
        }
        self.reported = self.reported.max(self.seen);
        let pace = Pace { is_even: false, ..self.pace(now_ns) };
        self.begin(now_ns);
        let mut repeats = self.take()?;
        repeats.pace = Some(pace);
        Some(repeats)
    }

    const fn begin(&mut self, now_ns: u64) {
        (self.began_ns, self.quarters) = (now_ns, [0; 4]);
        self.ends_ns = now_ns.saturating_add(self.length_ns);
    }

    /// The rate of the repeats, and whether it is even.
    fn pace(&self, now_ns: u64) -> Pace {
        let [most, least] = [self.quarters.iter().max(), self.quarters.iter().min()].map(|of| of.copied());
        let is_even = least
            .zip(most)
            .is_some_and(|(least, most)| least > 0 && most <= least.saturating_mul(2).saturating_add(1));
        Pace { window_ns: now_ns.saturating_sub(self.began_ns), per_second: self.seen.rate, is_even }
    }

    /// Continues after a follow-up: with a longer window, and with the follow-up's level to compare against.
    fn go_on(&mut self, max_window_ns: u64, now_ns: u64) {
        (self.reported, self.seen) = (self.seen, Level::default());
        self.length_ns = self.length_ns.saturating_mul(2).min(max_window_ns);
        // A window that was checked slightly late still starts on time.
        let is_late = now_ns.saturating_sub(self.ends_ns) >= SLOT_NS;
        self.begin(if is_late { now_ns } else { self.ends_ns });
    }

    /// Takes the repeats. If they have several owners, they are attributed to none.
    fn take(&mut self) -> Option<Anomaly> {
        let owners = mem::take(&mut self.owners).len() as u64;
        let mut repeats = self.repeats.take()?;
        let until_ms = self.latest_ns.saturating_sub(repeats.time_ns) / 1_000_000;
        self.latest_ns = 0;
        if until_ms > 0 {
            repeats.data.push(UNTIL, until_ms);
        }
        if owners > 1 {
            repeats.disown(owners);
        }
        Some(repeats)
    }
}

impl Level {
    fn is_worse_than(self, reported: Self) -> bool {
        let is_over = |seen: u64, reported: u64| seen >= reported.max(1).saturating_mul(WORSE);
        is_over(self.rate, reported.rate) || is_over(self.magnitude, reported.magnitude)
    }

    fn max(self, other: Self) -> Self {
        Self { rate: self.rate.max(other.rate), magnitude: self.magnitude.max(other.magnitude) }
    }
}

impl Anomaly {
    /// Adds a repeat: the greater of the two represents both.
    pub(crate) fn absorb(&mut self, other: Self) {
        let count = self.count.saturating_add(other.count);
        if other.magnitude > self.magnitude {
            *self = other;
        }
        self.count = count;
    }

    /// Removes what is true of the worst repeat only: its owner, its end of the connection, its actor and its
    /// noisy neighbour.
    fn disown(&mut self, owners: u64) {
        (self.cgroup_id, self.pid, self.comm) = (0, 0, [0; 16]);
        (self.actor, self.full, self.noisy_neighbour) = (None, None, None);
        self.data.0.retain(|(key, _)| !key.starts_with("noisy_neighbour") && !key.starts_with("local_"));
        self.data.push(OWNERS, owners);
    }
}

#[cfg(test)]
pub(crate) mod tests;
