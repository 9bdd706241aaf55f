//! Folding: the first anomaly of a kind goes out at once; its repeats become one follow-up per window, with
//! their count and the worst of them, and the window grows while it lasts.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::IpAddr,
};

use crate::observer::{Actor, Anomaly};

/// Subjects of one kind and owner that are told apart at a time; the others share one window, so that a port
/// scan is a handful of occurrences and not thousands.
const MAX_SUBJECTS: u32 = 16;
/// Windows open at a time, over all owners.
const MAX_WINDOWS: usize = 16_384;

/// The open windows of one observer.
#[derive(Debug)]
pub struct Fold {
    window_ns: u64,
    max_window_ns: u64,
    windows: HashMap<Key, Window>,
    subjects: HashMap<Owner, u32>,
}

/// Anomalies with the same key are repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    owner: Owner,
    /// `None`: the window that the subjects over the limit share.
    subject: Option<Subject>,
}

/// The other side, or who had a hand in it by group and command, and what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Subject {
    peer: Option<IpAddr>,
    /// Of [`hash`]; 0 where there is none.
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
    ends_ns: u64,
    length_ns: u64,
    repeats: Option<Anomaly>,
}

impl Fold {
    /// Windows begin at `window_ns` and double up to `max_window_ns`.
    #[must_use]
    pub fn new(window_ns: u64, max_window_ns: u64) -> Self {
        Self { window_ns, max_window_ns, windows: HashMap::new(), subjects: HashMap::new() }
    }

    /// Gives an anomaly back that is the first of its kind, and keeps a repeat.
    pub fn admit(&mut self, anomaly: Anomaly, now_ns: u64) -> Option<Anomaly> {
        let key = self.key(&anomaly);
        if let Some(window) = self.windows.get_mut(&key) {
            match &mut window.repeats {
                Some(worst) => worst.absorb(anomaly),
                none => *none = Some(anomaly),
            }
            return None;
        }
        let window = Window {
            ends_ns: now_ns.saturating_add(self.window_ns),
            length_ns: self.window_ns,
            repeats: None,
        };
        self.windows.insert(key, window);
        *self.subjects.entry(key.owner).or_default() += 1;
        Some(anomaly)
    }

    /// Closes the windows that are over: one with repeats says them and goes on for longer, a quiet one is
    /// forgotten.
    pub fn flush(&mut self, now_ns: u64, out: &mut Vec<Anomaly>) {
        let Self { windows, subjects, max_window_ns, .. } = self;
        windows.retain(|key, window| {
            if now_ns < window.ends_ns {
                return true;
            }
            if let Some(repeats) = window.repeats.take() {
                out.push(repeats);
                window.length_ns = window.length_ns.saturating_mul(2).min(*max_window_ns);
                window.ends_ns = now_ns.saturating_add(window.length_ns);
                return true;
            }
            if let Some(count) = subjects.get_mut(&key.owner) {
                *count -= 1;
                if *count == 0 {
                    subjects.remove(&key.owner);
                }
            }
            false
        });
    }

    /// Says all that is kept.
    pub fn finish(&mut self, out: &mut Vec<Anomaly>) {
        out.extend(self.windows.drain().filter_map(|(_, window)| window.repeats));
        self.subjects.clear();
    }

    fn key(&self, anomaly: &Anomaly) -> Key {
        let owner = Owner { kind: anomaly.kind, cgroup_id: anomaly.cgroup_id, comm: anomaly.comm };
        let subject = Subject {
            peer: anomaly.peer.map(|(address, _)| address),
            actor: anomaly.actor.as_ref().map_or(0, |actor| hash(actor)),
            detail: anomaly.detail,
        };
        let key = Key { owner, subject: Some(subject) };
        if self.windows.contains_key(&key) {
            return key;
        }
        if self.windows.len() >= MAX_WINDOWS {
            return Key { owner: Owner { cgroup_id: 0, comm: [0; 16], ..owner }, subject: None };
        }
        match self.subjects.get(&owner) {
            Some(count) if *count >= MAX_SUBJECTS => Key { owner, subject: None },
            _ => key,
        }
    }
}

/// Who had a hand in it, by group and command: a key as large as those would be costs each anomaly that has none.
fn hash(actor: &Actor) -> u64 {
    let mut hasher = DefaultHasher::new();
    (actor.cgroup_id, actor.comm).hash(&mut hasher);
    hasher.finish()
}

impl Anomaly {
    /// Takes a repeat in: the greater of the two is told, for both.
    pub(crate) fn absorb(&mut self, other: Self) {
        let count = self.count.saturating_add(other.count);
        if other.magnitude > self.magnitude {
            *self = other;
        }
        self.count = count;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::occurrence::{Data, Outcome, Severity};

    const SECOND: u64 = 1_000_000_000;

    pub(crate) fn refused(port: u32, magnitude: u64) -> Anomaly {
        Anomaly {
            kind: "network.connection_refused",
            severity: Severity::Error,
            outcome: Outcome::Failure,
            time_ns: 0,
            cgroup_id: 7,
            pid: 1,
            comm: [0; 16],
            actor: None,
            full: None,
            only: crate::observer::Only::ALL,
            peer: Some(([127, 0, 0, 1].into(), port as u16)),
            detail: port,
            data: Data::default(),
            baseline: None,
            antagonist: None,
            magnitude,
            count: 1,
            message: |_| String::new(),
        }
    }

    #[test]
    fn first_at_once_repeats_folded_window_grows() {
        let mut fold = Fold::new(10 * SECOND, 30 * SECOND);
        let mut out = Vec::new();
        assert!(fold.admit(refused(80, 1), 0).is_some());
        for magnitude in [3, 9, 5] {
            assert!(fold.admit(refused(80, magnitude), SECOND).is_none());
        }
        assert!(fold.admit(refused(81, 1), SECOND).is_some(), "another subject");
        fold.flush(9 * SECOND, &mut out);
        assert!(out.is_empty());
        fold.flush(10 * SECOND, &mut out);
        assert_eq!(out.iter().map(|a| (a.count, a.magnitude)).collect::<Vec<_>>(), [(3, 9)]);

        out.clear();
        assert!(fold.admit(refused(80, 1), 12 * SECOND).is_none(), "the window goes on, now 20 s");
        fold.flush(29 * SECOND, &mut out);
        assert!(out.is_empty());
        fold.flush(30 * SECOND, &mut out);
        assert_eq!(out.len(), 1);
        fold.flush(60 * SECOND, &mut out);
        assert!(fold.admit(refused(80, 1), 61 * SECOND).is_some(), "quiet for a window: forgotten");
    }

    #[test]
    fn a_port_scan_is_a_handful_and_loses_nothing() {
        let mut fold = Fold::new(SECOND, SECOND);
        let mut out: Vec<_> = (0..10_000).filter_map(|port| fold.admit(refused(port, 1), 0)).collect();
        assert_eq!(out.len(), MAX_SUBJECTS as usize + 1);
        fold.finish(&mut out);
        assert_eq!(out.iter().map(|a| a.count).sum::<u64>(), 10_000);
    }

    #[test]
    fn memory_is_bounded_whoever_comes() {
        let mut fold = Fold::new(SECOND, SECOND);
        let mut said = 0;
        for owner in 0..50_000 {
            let anomaly = Anomaly { cgroup_id: owner + 1, ..refused(80, 1) };
            said += fold.admit(anomaly, 0).map_or(0, |a| a.count);
        }
        assert!(fold.windows.len() <= MAX_WINDOWS + 1);
        let mut out = Vec::new();
        fold.flush(2 * SECOND, &mut out);
        assert_eq!(said + out.iter().map(|a| a.count).sum::<u64>(), 50_000);
        fold.flush(9 * SECOND, &mut out);
        assert!(fold.windows.is_empty() && fold.subjects.is_empty());
    }
}
