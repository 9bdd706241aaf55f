//! What is known to be complete, and what is not known.

use tapio_occurrence::{
    Outcome, Severity,
    kubernetes::{Missing, Reference, Synced, Watched},
};

use super::{Reporter, SLICES};
use crate::portti::{
    fact::Said,
    kinds::{Kind, Role},
    status::Watch,
};

impl Reporter {
    /// A kind that is not watched, because nobody asked for it.
    pub(in crate::portti) fn leave_out(&mut self, kind: &'static Kind, reason: &str) {
        self.missing.insert(kind.name, reason.to_owned());
        self.status.lost(kind.name, Watch::Off, reason.to_owned());
    }

    /// All objects of a kind have come: others that were reported are gone.
    pub(super) fn all_listed(&mut self, kind: &'static Kind, at_unix_ns: u64) -> anyhow::Result<()> {
        let Some(list) = self.lists.remove(kind.name) else { return Ok(()) };
        let number = list.len() as u64;
        self.told_again.insert(kind.name);
        if kind.role == Role::Sign {
            self.signs.retain(|node, _| list.contains(node));
        } else {
            for key in self.store.keys(&format!("{}/", kind.name))? {
                if !list.contains(&key) {
                    self.gone(kind, &key, at_unix_ns)?;
                }
            }
        }
        self.watched.insert(kind.name, number);
        if self.missing.remove(kind.name).is_some() {
            tracing::info!(kind = kind.name, objects = number, "portti: it is watched now");
        }
        self.status.watched(kind.name);
        self.status.count(kind.name, number);
        if !self.is_known(kind)? {
            self.store.put_note(known(kind), Some(Vec::new()));
        }
        if kind.name == SLICES {
            self.store.keys("Service/")?.iter().try_for_each(|service| self.service(service))?;
        }
        self.synced_unix_ns = Some(at_unix_ns);
        Ok(())
    }

    /// A watch has failed. What it watched goes on being known, and is compared when it is listed again.
    pub(super) fn lost(&mut self, kind: &'static Kind, fault: &tapio_kube::Fault, at_unix_ns: u64) {
        let resource = kind.resource();
        let reason = match fault.code {
            Some(403) => format!(
                "the API server forbids it (403): grant list and watch on {resource} to the service account \
                 (ClusterRole tapio-portti)"
            ),
            Some(404) => format!("the API server does not serve {resource} in {} (404)", kind.version),
            _ => fault.why.clone(),
        };
        self.lists.remove(kind.name);
        self.watched.remove(kind.name);
        self.status.lost(kind.name, Watch::of_fault(fault.code), reason.clone());
        // A cluster without the kind has no objects of it: nothing is missing.
        if fault.code == Some(404) {
            return;
        }
        if self.missing.insert(kind.name, reason.clone()).is_none() {
            tracing::warn!(kind = kind.name, lost = kind.lost, "portti: {reason}");
            self.synced_unix_ns = Some(at_unix_ns);
        }
    }

    /// Says what is known to be complete.
    pub(super) fn synced(&mut self, at_unix_ns: u64) -> anyhow::Result<()> {
        self.status.synced(at_unix_ns);
        let watched =
            self.watched.iter().map(|(kind, objects)| Watched { kind: (*kind).into(), objects: *objects });
        let missing = self
            .missing
            .iter()
            .map(|(kind, reason)| Missing { kind: (*kind).into(), reason: reason.clone() });
        let synced = Synced { kinds: watched.collect(), missing: missing.collect() };
        let message = match synced.missing.as_slice() {
            [] => format!("{} kinds are watched", synced.kinds.len()),
            missing => {
                let names: Vec<_> = missing.iter().map(|missing| missing.kind.as_str()).collect();
                format!("{} kinds are watched; not {}", synced.kinds.len(), names.join(", "))
            }
        };
        let content = serde_json::to_string(&synced)?;
        self.say(Said {
            fact: &synced,
            time_unix_ns: at_unix_ns,
            id_unix_ns: None,
            severity: Severity::Debug,
            outcome: Outcome::Success,
            message,
            about: (&Reference::default(), ""),
            apart: &[&content],
            node: None,
            workload: None,
            count: 1,
        })
    }

    /// Whether a kind was listed once, so that what is new was not there before.
    pub(super) fn is_known(&self, kind: &Kind) -> anyhow::Result<bool> {
        Ok(self.store.note(&known(kind))?.is_some())
    }

    pub(super) fn counted(&mut self, kind: &'static Kind, change: i64) {
        if let Some(objects) = self.watched.get_mut(kind.name) {
            *objects = objects.saturating_add_signed(change);
            self.status.count(kind.name, *objects);
        }
    }
}

/// The note that a kind was listed once.
fn known(kind: &Kind) -> String {
    format!("listed/{}", kind.name)
}
