//! The owner of a pattern, identified so that it is recognised after a restart.

use serde::{Deserialize, Serialize};
use tapio_occurrence::Workload;

/// A workload, by the widest name that certainly stays the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Owner {
    /// Namespace, kind and name of the owner, container.
    Named([Option<String>; 4]),
    Pod(String),
    Unit(String),
    Container(String),
}

impl Owner {
    pub(super) fn of(workload: &Workload) -> Option<Self> {
        if workload.owner.is_some() {
            let Workload { namespace, owner_kind, owner, container, .. } = workload.clone();
            return Some(Self::Named([namespace, owner_kind, owner, container]));
        }
        let pod = workload.pod_uid.clone().map(Self::Pod);
        let unit = workload.unit.clone().map(Self::Unit);
        pod.or(unit).or_else(|| workload.container_id.clone().map(Self::Container))
    }
}
