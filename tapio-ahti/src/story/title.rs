//! An incident in a sentence.

use super::{
    lines::{KUBERNETES, source},
    name,
};
use crate::{
    explain::{Explanation, Known, workload},
    finding::{Finding, FindingId},
    graph::{EntityId, Name},
    visible::{Places, Prose},
};

pub(super) fn title(
    known: Known<'_>,
    worst: Option<EntityId>,
    root: Option<&Finding>,
    kind: Option<&crate::rule::Kind>,
    first: Option<&Finding>,
) -> Prose {
    let titled = |id: EntityId| titled(&name(known, id));
    let workload = |finding: &Finding| workload(known, finding);
    let says = |finding: &Finding| known.rules.kind_of(finding).map_or("is failing", |kind| &kind.says);
    // What became of the cause's own workload is closer to what people see than the change.
    let is_change = |root: &Finding| crate::fact::is_change(&root.key.kind);
    let own =
        first.filter(|first| root.is_some_and(|root| is_change(root) && workload(root) == workload(first)));
    let about = root.into_iter().chain(first).map(workload).chain(worst);
    let places: Places = about.map(|id| name(known, id).place()).collect();
    let text = match (root, kind, worst) {
        (Some(root), Some(kind), Some(worst)) => {
            let (worst, root_name) = (titled(worst), titled(workload(root)));
            match own {
                Some(own) => {
                    format!("{worst} is failing because {root_name} {} since it {}", says(own), kind.says)
                }
                None => format!("{worst} is failing because {root_name} {}", kind.says),
            }
        }
        (Some(root), Some(kind), None) => match own {
            Some(own) => format!("{} {} since it {}", titled(workload(root)), says(own), kind.says),
            // The same said twice explains nothing.
            None => {
                match first.filter(|first| workload(first) != workload(root) || says(first) != kind.says) {
                    Some(first) => {
                        format!(
                            "{} {} because {} {}",
                            titled(workload(first)),
                            says(first),
                            titled(workload(root)),
                            kind.says
                        )
                    }
                    None => format!("{} {}", titled(workload(root)), kind.says),
                }
            }
        },
        _ => match first {
            Some(first) => format!("{} {}; the cause is not known", titled(workload(first)), says(first)),
            None => "the cause is not known".to_owned(),
        },
    };
    Prose::new(text, places)
}

/// Kinds whose names say enough in a title. Objects of other kinds mostly have the name of a workload.
const WORKLOADS: [&str; 9] =
    ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "CronJob", "Job", "Pod", "Unit", "Application"];

/// As titles name objects.
fn titled(name: &Name) -> String {
    let short = short(name);
    if WORKLOADS.contains(&&*name.kind) { short } else { format!("{} {short}", name.kind) }
}

/// An object without its kind.
pub(crate) fn short(name: &Name) -> String {
    match &name.namespace {
        Some(namespace) => format!("{} ({namespace})", name.name),
        None => name.name.clone(),
    }
}

/// What the kernel says that a change did to its own workload, where the first failure is one that Kubernetes says: a probe fails
/// because of it.
pub(super) fn own_effect<'a>(known: Known<'a>, of: &Explanation) -> Option<&'a Finding> {
    let get = |id: FindingId| known.findings.get(id);
    let is_of_root = |finding: &&Finding| {
        of.root.and_then(get).is_some_and(|root| workload(known, root) == workload(known, finding))
    };
    let is_kubernetes = |finding: &Finding| source(&finding.key.kind) == KUBERNETES;
    of.first(known).and_then(get).filter(is_of_root).filter(|first| is_kubernetes(first))?;
    let effects =
        of.links.iter().filter(|link| Some(link.cause) == of.root).filter_map(|link| get(link.effect));
    let mut effects = effects.filter(is_of_root).filter(|finding| !is_kubernetes(finding));
    effects.find(|finding| known.rules.kind_of(finding).is_some())
}
