//! The engine's causes in the words of Cloud-OpsBench.
//!
//! The set blames an application for some faults that are in a node or a volume; that is its convention, and is followed here.

use std::collections::BTreeMap;

use tapio_ahti::incident::{Considered, Explained};
use tapio_occurrence::{
    Occurrence,
    kubernetes::{Change, Fact as _, Field, Verb},
};

use crate::case::{ById, Said};

/// Whose an object is.
pub(crate) struct Names {
    pub(crate) namespace: String,
    /// The application that uses an object, by kind and name.
    pub(crate) users: BTreeMap<String, String>,
}

/// What a cause is about, in the set's convention.
enum Blamed {
    /// The cause's own object.
    Own,
    /// Who fails first.
    Victim,
    Namespace,
}

pub(crate) fn say(cause: &Considered, facts: &ById<'_>, names: &Names) -> Said {
    let fact = cause.facts.first().and_then(|id| facts.get(id)).copied();
    let (label, blamed) = fact.map_or(("", Blamed::Own), |fact| label(cause, fact, facts));
    let own = || object(&cause.workload.kind, &cause.workload.name, names);
    let victim = cause.explains.iter().map(|explained| &explained.workload);
    let victim =
        victim.map(|name| object(&name.kind, &name.name, names)).find(|name| name.starts_with("app/"));
    let object = match blamed {
        Blamed::Own => own(),
        Blamed::Victim => victim.unwrap_or_else(own),
        Blamed::Namespace => format!("namespace/{}", names.namespace),
    };
    Said { object, cause: label.to_owned() }
}

fn object(kind: &str, name: &str, names: &Names) -> String {
    match kind {
        "Node" => format!("node/{name}"),
        "ResourceQuota" | "LimitRange" | "Namespace" => format!("namespace/{}", names.namespace),
        "Deployment" | "StatefulSet" | "Service" => format!("app/{name}"),
        _ => match names.users.get(&format!("{kind}/{name}")) {
            Some(app) => format!("app/{app}"),
            None => format!("{}/{name}", kind.to_lowercase()),
        },
    }
}

fn text_of<'a>(fact: &'a Occurrence, key: &str) -> &'a str {
    fact.data.text(key).unwrap_or_default()
}

/// The texts of what a cause explains.
fn explained_texts<'a>(
    cause: &'a Considered,
    facts: &'a ById<'_>,
) -> impl Iterator<Item = (&'a Explained, &'a str)> {
    cause.explains.iter().flat_map(move |explained| {
        let facts = explained.facts.iter().filter_map(move |id| facts.get(id));
        facts.map(move |fact| (explained, fact.data.text("text").unwrap_or(&fact.message)))
    })
}

fn label(cause: &Considered, fact: &Occurrence, facts: &ById<'_>) -> (&'static str, Blamed) {
    match &*fact.kind {
        "kubernetes.change" => match Change::of(fact) {
            Some(Ok(change)) => of_change(&change, cause, facts),
            _ => ("", Blamed::Own),
        },
        "kubernetes.condition" | "kubernetes.warning" => {
            let name = if text_of(fact, "condition").is_empty() {
                text_of(fact, "reason")
            } else {
                text_of(fact, "condition")
            };
            of_state(name, fact, text_of(fact, "text"))
        }
        "node.service_stopped" => (
            match text_of(fact, "unit") {
                "kubelet" => "kubelet_unavailable",
                "containerd" => "containerd_unavailable",
                "kube-proxy" => "kube_proxy_unavailable",
                "kube-scheduler" => "kube_scheduler_unavailable",
                _ => "",
            },
            Blamed::Own,
        ),
        "container.oom_kill" => ("oom_killed", Blamed::Own),
        "node.cpu_throttled" => ("pod_cpu_overload", Blamed::Own),
        kind if kind.starts_with("network.") => match fact.workload {
            Some(_) => ("pod_network_delay", Blamed::Own),
            None => ("node_network_delay", Blamed::Own),
        },
        _ => ("", Blamed::Own),
    }
}

fn of_state(name: &str, fact: &Occurrence, text: &str) -> (&'static str, Blamed) {
    match name {
        "NodeNotReady" if text.contains("container runtime") => ("containerd_unavailable", Blamed::Own),
        "NodeNotReady" => ("kubelet_unavailable", Blamed::Own),
        "Unschedulable" => (unschedulable(text, false), Blamed::Own),
        "ReplicaFailure" => refused(text),
        "Waiting" if text_of(fact, "reason").contains("Image") => (image(text), Blamed::Own),
        "Pending" => (pending(text), Blamed::Own),
        "UsedUp" => (quota(text), Blamed::Namespace),
        "FailedCreatePodSandBox" if text.contains("OOM") => ("oom_killed", Blamed::Own),
        _ => ("", Blamed::Own),
    }
}

/// Why a pod was refused.
fn refused(text: &str) -> (&'static str, Blamed) {
    let is = |part: &str| text.contains(part);
    if is("serviceaccount") || is("service account") {
        return ("missing_service_account", Blamed::Own);
    }
    (quota(text), Blamed::Namespace)
}

fn quota(text: &str) -> &'static str {
    let requested = text.split("requested: ").nth(1).unwrap_or(text);
    let is = |part: &str| requested.contains(part);
    match () {
        () if is("storage") || is("persistentvolumeclaims") || is("pvc") => {
            "namespace_storage_quota_exceeded"
        }
        () if is("cpu") => "namespace_cpu_quota_exceeded",
        () if is("memory") || is("mem-") => "namespace_memory_quota_exceeded",
        () if is("service") || is("svc") => "namespace_service_quota_exceeded",
        () if is("pod") => "namespace_pod_quota_exceeded",
        () => "",
    }
}

fn unschedulable(text: &str, selects_nodes: bool) -> &'static str {
    let is = |part: &str| text.contains(part);
    match () {
        () if is("Insufficient cpu") => "cpu_capacity_mismatch",
        () if is("Insufficient memory") => "memory_capacity_mismatch",
        () if is("anti-affinity") => "pod_anti_affinity_conflict",
        () if is("affinity/selector") && selects_nodes => "node_selector_mismatch",
        () if is("affinity/selector") => "node_affinity_mismatch",
        () if is("untolerated taint") => "taint_toleration_mismatch",
        () if is("were unschedulable") => "node_cordon_mismatch",
        () => "",
    }
}

fn image(text: &str) -> &'static str {
    let is = |part: &str| text.contains(part);
    match () {
        // No answer at all; the set's texts end before they say why.
        () if is("failed to do request") => "image_registry_dns_failure",
        () if is("authoriz") || is("anonymous token") => "missing_image_pull_secret",
        () => "incorrect_image_reference",
    }
}

fn pending(text: &str) -> &'static str {
    if text.contains("storageclass") { "pvc_storage_class_mismatch" } else { "" }
}

fn of_change(change: &Change, cause: &Considered, facts: &ById<'_>) -> (&'static str, Blamed) {
    let has = |part: &str| change.fields.iter().any(|field| field.path.contains(part));
    match (&*change.object.kind, change.verb) {
        ("ResourceQuota", _) => {
            let refused = explained_texts(cause, facts)
                .map(|(_, text)| text)
                .find(|text| text.contains("requested: ") || text.contains(" used"));
            (quota(refused.unwrap_or(&change.object.name)), Blamed::Namespace)
        }
        ("Node", _) if has("spec.unschedulable") => ("node_cordon_mismatch", Blamed::Victim),
        ("Node", _) => ("taint_toleration_mismatch", Blamed::Victim),
        ("Service", Verb::Updated) if has("spec.selector") => ("service_selector_mismatch", Blamed::Own),
        ("Service", Verb::Updated) if has(".protocol") => ("service_protocol_mismatch", Blamed::Own),
        ("Service", Verb::Updated) => ("service_port_mapping_mismatch", Blamed::Own),
        ("ServiceAccount", _) => ("missing_service_account", Blamed::Victim),
        ("PersistentVolume" | "PersistentVolumeClaim", _) => (
            match () {
                () if has("accessModes") => "pvc_access_mode_mismatch",
                () if has("storageClassName") => "pvc_storage_class_mismatch",
                () if change.verb == Verb::Created => "pv_binding_occupied",
                () if has("capacity") => "pvc_capacity_mismatch",
                () => "",
            },
            Blamed::Victim,
        ),
        _ => (of_rollout(&change.fields, cause, facts), Blamed::Own),
    }
}

/// Which of the changed fields it was, by what came of it.
fn of_rollout(fields: &[Field], cause: &Considered, facts: &ById<'_>) -> &'static str {
    let has = |part: &str| fields.iter().any(|field| field.path.contains(part));
    // A restart comes of a liveness probe.
    let mut probes: Vec<&str> = ["liveness", "startup", "readiness"].into_iter().collect();
    probes.retain(|probe| {
        let failed = format!("{probe} probe failed");
        has(&format!("{probe}Probe"))
            && explained_texts(cause, facts).any(|(_, text)| text.to_lowercase().starts_with(&failed))
    });
    // What is closest to the mechanism says which.
    let find = |kind: &str| {
        let mut of_kind = explained_texts(cause, facts).filter(|(explained, _)| explained.kind == kind);
        of_kind.next().map(|(_, text)| text)
    };
    if let Some(text) = find("kubernetes.condition/Unschedulable") {
        return unschedulable(text, has(".nodeSelector."));
    }
    if let Some(text) = find("kubernetes.condition/ReplicaFailure") {
        return refused(text).0;
    }
    if find("container.oom_kill").is_some()
        || find("kubernetes.warning/FailedCreatePodSandBox").is_some_and(|text| text.contains("OOM"))
    {
        return "oom_killed";
    }
    if find("node.cpu_throttled").is_some() {
        return "pod_cpu_overload";
    }
    let probe = probes.into_iter().map(|probe| of_probe(probe, fields)).find(|label| !label.is_empty());
    match (probe, find("kubernetes.condition/Waiting")) {
        (_, Some(text)) if has(".image") => image(text),
        _ if has(".env.") => "service_env_var_address_mismatch",
        _ if has(".volumes.") => "volume_mount_permission_denied",
        (probe, _) => probe.unwrap_or_default(),
    }
}

fn of_probe(probe: &str, fields: &[Field]) -> &'static str {
    let of_probe = || fields.iter().filter(|field| field.path.contains(&format!("{probe}Probe.")));
    // Another handler has its port under another name, so that one goes and one comes.
    let is_other =
        of_probe().any(|field| field.path.ends_with(".port") && (field.from.is_none() || field.to.is_none()));
    let is_port = of_probe().any(|field| field.path.ends_with(".port"));
    match (probe, is_other, is_port) {
        ("liveness", true, _) => "liveness_probe_incorrect_protocol",
        ("liveness", _, true) => "liveness_probe_incorrect_port",
        ("liveness", ..) => "liveness_probe_incorrect_timing",
        ("readiness", true, _) => "readiness_probe_incorrect_protocol",
        ("readiness", _, true) => "readiness_probe_incorrect_port",
        _ => "",
    }
}
