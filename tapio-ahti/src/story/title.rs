//! An incident in a sentence.

use super::{
    lines::{KUBERNETES, source},
    name,
};
use crate::{
    explain::{Explanation, Known, workload},
    finding::Finding,
    graph::{EntityId, Name},
    visible::{Places, Prose},
};

/// What is said of what no rule knows.
const FAILING: &str = "is failing";

pub(super) fn title(
    known: Known<'_>,
    of: &Explanation,
    worst: Option<EntityId>,
    root: Option<&Finding>,
    kind: Option<&crate::rule::Kind>,
    first: Option<&Finding>,
) -> Prose {
    let titled = |id: EntityId| titled(&name(known, id));
    let workload = |finding: &Finding| workload(known, finding);
    let says = |finding: &Finding| known.rules.kind_of(finding).map_or(FAILING, |kind| &kind.says);
    let done = root
        .filter(|root| crate::fact::is_change(&root.key.kind))
        .and_then(|root| done(known, of, root, first));
    let about = root.into_iter().chain(first).map(workload).chain(worst);
    let places: Places = about.map(|id| name(known, id).place()).collect();
    let text = match (root, kind, worst) {
        (Some(root), Some(kind), Some(worst)) => {
            let (worst, root_name) = (titled(worst), titled(workload(root)));
            match done {
                Some(done) => format!("{worst} is failing because {root_name} {done} since it {}", kind.says),
                None => format!("{worst} is failing because {root_name} {}", kind.says),
            }
        }
        (Some(root), Some(kind), None) => match done {
            Some(done) => format!("{} {done} since it {}", titled(workload(root)), kind.says),
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

/// What a change did, in words: to its workload, or its workload to others. That is closer to what people see than the change.
fn done<'a>(
    known: Known<'a>,
    of: &Explanation,
    root: &Finding,
    first: Option<&'a Finding>,
) -> Option<&'a str> {
    let of_root = workload(known, root);
    let is_own = |finding: &&Finding| workload(known, finding) == of_root;
    let is_kubernetes = |finding: &Finding| source(&finding.key.kind) == KUBERNETES;
    let effects = || {
        let links = of.links.iter().filter(|link| Some(link.cause) == of.root);
        links.filter_map(|link| known.findings.get(link.effect))
    };
    let says = |finding: &Finding| known.rules.kind_of(finding).map(|kind| &*kind.says);
    let to_others = effects().find_map(|finding| {
        let actor = known.graph.workload(finding.actor?, finding.onset_ns);
        known.rules.kind_of(finding)?.by.as_deref().filter(|_| actor == of_root)
    });
    if to_others.is_some() {
        return to_others;
    }
    let first = first.filter(is_own)?;
    // A probe fails because of what the kernel says.
    let mut closer = effects().filter(|finding| is_own(finding) && !is_kubernetes(finding));
    let closer = closer.find_map(says).filter(|_| is_kubernetes(first));
    Some(closer.or_else(|| says(first)).unwrap_or(FAILING))
}
