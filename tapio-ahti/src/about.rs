//! What is known of one entity: its incidents, findings and changes, also those of what it owned and is gone.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    changes::{self, Changed},
    explain::Known,
    fact::is_change,
    finding::Finding,
    graph::{Entity, EntityId, Name, Step},
    incident::{Incident, Line},
    story,
};

/// Lines of each list.
const MAX_LINES: usize = 100;

/// An entity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct About {
    /// What people call it.
    pub name: Name,
    /// When it was created; absent where only agents have named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_unix_ns: Option<u64>,
    /// When it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_unix_ns: Option<u64>,
    /// What owns it, the nearest first.
    pub owners: Vec<Name>,
    /// Its pods, the newest first, also those that are gone.
    pub pods: Vec<Pod>,
    /// What it calls or connects to.
    pub calls: Vec<Name>,
    /// Who calls it, or connects to it.
    pub callers: Vec<Name>,
    /// The incidents that it is part of, the newest first.
    pub incidents: Vec<Incident>,
    /// Changes of it, of what owns it and of what it uses, the newest first.
    pub changes: Vec<Changed>,
    /// Findings about it and about what it owns, the newest first.
    pub findings: Vec<Line>,
}

/// A pod of an entity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pod {
    /// Its name.
    pub name: Name,
    /// Its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// When it was created; when it was first heard of where that is not known.
    pub created_unix_ns: u64,
    /// When it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_unix_ns: Option<u64>,
}

/// Everything about a name. Several objects may have had it, one after the other.
pub(crate) fn about(known: Known<'_>, name: &Name, incidents: &[&Incident]) -> Option<About> {
    let Known { graph, findings, now_ns, .. } = known;
    let asked = graph.named(name, now_ns)?;
    let entity = graph.get(asked)?;
    let own: BTreeSet<EntityId> = graph.all_named(name).iter().flat_map(|id| graph.ever_owned(*id)).collect();
    let owners: Vec<EntityId> = graph.owners(asked, now_ns).into_iter().skip(1).collect();
    let is_node = |id: &EntityId| graph.is(*id, "Node");
    let mut near = own.clone();
    near.extend(owners.iter().copied().filter(|id| !is_node(id)));
    let mut changing = near.clone();
    changing.extend(graph.walk(&[asked], &[Step::Uses], now_ns));
    changing.extend(graph.walk(&[asked], &[Step::Autoscalers], now_ns));

    let named = |id: &EntityId| graph.get(*id).map(|entity| Name::clone(&entity.name));
    let names: BTreeSet<Name> = own.iter().filter_map(named).chain([name.clone()]).collect();
    let is_of = |incident: &&&Incident| {
        let lines = incident.lines.iter().flat_map(|line| [&line.entity, &line.workload]);
        lines.chain(&incident.hits).chain(&incident.root).any(|of| names.contains(of))
    };
    let related = |step| {
        let there = graph.walk(&[asked], &[step], now_ns);
        let workloads = there.into_iter().map(|id| graph.workload(id, now_ns));
        let workloads: BTreeSet<Name> = workloads.filter_map(|id| named(&id)).collect();
        workloads.into_iter().filter(|of| !names.contains(of)).collect::<Vec<_>>()
    };
    let mut pods: Vec<Pod> =
        own.iter().filter_map(|id| graph.get(*id)).filter(is_pod).map(|of| pod(of, now_ns)).collect();
    pods.sort_by_key(|pod| (std::cmp::Reverse(pod.created_unix_ns), pod.name.clone()));
    let of =
        |ids: &BTreeSet<EntityId>| ids.iter().flat_map(|id| findings.of(*id)).map(|(_, of)| of).collect();
    let mut found: Vec<&Finding> = of(&near);
    found.retain(|finding| !is_change(&finding.key.kind));
    found.sort_by_key(|finding| std::cmp::Reverse((finding.last_ns, finding.onset_ns)));
    let changed: Vec<&Finding> = of(&changing);
    let mut changed = changes::of(known, changed.into_iter(), incidents);
    changed.truncate(MAX_LINES);
    Some(About {
        name: name.clone(),
        created_unix_ns: entity.is_from_api().then(|| entity.created_ns()),
        deleted_unix_ns: entity.deleted_ns(),
        owners: owners.iter().filter_map(named).collect(),
        pods,
        calls: related(Step::Calls),
        callers: related(Step::Callers),
        incidents: incidents.iter().filter(is_of).map(|incident| (*incident).clone()).collect(),
        changes: changed,
        findings: found.into_iter().take(MAX_LINES).map(|finding| story::line(known, finding)).collect(),
    })
}

fn is_pod(entity: &&Entity) -> bool {
    entity.name.kind == "Pod"
}

fn pod(of: &Entity, now_ns: u64) -> Pod {
    Pod {
        name: Name::clone(&of.name),
        node: of.object(now_ns).and_then(|object| object.node.clone()),
        created_unix_ns: of.created_ns(),
        deleted_unix_ns: of.deleted_ns(),
    }
}
