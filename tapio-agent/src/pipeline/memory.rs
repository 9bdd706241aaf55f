//! Patterns that outlive the agent, and occurrences that wait until their pattern is known.

use std::{collections::HashMap, hash::Hash, hash::RandomState, num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use serde::{Serialize, de::DeserializeOwned};
use tapio_occurrence::Occurrence;

use crate::{metrics::Metrics, observer, snapshot::Contributions};

/// The most patterns. The least recently used one makes room, and has to be learned again. Also the most
/// waiting occurrences.
pub(super) const MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

#[derive(Debug)]
pub(super) struct Memory<K: Hash + Eq, P> {
    /// The name under which snapshots store the patterns.
    name: &'static str,
    pub(super) metrics: Arc<Metrics>,
    known: LruCache<K, P, RandomState>,
    waiting: HashMap<K, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    until_ns: u64,
    occurrence: Occurrence,
}

impl<K: Hash + Eq + Clone + Serialize + DeserializeOwned, P: Serialize + DeserializeOwned> Memory<K, P> {
    pub(super) fn new(name: &'static str, metrics: Arc<Metrics>) -> Self {
        let known = LruCache::with_hasher(MAX, RandomState::new());
        Self { name, metrics, known, waiting: HashMap::new() }
    }

    /// Restores the patterns that an earlier agent stored.
    pub(super) fn restored(name: &'static str, metrics: Arc<Metrics>, contributions: &Contributions) -> Self {
        let mut memory = Self::new(name, metrics);
        let before = contributions.before(name).map(|stored| serde_json::from_slice::<Vec<_>>(&stored));
        match before.transpose() {
            // The most recently used pattern comes last.
            Ok(known) => known.into_iter().flatten().for_each(|(key, pattern)| {
                memory.known.put(key, pattern);
            }),
            Err(error) => {
                tracing::warn!(what = name, %error, "what was learned before cannot be used; it is learned anew");
            }
        }
        memory
    }

    pub(super) fn contribute(&self, contributions: &Contributions) {
        let known: Vec<_> = self.known.iter().rev().collect();
        // None of these types fails to serialize.
        if let Ok(stored) = serde_json::to_vec(&known) {
            contributions.contribute(self.name, stored);
        }
    }

    pub(super) fn pattern(&mut self, key: &K, new: impl FnOnce() -> P) -> &mut P {
        self.known.get_or_insert_mut_ref(key, new)
    }

    pub(super) fn forget(&mut self, key: &K) {
        self.known.pop(key);
    }

    /// Adds an occurrence to the one that waits under this key. Returns it if there is no room.
    pub(super) fn wait(&mut self, key: K, occurrence: Occurrence, until_ns: u64) -> Option<Occurrence> {
        if let Some(waits) = self.waiting.get_mut(&key) {
            self.metrics.folded(observer::of(&occurrence.kind), occurrence.count);
            waits.occurrence.count = waits.occurrence.count.saturating_add(occurrence.count);
        } else if self.waiting.len() < MAX.get() {
            self.waiting.insert(key, Waiting { until_ns, occurrence });
        } else {
            return Some(occurrence);
        }
        None
    }

    /// Extends the wait of the occurrence under this key.
    pub(super) fn put_off(&mut self, key: &K, until_ns: u64) {
        if let Some(waits) = self.waiting.get_mut(key) {
            waits.until_ns = until_ns;
        }
    }

    /// Takes the occurrence that waits under this key.
    pub(super) fn end(&mut self, key: &K) -> Option<Occurrence> {
        self.waiting.remove(key).map(|waits| waits.occurrence)
    }

    /// Takes the occurrences whose wait has ended, with their patterns; all of them at `u64::MAX`.
    pub(super) fn over(&mut self, now_ns: u64) -> impl Iterator<Item = (Option<&P>, Occurrence)> {
        let Self { known, waiting, .. } = self;
        let over = waiting.extract_if(move |_, waits| now_ns >= waits.until_ns);
        over.map(|(key, waits)| (known.peek(&key), waits.occurrence))
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.known.len(), self.waiting.len())
    }
}
