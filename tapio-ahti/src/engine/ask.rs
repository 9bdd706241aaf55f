//! Questions that pages and the API ask.

use super::Engine;
use crate::{
    about::{self, About},
    blast::{self, Blast},
    changes::{self, Changed},
    graph::Name,
    incident::{Incident, Mute, Status},
};

impl Engine {
    /// All changes, the newest first.
    pub fn changes(&mut self) -> Vec<Changed> {
        self.refresh();
        let incidents: Vec<&Incident> = self.incidents.iter().rev().collect();
        changes::of(self.known(), self.findings.iter().map(|(_, finding)| finding), &incidents)
    }

    /// What is known of an entity; `None` if it is not known at all.
    pub fn about(&mut self, name: &Name) -> Option<About> {
        self.refresh();
        let incidents: Vec<&Incident> = self.incidents.iter().rev().collect();
        about::about(self.known(), name, &incidents)
    }

    /// How far an incident reaches; `None` if there is no such incident.
    pub fn blast(&mut self, id: &str) -> Option<Blast> {
        self.refresh();
        let incident = self.incidents.iter().find(|incident| incident.id.eq_ignore_ascii_case(id))?;
        Some(blast::blast(self.known(), incident))
    }

    /// The objects and namespaces that are muted.
    pub fn mutes(&self) -> Vec<Mute> {
        self.mutes.on(self.now_ns).cloned().collect()
    }

    /// The incidents in their latest revision: id, revision and status.
    pub fn revisions(&self) -> impl Iterator<Item = (&str, u64, Status)> {
        self.incidents.iter().map(|incident| (&*incident.id, incident.revision, incident.status))
    }
}
