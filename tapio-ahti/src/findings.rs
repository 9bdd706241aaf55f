//! All findings, by key, entity and time.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    finding::{Finding, FindingId, Key},
    graph::EntityId,
};

/// Facts of a key that are further apart are two episodes.
const EPISODE_NS: u64 = 600_000_000_000;
/// How long a finding is kept after it was last seen: the longest lag of a rule.
const KEPT_NS: u64 = 24 * 3_600_000_000_000;
/// Ends of a condition that are kept.
const MAX_ENDS: usize = 32;

/// Findings.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    all: BTreeMap<FindingId, Finding>,
    episodes: BTreeMap<Key, Vec<FindingId>>,
    of_entity: BTreeMap<EntityId, BTreeSet<FindingId>>,
    ends: BTreeMap<Key, Vec<u64>>,
    /// All but those that were over when it was last asked what is there, and of which nothing was said since.
    recent: BTreeSet<FindingId>,
    next: u64,
    max: usize,
    /// Findings that were let go as they were over for a day, or with their entity.
    pub(crate) expired: u64,
    /// Findings that were let go since there are too many.
    pub(crate) evicted: u64,
}

impl Findings {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn get(&self, id: FindingId) -> Option<&Finding> {
        self.all.get(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (FindingId, &Finding)> {
        self.all.iter().map(|(id, finding)| (*id, finding))
    }

    pub(crate) fn of(&self, entity: EntityId) -> impl Iterator<Item = (FindingId, &Finding)> {
        let ids = self.of_entity.get(&entity).into_iter().flatten();
        ids.filter_map(|id| Some((*id, self.all.get(id)?)))
    }

    /// The findings that are still there at a time, which is never before that of the last call.
    pub(crate) fn active(
        &mut self,
        now_ns: u64,
        quiet_ns: u64,
    ) -> impl Iterator<Item = (FindingId, &Finding)> {
        let Self { all, recent, .. } = self;
        recent.retain(|id| all.get(id).is_some_and(|finding| finding.is_active(now_ns, quiet_ns)));
        recent.iter().filter_map(|id| Some((*id, all.get(id)?)))
    }

    /// Earlier episodes of the same claim.
    pub(crate) fn earlier(&self, finding: &Finding) -> impl Iterator<Item = &Finding> {
        let ids = self.episodes.get(&finding.key).into_iter().flatten();
        let onset_ns = finding.onset_ns;
        ids.filter_map(|id| self.all.get(id)).filter(move |other| other.onset_ns < onset_ns)
    }

    /// Adds a fact's claim to the episode that it belongs to, which may join two. Returns it, and whether it is new.
    pub(crate) fn add(&mut self, finding: Finding) -> (FindingId, bool) {
        let key = finding.key.clone();
        let near = |other: &Finding| {
            finding.onset_ns <= other.last_ns.saturating_add(EPISODE_NS)
                && other.onset_ns <= finding.last_ns.saturating_add(EPISODE_NS)
        };
        let ids = self.episodes.get(&key).map(Vec::as_slice).unwrap_or_default();
        let same: Vec<_> = ids.iter().copied().filter(|id| self.all.get(id).is_some_and(near)).collect();
        let id = match same.split_first() {
            None => self.insert(finding),
            Some((first, rest)) => {
                let joined: Vec<_> = rest.iter().filter_map(|id| self.remove(*id)).collect();
                if let Some(known) = self.all.get_mut(first) {
                    known.merge(finding);
                    joined.into_iter().for_each(|other| known.merge(other));
                }
                *first
            }
        };
        self.recent.insert(id);
        self.settle(&key);
        (id, same.is_empty())
    }

    /// A condition has ended.
    pub(crate) fn end(&mut self, key: &Key, at_ns: u64) {
        let ends = self.ends.entry(key.clone()).or_default();
        if let Err(at) = ends.binary_search(&at_ns) {
            ends.insert(at, at_ns);
        }
        if ends.len() > MAX_ENDS {
            ends.remove(0);
        }
        self.settle(key);
    }

    /// Each condition has ended at the first end after it was last seen.
    fn settle(&mut self, key: &Key) {
        let Some(ends) = self.ends.get(key) else { return };
        for id in self.episodes.get(key).into_iter().flatten() {
            if let Some(finding) = self.all.get_mut(id) {
                finding.ended_ns = ends.iter().copied().find(|end| *end >= finding.last_ns);
                self.recent.insert(*id);
            }
        }
    }

    fn insert(&mut self, finding: Finding) -> FindingId {
        if self.all.len() >= self.max
            && let Some(oldest) =
                self.all.iter().min_by_key(|(_, finding)| finding.last_ns).map(|(id, _)| *id)
        {
            self.remove(oldest);
            self.evicted += 1;
        }
        let id = FindingId(self.next);
        self.next += 1;
        self.episodes.entry(finding.key.clone()).or_default().push(id);
        self.of_entity.entry(finding.key.entity).or_default().insert(id);
        self.all.insert(id, finding);
        id
    }

    fn remove(&mut self, id: FindingId) -> Option<Finding> {
        let finding = self.all.remove(&id)?;
        if let Some(ids) = self.episodes.get_mut(&finding.key) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.episodes.remove(&finding.key);
            }
        }
        if let Some(ids) = self.of_entity.get_mut(&finding.key.entity) {
            ids.remove(&id);
            if ids.is_empty() {
                self.of_entity.remove(&finding.key.entity);
            }
        }
        Some(finding)
    }

    /// Lets go of what is over for a day.
    pub(crate) fn expire(&mut self, now_ns: u64) {
        let limit = now_ns.saturating_sub(KEPT_NS);
        let old: Vec<_> = self
            .all
            .iter()
            .filter(|(_, finding)| {
                finding.ended_ns.unwrap_or_default().max(finding.last_ns) < limit
                    && (finding.ended_ns.is_some() || !finding.is_state())
            })
            .map(|(id, _)| *id)
            .collect();
        self.expired += old.len() as u64;
        for id in old {
            self.remove(id);
        }
        self.ends.retain(|_, ends| ends.last().is_some_and(|end| *end >= limit));
    }

    /// Everything about an entity is let go with it.
    pub(crate) fn forget(&mut self, is_gone: impl Fn(EntityId) -> bool) {
        let gone: Vec<_> =
            self.all.iter().filter(|(_, f)| is_gone(f.key.entity)).map(|(id, _)| *id).collect();
        self.expired += gone.len() as u64;
        for id in gone {
            self.remove(id);
        }
        self.ends.retain(|key, _| !is_gone(key.entity));
    }
}
