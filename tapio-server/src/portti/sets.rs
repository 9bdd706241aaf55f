//! Change-sets: what one manager changed within seconds belongs together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tapio_occurrence::kubernetes::Reference;

use super::read::SECOND_NS;

/// The longest time between two changes of a set.
const GAP_NS: u64 = 10 * SECOND_NS;
/// The longest time between the first and the last change of a set: some managers never rest.
const SPAN_NS: u64 = 120 * SECOND_NS;
/// Managers of single acts by hand: two of them within seconds are two changes.
const BY_HAND: &[&str] = &[
    "kubectl-annotate",
    "kubectl-edit",
    "kubectl-label",
    "kubectl-patch",
    "kubectl-rollout",
    "kubectl-set",
    "kubectl-taint",
];
/// The most sets that may still grow.
const MAX_SETS: usize = 256;

/// The sets that may still grow, by manager and application.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sets(BTreeMap<String, Set>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Set {
    first_unix_ns: u64,
    last_unix_ns: u64,
}

impl Sets {
    /// The name of the set that a change of an object at this time belongs to.
    pub(super) fn of(
        &mut self,
        manager: &str,
        application: Option<&str>,
        object: &Reference,
        unix_ns: u64,
    ) -> String {
        let whose = application.map_or_else(|| manager.to_owned(), |name| format!("{manager}/{name}"));
        if BY_HAND.contains(&manager) {
            let namespace = object.namespace.as_deref().unwrap_or_default();
            let time = tapio_occurrence::timestamp(unix_ns);
            return format!("{whose}@{time}/{}/{namespace}/{}", object.kind, object.name);
        }
        let new = Set { first_unix_ns: unix_ns, last_unix_ns: unix_ns };
        let set = self.0.entry(whose.clone()).or_insert(new);
        if set.last_unix_ns.abs_diff(unix_ns) > GAP_NS || set.first_unix_ns.abs_diff(unix_ns) > SPAN_NS {
            *set = new;
        }
        set.last_unix_ns = set.last_unix_ns.max(unix_ns);
        let name = format!("{whose}@{}", tapio_occurrence::timestamp(set.first_unix_ns));
        if self.0.len() > MAX_SETS {
            let oldest =
                self.0.iter().min_by_key(|(_, set)| set.last_unix_ns).map(|(whose, _)| whose.clone());
            self.0.retain(|whose, _| Some(whose) != oldest.as_ref());
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_one_manager_within_seconds_are_one_set() {
        let mut sets = Sets::default();
        let object =
            |name: &str| Reference { kind: "Deployment".into(), name: name.into(), ..Reference::default() };
        let a = object("a");
        let mut at = |manager: &str, second: u64| sets.of(manager, None, &a, (1_000 + second) * SECOND_NS);
        let first = at("argocd", 0);
        assert_eq!(first, "argocd@1970-01-01T00:16:40Z");
        assert_eq!((at("argocd", 8), at("argocd", 16)), (first.clone(), first.clone()));
        assert_ne!(at("kubectl", 8), first);
        assert_ne!(at("argocd", 27), first);
        let mut sets = Sets::default();
        let ever: std::collections::BTreeSet<_> =
            (0..100).map(|nth| sets.of("operator", None, &a, nth * 5 * SECOND_NS)).collect();
        assert_eq!(ever.len(), 4, "{ever:?}");
        assert_ne!(sets.of("a", Some("x"), &a, 0), sets.of("a", Some("y"), &a, 0));
        assert_eq!(sets.of("argocd", None, &a, 0), sets.of("argocd", None, &object("b"), 0));
        assert_ne!(
            sets.of("kubectl-set", None, &a, 0),
            sets.of("kubectl-set", None, &object("b"), 0),
            "by hand"
        );
        (0..1_000).for_each(|nth| drop(sets.of(&nth.to_string(), None, &a, nth)));
        assert!(sets.0.len() <= MAX_SETS);
    }
}
