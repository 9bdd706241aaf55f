//! Who calls whom, as applications report it: entities, where [`Connections`](super::Connections) has addresses.

use std::collections::{BTreeMap, BTreeSet};

use super::EntityId;

/// Most pairs that are known.
const MAX_CALLS: usize = 200_000;

/// Calls, by caller and called entity: when they were first and last seen.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    known: BTreeMap<(EntityId, EntityId), (u64, u64)>,
    /// Pairs the other way round.
    callers: BTreeSet<(EntityId, EntityId)>,
    /// Pairs that were let go.
    pub(crate) expired: u64,
    /// Pairs that were not taken since there are too many.
    pub(crate) refused: u64,
}

impl Calls {
    /// Records that somebody called somebody.
    pub(crate) fn add(&mut self, caller: EntityId, called: EntityId, first_ns: u64, last_ns: u64) {
        let is_full = self.known.len() >= MAX_CALLS;
        match self.known.get_mut(&(caller, called)) {
            Some((first, last)) => (*first, *last) = ((*first).min(first_ns), (*last).max(last_ns)),
            None if is_full => self.refused += 1,
            None => {
                self.known.insert((caller, called), (first_ns, last_ns));
                self.callers.insert((called, caller));
            }
        }
    }

    /// Whom an entity called up to a time.
    pub(crate) fn of(&self, caller: EntityId, at_ns: u64) -> impl Iterator<Item = EntityId> {
        let known = self.known.range((caller, EntityId(0))..=(caller, EntityId(u32::MAX)));
        known.filter(move |(_, (first, _))| *first <= at_ns).map(|((_, called), _)| *called)
    }

    /// Who called an entity up to a time.
    pub(crate) fn callers(&self, called: EntityId, at_ns: u64) -> impl Iterator<Item = EntityId> {
        let known = self.callers.range((called, EntityId(0))..=(called, EntityId(u32::MAX)));
        let was = move |caller: &EntityId| {
            self.known.get(&(*caller, called)).is_some_and(|(first, _)| *first <= at_ns)
        };
        known.map(|(_, caller)| *caller).filter(was)
    }

    /// Lets go of calls that were last seen before a time, and of those of an entity that is gone.
    pub(crate) fn expire(&mut self, limit_ns: u64, is_gone: impl Fn(EntityId) -> bool) {
        let Self { known, callers, expired, .. } = self;
        known.retain(|(caller, called), (_, last_ns)| {
            let is_kept = *last_ns >= limit_ns && !is_gone(*caller) && !is_gone(*called);
            if !is_kept {
                *expired += 1;
                callers.remove(&(*called, *caller));
            }
            is_kept
        });
    }
}
