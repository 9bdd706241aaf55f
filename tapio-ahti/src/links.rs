//! Links that are known: those of an effect are looked for again only after something near it has changed.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    explain::{Link, Reach},
    finding::FindingId,
    graph::{EntityId, Graph},
};

/// Links to effects, with everything that they depend on.
#[derive(Debug, Default)]
pub(crate) struct Links {
    of: BTreeMap<FindingId, (Vec<Link>, Reach)>,
    /// Effects that depend on an entity.
    near: BTreeMap<EntityId, BTreeSet<FindingId>>,
}

/// Objects that others do not refer to, but that decide about them: if one changes, everything is looked for again.
const FAR: &[&str] = &[
    "NetworkPolicy",
    "Service",
    "ResourceQuota",
    "LimitRange",
    "HorizontalPodAutoscaler",
    "ValidatingWebhookConfiguration",
    "MutatingWebhookConfiguration",
    "Node",
    "PersistentVolume",
    "PersistentVolumeClaim",
];

impl Links {
    /// The links to an effect, which are looked for if they are not known.
    pub(crate) fn of(&mut self, effect: FindingId, look: impl FnOnce() -> (Vec<Link>, Reach)) -> &[Link] {
        let Self { of, near } = self;
        let (links, _) = of.entry(effect).or_insert_with(|| {
            let (links, reach) = look();
            for entity in &reach {
                near.entry(*entity).or_default().insert(effect);
            }
            (links, reach)
        });
        links
    }

    /// A finding is different.
    pub(crate) fn forget(&mut self, effect: FindingId) {
        let Some((_, reach)) = self.of.remove(&effect) else { return };
        for entity in reach {
            if let Some(effects) = self.near.get_mut(&entity) {
                effects.remove(&effect);
                if effects.is_empty() {
                    self.near.remove(&entity);
                }
            }
        }
    }

    /// Something about an entity is different: a finding on it, or its relations.
    pub(crate) fn touch(&mut self, entity: EntityId, graph: &Graph, at_ns: u64) {
        if self.near.is_empty() {
            return;
        }
        if graph.get(entity).is_some_and(|entity| FAR.contains(&&*entity.name.kind)) {
            return self.clear();
        }
        for near in graph.around(entity, at_ns) {
            for effect in self.near.get(&near).cloned().unwrap_or_default() {
                self.forget(effect);
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.of.clear();
        self.near.clear();
    }

    /// Effects that are over are not asked for again.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(FindingId) -> bool) {
        let gone: Vec<_> = self.of.keys().copied().filter(|id| !is_kept(*id)).collect();
        gone.into_iter().for_each(|id| self.forget(id));
    }
}
