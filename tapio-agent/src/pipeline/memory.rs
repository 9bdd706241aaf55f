//! What is remembered of patterns that occurrences belong to, from one agent to the next; and occurrences that wait until
//! it is known what they are.

use std::{collections::HashMap, hash::Hash, hash::RandomState, num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use serde::{Serialize, de::DeserializeOwned};
use tapio_occurrence::Occurrence;

use crate::{metrics::Metrics, observer, snapshot::Contributions};

/// Patterns that are distinguished; the one not used for longest makes room, and is learned anew. So many occurrences wait
/// at most.
pub(super) const MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

#[derive(Debug)]
pub(super) struct Memory<K: Hash + Eq, P> {
    /// Under which it is noted.
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

    /// One that knows what one of an agent before this had noted.
    pub(super) fn restored(name: &'static str, metrics: Arc<Metrics>, contributions: &Contributions) -> Self {
        let mut memory = Self::new(name, metrics);
        let before = contributions.before(name).map(|noted| serde_json::from_slice::<Vec<_>>(&noted));
        match before.transpose() {
            // The one used last comes last.
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
        // Nothing in it can fail to be written.
        if let Ok(noted) = serde_json::to_vec(&known) {
            contributions.contribute(self.name, noted);
        }
    }

    pub(super) fn pattern(&mut self, key: &K, new: impl FnOnce() -> P) -> &mut P {
        self.known.get_or_insert_mut_ref(key, new)
    }

    /// An occurrence waits, as one with what waits already. Gives it back where there is no room.
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

    /// What waits already does so for longer.
    pub(super) fn put_off(&mut self, key: &K, until_ns: u64) {
        if let Some(waits) = self.waiting.get_mut(key) {
            waits.until_ns = until_ns;
        }
    }

    /// What waits for nothing more.
    pub(super) fn end(&mut self, key: &K) -> Option<Occurrence> {
        self.waiting.remove(key).map(|waits| waits.occurrence)
    }

    /// What has waited until now, with its pattern; all of it at `u64::MAX`.
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
