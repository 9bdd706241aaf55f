//! Who changed an object, when, and which tool owns it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tapio_occurrence::kubernetes::Field;

use super::read::{capped, unix_ns};

/// Field managers that are Kubernetes' own components. What they write follows from something else.
const COMPONENTS: &[&str] = &[
    "kube-controller-manager",
    "kube-scheduler",
    "kube-apiserver",
    "kubelet",
    "cloud-controller-manager",
    "vpnkit-controller",
];

/// A tool's mark on an object: the key, whether it is an annotation, and the tool.
const MARKS: &[(&str, Where, &str)] = &[
    ("argocd.argoproj.io/tracking-id", Where::Annotation, "Argo CD"),
    ("argocd.argoproj.io/instance", Where::Label, "Argo CD"),
    ("kustomize.toolkit.fluxcd.io/name", Where::Label, "Flux"),
    ("helm.toolkit.fluxcd.io/name", Where::Label, "Flux"),
    ("meta.helm.sh/release-name", Where::Annotation, "Helm"),
];
/// Annotations with the tool's revision.
const REVISIONS: &[&str] = &[
    "argocd.argoproj.io/revision",
    "kustomize.toolkit.fluxcd.io/revision",
    "kustomize.toolkit.fluxcd.io/checksum",
    "helm.sh/chart-revision",
    "app.kubernetes.io/revision",
    "kubernetes.io/change-cause",
];
/// The annotation that `kubectl apply` leaves.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[derive(Clone, Copy, Debug)]
enum Where {
    Label,
    Annotation,
}

/// The tool that owns an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tool {
    pub(super) name: Option<String>,
    pub(super) application: Option<String>,
    pub(super) revision: Option<String>,
}

/// Who wrote something, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Writer {
    pub(super) manager: Option<String>,
    pub(super) time_unix_ns: Option<u64>,
}

impl Writer {
    /// Whether it is one of Kubernetes' own components.
    pub(super) fn is_component(&self) -> bool {
        self.manager.as_deref().is_some_and(is_component)
    }

    /// Who wrote these fields last, or created the object where there are none.
    pub(super) fn of(entries: &[ManagedFieldsEntry], fields: &[Field]) -> Self {
        let path = fields.first().map(|field| field.path.as_str());
        let newest = entries
            .iter()
            .filter(|entry| entry.subresource.as_deref() != Some("status"))
            .max_by_key(|entry| {
                let owned = entry.fields_v1.as_ref().map(|owned| &owned.0);
                let depth = path.zip(owned).map_or(0, |(path, owned)| depth(owned, path));
                let time = entry.time.as_ref().and_then(unix_ns);
                // The one who created an object is the first who wrote to it.
                (depth, if path.is_some() { time } else { time.map(|time| u64::MAX - time) })
            });
        newest.map_or_else(Self::default, |entry| Self {
            manager: entry.manager.as_deref().filter(|manager| !manager.is_empty()).map(capped),
            time_unix_ns: entry.time.as_ref().and_then(unix_ns),
        })
    }
}

/// Whether a field manager is one of Kubernetes' own components.
pub(super) fn is_component(manager: &str) -> bool {
    COMPONENTS.contains(&manager)
}

/// Whether only components have written to an object.
pub(super) fn is_of_components(entries: &[ManagedFieldsEntry]) -> bool {
    let mut managers = entries.iter().filter_map(|entry| entry.manager.as_deref()).peekable();
    managers.peek().is_some() && managers.all(is_component)
}

/// How far a path leads into the fields that an entry owns.
fn depth(owned: &Value, path: &str) -> usize {
    let Some(keys) = owned.as_object() else { return 0 };
    let further = |name: &str| {
        let rest = path.strip_prefix(name)?;
        if rest.is_empty() { Some("") } else { rest.strip_prefix('.') }
    };
    let deeper = keys.iter().filter_map(|(key, below)| {
        let rest = match key.split_once(':')? {
            ("f", name) => further(name)?,
            ("k", named) => {
                // The entry of a list, by the values of its keys: {"name":"app"}
                let named: BTreeMap<String, Value> = serde_json::from_str(named).ok()?;
                let text =
                    |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
                named.values().find_map(|value| further(&text(value)))?
            }
            _ => return None,
        };
        Some(1 + if rest.is_empty() { 0 } else { depth(below, rest) })
    });
    deeper.max().unwrap_or(0)
}

impl Tool {
    /// Reads a tool's marks.
    pub(super) fn of(metadata: &ObjectMeta) -> Self {
        let annotation = |key: &str| metadata.annotations.as_ref()?.get(key);
        let label = |key: &str| metadata.labels.as_ref()?.get(key);
        let marked = MARKS.iter().find_map(|(key, place, tool)| {
            let value = match place {
                Where::Label => label(key),
                Where::Annotation => annotation(key),
            };
            // Argo CD's tracking id is APPLICATION:GROUP/KIND:NAMESPACE/NAME.
            value.map(|value| (*tool, value.split(':').next().unwrap_or_default()))
        });
        let instance = || {
            let by_argo =
                metadata.managed_fields.iter().flatten().any(|entry| {
                    entry.manager.as_deref().is_some_and(|manager| manager.starts_with("argocd"))
                });
            Some(("Argo CD", label("app.kubernetes.io/instance").filter(|_| by_argo)?.as_str()))
        };
        let by_hand = || annotation(LAST_APPLIED).map(|_| ("kubectl", ""));
        let found = marked.or_else(instance).or_else(by_hand);
        Self {
            name: found.map(|(tool, _)| tool.to_owned()),
            application: found.map(|(_, name)| capped(name)).filter(|name| !name.is_empty()),
            revision: REVISIONS.iter().find_map(|key| annotation(key)).map(|revision| capped(revision)),
        }
    }
}

/// The newest time at which anything in an object was written.
pub(super) fn written_unix_ns(metadata: &ObjectMeta) -> Option<u64> {
    let entries = metadata.managed_fields.iter().flatten();
    let times = entries.filter_map(|entry| entry.time.as_ref().and_then(unix_ns));
    times.chain(metadata.creation_timestamp.as_ref().and_then(unix_ns)).max()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tapio_occurrence::kubernetes::Aspect;

    use super::*;

    fn entry(manager: &str, second: u32, subresource: &str, owned: &Value) -> ManagedFieldsEntry {
        serde_json::from_value(json!({
            "manager": manager, "operation": "Update", "apiVersion": "apps/v1", "subresource": subresource,
            "time": format!("2026-11-20T01:46:{second:02}Z"), "fieldsType": "FieldsV1", "fieldsV1": owned,
        }))
        .unwrap()
    }

    fn field(path: &str) -> Field {
        Field { path: path.to_owned(), aspect: Aspect::Other, from: None, to: None }
    }

    #[test]
    fn the_one_who_owns_the_field_is_named() {
        let template = |field: &str| {
            json!({ "f:spec": { "f:template": { "f:spec": { "f:containers": {
                "k:{\"name\":\"app\"}": { ".": {}, field: {} },
            } } } } })
        };
        let entries = [
            entry("kubectl-client-side-apply", 1, "", &template("f:env")),
            entry("kubectl-set", 20, "", &template("f:image")),
            entry("kube-controller-manager", 21, "", &json!({ "f:metadata": { "f:annotations": {} } })),
            entry("kube-controller-manager", 30, "scale", &json!({ "f:spec": { "f:replicas": {} } })),
            entry("kube-controller-manager", 40, "status", &json!({ "f:status": {} })),
        ];
        let of = |path: &str| Writer::of(&entries, &[field(path)]).manager.unwrap();
        assert_eq!(of("spec.template.spec.containers.app.image"), "kubectl-set");
        assert_eq!(of("spec.template.spec.containers.app.env.A.value"), "kubectl-client-side-apply");
        assert_eq!(of("spec.replicas"), "kube-controller-manager");
        assert_eq!(Writer::of(&entries, &[]).manager.unwrap(), "kubectl-client-side-apply");
        assert!(!is_of_components(&entries));
        assert!(is_of_components(&entries[2..]) && !is_of_components(&[]));
    }

    #[test]
    fn tools_are_known_by_their_marks() {
        let of = |metadata: Value| {
            let tool = Tool::of(&serde_json::from_value(metadata).unwrap());
            (tool.name.unwrap_or_default(), tool.application.unwrap_or_default())
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let argo =
            json!({ "annotations": { "argocd.argoproj.io/tracking-id": "pay:apps/Deployment:shop/pay" } });
        assert_eq!(of(argo), pair("Argo CD", "pay"));
        let instance = json!({
            "labels": { "app.kubernetes.io/instance": "pay" },
            "managedFields": [{ "manager": "argocd-controller" }],
        });
        assert_eq!(of(instance), pair("Argo CD", "pay"));
        assert_eq!(of(json!({ "labels": { "app.kubernetes.io/instance": "pay" } })), pair("", ""));
        assert_eq!(
            of(json!({ "labels": { "kustomize.toolkit.fluxcd.io/name": "apps" } })),
            pair("Flux", "apps")
        );
        assert_eq!(of(json!({ "annotations": { "meta.helm.sh/release-name": "pay" } })), pair("Helm", "pay"));
        assert_eq!(of(json!({ "annotations": { LAST_APPLIED: "{}" } })), pair("kubectl", ""));
    }
}
