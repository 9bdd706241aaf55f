//! An incident in a sentence.

use super::{
    lines::{KERNEL, source},
    name,
};
use crate::{
    explain::{Explanation, Known, workload},
    finding::{Finding, FindingId},
    graph::{EntityId, Name},
    rule::Class,
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
        .and_then(|root| done(known, of, worst, root, first));
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
    worst: Option<EntityId>,
    root: &Finding,
    first: Option<&'a Finding>,
) -> Option<&'a str> {
    let get = |id: FindingId| known.findings.get(id);
    let kind = |finding: &Finding| known.rules.kind_of(finding);
    let of_root = workload(known, root);
    let is_own = |finding: &&Finding| workload(known, finding) == of_root;
    // On the way to who fails.
    let cause_of = |id: &FindingId| of.links.iter().find(|link| link.effect == *id).map(|link| link.cause);
    let is_worst = |id: &&FindingId| get(**id).map(|finding| workload(known, finding)) == worst;
    let failing = worst.and_then(|_| of.effects.iter().rev().find(is_worst)).copied();
    let way = std::iter::successors(failing, cause_of).take(of.effects.len() + 1);
    let to_others = way.filter_map(get).find_map(|finding| {
        let actor = known.graph.workload(finding.actor?, finding.onset_ns);
        let by = kind(finding)?.by.as_deref()?;
        (actor == of_root && !is_own(&finding)).then_some(by)
    });
    if to_others.is_some() {
        return to_others;
    }
    let first = first.filter(is_own)?;
    // A probe fails because of what the kernel says.
    let direct =
        |id: &&FindingId| of.links.iter().any(|link| Some(link.cause) == of.root && link.effect == **id);
    let is_closer = |finding: &&Finding| is_own(finding) && source(&finding.key.kind) == KERNEL;
    let is_symptom = kind(first).is_some_and(|kind| kind.class == Class::Symptom);
    let mut closer = of.effects.iter().filter(direct).filter_map(|id| get(*id)).filter(is_closer);
    let closer = closer.find_map(kind).filter(|_| is_symptom);
    Some(closer.or_else(|| kind(first)).map_or(FAILING, |kind| &kind.says))
}
