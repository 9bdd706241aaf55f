//! Folding by pod. A restarted container has another cgroup, so without this each of its exits would count as
//! the first. The first exit in a pod is sent at once; its repeats become one follow-up per window.

use std::collections::{HashMap, hash_map::Entry};

use crate::observer::Anomaly;

/// The kubelet waits up to five minutes between restarts, so a window covers several. It doubles while
/// restarts continue.
const WINDOW_NS: u64 = 600_000_000_000;
const MAX_WINDOW_NS: u64 = 3_600_000_000_000;
/// The most pods tracked at a time. Every exit in further pods is reported.
const MAX_WINDOWS: usize = 4_096;

/// The open windows.
#[derive(Debug, Default)]
pub(super) struct Restarts(HashMap<Key, Window>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    pod_uid: String,
    kind: &'static str,
    comm: [u8; 16],
    /// The signal or exit status.
    detail: u32,
}

#[derive(Debug)]
struct Window {
    ends_ns: u64,
    length_ns: u64,
    /// The latest repeat, with the count of all.
    repeats: Option<Anomaly>,
}

impl Restarts {
    /// Returns the first anomaly of its kind in a pod, and stores a repeat.
    pub(super) fn admit(&mut self, pod_uid: &str, anomaly: Anomaly, now_ns: u64) -> Option<Anomaly> {
        let Anomaly { kind, comm, detail, count, .. } = anomaly;
        let is_full = self.0.len() >= MAX_WINDOWS;
        match self.0.entry(Key { pod_uid: pod_uid.to_owned(), kind: kind.name, comm, detail }) {
            Entry::Occupied(mut window) => {
                let repeats = &mut window.get_mut().repeats;
                let before = repeats.as_ref().map_or(0, |repeats| repeats.count);
                *repeats = Some(Anomaly { count: count.saturating_add(before), ..anomaly });
                None
            }
            Entry::Vacant(entry) => {
                if !is_full {
                    let ends_ns = now_ns.saturating_add(WINDOW_NS);
                    entry.insert(Window { ends_ns, length_ns: WINDOW_NS, repeats: None });
                }
                Some(anomaly)
            }
        }
    }

    /// Repeats of the windows that have ended; all of them at `u64::MAX`. A window without repeats is
    /// forgotten.
    pub(super) fn over(&mut self, now_ns: u64) -> Vec<Anomaly> {
        let mut over = Vec::new();
        self.0.retain(|_, window| {
            if now_ns < window.ends_ns {
                return true;
            }
            let Some(repeats) = window.repeats.take() else { return false };
            over.push(repeats);
            window.length_ns = window.length_ns.saturating_mul(2).min(MAX_WINDOW_NS);
            window.ends_ns = now_ns.saturating_add(window.length_ns);
            true
        });
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::fold::tests::refused;

    const MINUTE_NS: u64 = 60_000_000_000;

    fn stop(nth: u64, status: u32) -> Anomaly {
        Anomaly { cgroup_id: nth, ..refused(status, 0) }
    }

    #[test]
    fn a_container_that_is_stopped_again_and_again_is_reported_once_and_with_its_number() {
        let mut restarts = Restarts::default();
        let (mut reported, mut count) = (0, 0);
        for minute in (0..240).step_by(2) {
            let first = restarts.admit("a", stop(minute, 1), minute * MINUTE_NS);
            for anomaly in first.into_iter().chain(restarts.over(minute * MINUTE_NS)) {
                (reported, count) = (reported + 1, count + anomaly.count);
            }
        }
        let rest = restarts.over(u64::MAX);
        assert_eq!(rest.iter().map(|anomaly| anomaly.cgroup_id).collect::<Vec<_>>(), [238], "the latest");
        assert_eq!(count + rest[0].count, 120, "each is counted");
        assert!(reported <= 7, "{reported} in four hours");
    }

    #[test]
    fn another_pod_another_status_and_one_after_a_quiet_window_are_news() {
        let mut restarts = Restarts::default();
        assert!(restarts.admit("a", stop(1, 1), 0).is_some());
        assert!(restarts.admit("b", stop(2, 1), 0).is_some());
        assert!(restarts.admit("a", stop(3, 2), 0).is_some());
        assert!(restarts.admit("a", stop(4, 1), 1).is_none());
        assert_eq!(restarts.over(WINDOW_NS).len(), 1);
        assert!(restarts.admit("b", stop(5, 1), WINDOW_NS).is_some());
        assert!(restarts.over(u64::MAX).is_empty());
    }

    #[test]
    fn memory_is_bounded_and_none_is_lost() {
        let mut restarts = Restarts::default();
        let reported = (0..2 * MAX_WINDOWS as u64)
            .filter(|nth| restarts.admit(&nth.to_string(), stop(*nth, 1), 0).is_some());
        assert_eq!(reported.count(), 2 * MAX_WINDOWS);
        assert_eq!(restarts.0.len(), MAX_WINDOWS);
    }
}
