//! The form in which an object is kept: what was reported of it, and no more.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use kube::api::DynamicObject;
use serde::{Deserialize, Serialize};
use tapio_occurrence::kubernetes::{Object, Reference};

use super::{
    flat::Flat,
    kinds::{CONTROLLERS, Kind},
    origin::{Tool, is_of_components, written_unix_ns},
    read::{SECOND_NS, capped, text, unix_ns},
    relations::pairs,
    salt::Salt,
    states::{Seen, State, States},
};

/// The annotation with the revision of a ReplicaSet.
const REVISION: &str = "deployment.kubernetes.io/revision";

/// An object, reduced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Form {
    /// As it is reported.
    pub(super) object: Object,
    /// `metadata.resourceVersion`.
    pub(super) version: String,
    /// `metadata.generation`.
    pub(super) generation: Option<u64>,
    /// When anything in it was written last.
    pub(super) written_unix_ns: u64,
    /// When somebody asked for its deletion.
    pub(super) deleting_unix_ns: Option<u64>,
    /// What it should be.
    pub(super) flat: Flat,
    /// Its states that were reported and have not ended.
    pub(super) states: Vec<State>,
    /// The tool that owns it.
    pub(super) tool: Tool,
    /// Whether only Kubernetes' own components have written to it.
    pub(super) is_of_components: bool,
    /// Why it is going to be disrupted, of a pod.
    pub(super) disruption: Option<String>,
    /// When and in which version its object was reported as it is: the id of that fact depends on them.
    #[serde(default)]
    pub(super) said: Option<(u64, String)>,
}

/// An object that arrived: its form, and what is needed only once.
#[derive(Clone, Debug)]
pub(super) struct Arrived {
    pub(super) form: Form,
    /// The states that it has; the form has only those that were reported.
    pub(super) states: States,
    /// Who wrote what.
    pub(super) managed: Vec<ManagedFieldsEntry>,
}

impl Arrived {
    /// Reduces an object of this kind; `None` if it has no name or no UID.
    pub(super) fn read(kind: &Kind, object: DynamicObject, salt: &Salt) -> Option<Self> {
        let DynamicObject { mut metadata, data, .. } = object;
        let created_unix_ns = metadata.creation_timestamp.as_ref().and_then(unix_ns);
        let written = written_unix_ns(&metadata).or(created_unix_ns).unwrap_or_default();
        let mut form = Form {
            object: Object {
                object: Reference {
                    kind: kind.name.to_owned(),
                    namespace: metadata.namespace.clone(),
                    name: metadata.name.clone()?,
                    uid: Some(metadata.uid.clone()?),
                },
                created_unix_ns,
                owners: owners(&metadata),
                labels: pairs(serde_json::to_value(&metadata.labels).ok().as_ref()),
                revision: metadata
                    .annotations
                    .as_ref()
                    .and_then(|annotations| annotations.get(REVISION))
                    .cloned(),
                ..Object::default()
            },
            version: metadata.resource_version.clone().unwrap_or_default(),
            generation: metadata.generation.and_then(|generation| u64::try_from(generation).ok()),
            written_unix_ns: written,
            deleting_unix_ns: deletion(&metadata),
            flat: Flat::read(kind.compared, &metadata, &data, salt),
            states: Vec::new(),
            tool: Tool::of(&metadata),
            is_of_components: is_of_components(metadata.managed_fields.as_deref().unwrap_or_default()),
            disruption: super::read::condition(&data, "DisruptionTarget")
                .filter(|condition| text(condition, "/status") == Some("True"))
                .and_then(|condition| text(condition, "/reason"))
                .map(capped),
            said: None,
        };
        if kind.name != "ReplicaSet" {
            form.object.revision = None;
        }
        (kind.relate)(&data, &mut form.object);
        let mut states = States::default();
        let seen = Seen {
            data: &data,
            created_unix_ns: created_unix_ns.unwrap_or(written),
            written_unix_ns: written,
            deleting_unix_ns: form.deleting_unix_ns,
        };
        (kind.look)(&seen, &mut states);
        let managed = metadata.managed_fields.take().unwrap_or_default();
        Some(Self { form, states, managed })
    }
}

impl Form {
    /// The object.
    pub(super) const fn reference(&self) -> &Reference {
        &self.object.object
    }

    /// The object's UID.
    pub(super) fn uid(&self) -> &str {
        self.reference().uid.as_deref().unwrap_or_default()
    }

    /// The node of a pod, or the node itself.
    pub(super) fn node(&self) -> Option<&str> {
        let reference = self.reference();
        if reference.kind == "Node" { Some(&reference.name) } else { self.object.node.as_deref() }
    }

    /// Its place among all objects.
    pub(super) fn key(&self) -> String {
        key(self.reference())
    }

    /// Whether it belongs to an object that is watched, and follows from what is said of that.
    pub(super) fn is_owned(&self) -> bool {
        self.object.owners.iter().any(|owner| CONTROLLERS.contains(&owner.kind.as_str()))
    }
}

/// The place of an object among all: its kind, namespace and name.
pub(super) fn key(reference: &Reference) -> String {
    let namespace = reference.namespace.as_deref().unwrap_or_default();
    format!("{}/{namespace}/{}", reference.kind, reference.name)
}

/// When somebody asked for the deletion. The timestamp of the deletion is later, by the time that a pod is given to end.
fn deletion(metadata: &ObjectMeta) -> Option<u64> {
    let grace = metadata.deletion_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let grace = grace.unwrap_or_default().saturating_mul(SECOND_NS);
    metadata.deletion_timestamp.as_ref().and_then(unix_ns).map(|time| time.saturating_sub(grace))
}

/// Owners, the controller first.
fn owners(metadata: &ObjectMeta) -> Vec<Reference> {
    let mut owners: Vec<_> = metadata.owner_references.iter().flatten().collect();
    owners.sort_by_key(|owner| owner.controller != Some(true));
    let owner = owners.into_iter().map(|owner| Reference {
        kind: owner.kind.clone(),
        // Nodes own the mirrors of static pods, and have no namespace.
        namespace: metadata.namespace.clone().filter(|_| owner.kind != "Node"),
        name: owner.name.clone(),
        uid: Some(owner.uid.clone()),
    });
    owner.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::portti::kinds::kind;

    #[test]
    fn a_form_is_small_and_says_who_owns_it() {
        let object = json!({
            "metadata": {
                "name": "pay-1", "namespace": "shop", "uid": "u", "resourceVersion": "7",
                "creationTimestamp": "2026-11-20T01:46:40Z",
                "labels": { "pod-template-hash": "5d" },
                "ownerReferences": [
                    { "apiVersion": "v1", "kind": "Other", "name": "o", "uid": "o" },
                    { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "pay", "uid": "r", "controller": true },
                ],
                "managedFields": [{ "manager": "kubelet", "time": "2026-11-20T01:47:40Z" }],
            },
            "spec": { "nodeName": "node-a", "containers": [{ "name": "app", "image": "pay:1", "env": [
                { "name": "A", "value": "secret" },
            ] }] },
        });
        let arrived =
            Arrived::read(kind("Pod").unwrap(), serde_json::from_value(object).unwrap(), &Salt::of(b"s"))
                .unwrap();
        let form = arrived.form;
        assert_eq!((form.key().as_str(), form.object.owners[0].name.as_str()), ("Pod/shop/pay-1", "pay"));
        assert!(form.is_owned() && form.is_of_components);
        assert_eq!(form.object.revision.as_deref(), Some("5d"));
        assert_eq!(form.written_unix_ns - form.object.created_unix_ns.unwrap(), 60_000_000_000);
        assert_eq!(form.flat.fields, [("spec.containers.app.image".to_owned(), "pay:1".to_owned())]);
        let kept = serde_json::to_vec(&form).unwrap();
        assert!(kept.len() < 1_000, "{}", kept.len());
        assert_eq!(serde_json::from_slice::<Form>(&kept).unwrap(), form);
    }
}
