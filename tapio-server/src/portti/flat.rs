//! What an object should be, as paths and values: the form in which two versions of it are compared.

use std::{borrow::Cow, collections::BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    read::{MAX_TEXT_BYTES, capped},
    salt::Salt,
};

/// The most fields of an object that are compared one by one.
pub(super) const MAX_FIELDS: usize = 512;
/// The longest path, in bytes. Deeper fields are compared as one value.
const MAX_PATH_BYTES: usize = 384;
/// What identifies an entry of a list, the first that all entries have and no two share.
const NAMES: &[&str] = &["name", "mountPath", "containerPort", "port", "key", "host", "path", "ip", "type"];
/// Annotations of components, which change without anybody's doing.
const ANNOTATIONS_IGNORED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    "deployment.kubernetes.io/",
    "deprecated.daemonset.template.generation",
    "control-plane.alpha.kubernetes.io/",
    "autoscaling.alpha.kubernetes.io/",
    "endpoints.kubernetes.io/",
    "pv.kubernetes.io/",
    "volume.kubernetes.io/",
    "volume.beta.kubernetes.io/",
];

/// Annotations of ConfigMaps in which a component keeps its status.
const STATUS_IN_DISGUISE: &[&str] = &["cluster-autoscaler.kubernetes.io/last-updated"];

/// Paths and values, by path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Flat {
    /// Paths with values. Long values are cut, with a hash; secret ones are hashes.
    pub(super) fields: Vec<(String, String)>,
    /// The hash of the fields beyond [`MAX_FIELDS`]; empty if there are none.
    pub(super) rest: String,
}

/// Which fields are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    /// None.
    Nothing,
    /// All but the status.
    All,
    /// Those that can change in a pod: images and resources of its containers.
    Pod,
    /// The spec and the labels: components write a node's annotations.
    Node,
}

impl Flat {
    /// Reads an object without its status.
    pub(super) fn read(compared: Compared, metadata: &ObjectMeta, data: &Value, salt: &Salt) -> Self {
        let mut reader = Reader { salt, compared, fields: Vec::new(), rest: String::new() };
        let is_annotated =
            |key: &&str| metadata.annotations.as_ref().is_some_and(|keys| keys.contains_key(*key));
        if compared == Compared::Nothing || STATUS_IN_DISGUISE.iter().any(is_annotated) {
            return Self::default();
        }
        for (key, value) in data.as_object().into_iter().flatten() {
            if key != "status" && key != "apiVersion" && key != "kind" {
                reader.take(key, value);
            }
        }
        if compared != Compared::Pod {
            for (key, value) in metadata.labels.iter().flatten() {
                reader.add(&format!("metadata.labels.{key}"), value);
            }
        }
        if compared == Compared::All {
            for (key, value) in metadata.annotations.iter().flatten() {
                if !ANNOTATIONS_IGNORED.iter().any(|ignored| key.starts_with(ignored)) {
                    reader.add(&format!("metadata.annotations.{key}"), value);
                }
            }
        }
        let Reader { mut fields, rest, .. } = reader;
        fields.sort_unstable();
        let rest = if rest.is_empty() { rest } else { salt.hash(&rest) };
        Self { fields, rest }
    }
}

struct Reader<'a> {
    salt: &'a Salt,
    compared: Compared,
    fields: Vec<(String, String)>,
    /// The fields beyond the most, hashed one onto the other.
    rest: String,
}

impl Reader<'_> {
    fn take(&mut self, path: &str, value: &Value) {
        if path.len() > MAX_PATH_BYTES {
            return self.add(&capped(path), &value.to_string());
        }
        match value {
            Value::Null => {}
            Value::String(text) => self.add(path, text),
            Value::Bool(_) | Value::Number(_) => self.add(path, &value.to_string()),
            Value::Object(entries) => {
                // `emptyDir: {}` says something, too.
                if entries.is_empty() && !is_default_if_empty(path) {
                    self.add(path, "{}");
                }
                entries.iter().for_each(|(key, value)| self.take(&format!("{path}.{key}"), value));
            }
            Value::Array(entries) if entries.iter().all(|entry| !entry.is_object() && !entry.is_array()) => {
                if !entries.is_empty() {
                    self.add(path, &value.to_string());
                }
            }
            Value::Array(entries) => {
                let named = NAMES.iter().find_map(|name| names(entries, name));
                for (nth, entry) in entries.iter().enumerate() {
                    let name = named.as_ref().and_then(|names| names.get(nth).cloned());
                    self.take(&format!("{path}.{}", name.unwrap_or_else(|| nth.to_string().into())), entry);
                }
            }
        }
    }

    fn add(&mut self, path: &str, value: &str) {
        if self.compared == Compared::Pod && !can_change_in_pod(path) {
            return;
        }
        let shown = if is_secret(path) {
            self.salt.hash(value)
        } else if value.len() > MAX_TEXT_BYTES {
            format!("{} {}", capped(value), self.salt.hash(value))
        } else {
            value.to_owned()
        };
        if self.fields.len() < MAX_FIELDS {
            self.fields.push((path.to_owned(), shown));
        } else {
            self.rest = self.salt.hash(&format!("{}\n{path}\n{shown}", self.rest));
        }
    }
}

/// The names of all entries, if each has one and no two have the same.
fn names<'a>(entries: &'a [Value], key: &str) -> Option<Vec<Cow<'a, str>>> {
    let name = |entry: &'a Value| match entry.get(key)? {
        Value::String(name) => Some(Cow::Borrowed(name.as_str())),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        _ => None,
    };
    let names = entries.iter().map(name).collect::<Option<Vec<_>>>()?;
    let distinct: BTreeSet<_> = names.iter().collect();
    (distinct.len() == names.len()).then_some(names)
}

/// Values that are shown only as hashes: entries of ConfigMaps and Secrets, environment variables, certificates.
fn is_secret(path: &str) -> bool {
    let is_data = ["data.", "binaryData.", "stringData."].iter().any(|root| path.starts_with(root));
    is_data || path.ends_with(".caBundle") || (path.contains(".env.") && path.ends_with(".value"))
}

fn can_change_in_pod(path: &str) -> bool {
    let is_container = path.starts_with("spec.") && path.contains("ontainers.");
    is_container && (path.ends_with(".image") || path.contains(".resources."))
}

/// Objects that the server adds empty.
fn is_default_if_empty(path: &str) -> bool {
    [".resources", ".securityContext", ".strategy"].iter().any(|end| path.ends_with(end))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn flat(data: Value) -> Vec<(String, String)> {
        Flat::read(Compared::All, &ObjectMeta::default(), &data, &Salt::of(b"salt")).fields
    }

    fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn entries_of_lists_are_named() {
        let fields = flat(json!({ "spec": { "template": { "spec": { "containers": [
            { "name": "app", "image": "pay:1", "args": ["-v", "1"], "resources": {},
              "ports": [{ "containerPort": 80, "protocol": "TCP" }],
              "volumeMounts": [{ "name": "a", "mountPath": "/a" }, { "name": "a", "mountPath": "/b" }] },
        ], "volumes": [{ "name": "a", "emptyDir": {} }] } } }, "status": { "replicas": 1 } }));
        let root = "spec.template.spec.containers.app";
        assert_eq!(
            fields,
            pairs(&[
                (&format!("{root}.args"), r#"["-v","1"]"#),
                (&format!("{root}.image"), "pay:1"),
                (&format!("{root}.name"), "app"),
                (&format!("{root}.ports.80.containerPort"), "80"),
                (&format!("{root}.ports.80.protocol"), "TCP"),
                (&format!("{root}.volumeMounts./a.mountPath"), "/a"),
                (&format!("{root}.volumeMounts./a.name"), "a"),
                (&format!("{root}.volumeMounts./b.mountPath"), "/b"),
                (&format!("{root}.volumeMounts./b.name"), "a"),
                ("spec.template.spec.volumes.a.emptyDir", "{}"),
                ("spec.template.spec.volumes.a.name", "a"),
            ])
        );
    }

    #[test]
    fn secret_values_are_hashes() {
        let fields = flat(json!({
            "data": { "password": "hunter2" },
            "spec": { "containers": [{ "name": "app", "env": [{ "name": "TOKEN", "value": "hunter2" }] }] },
            "webhooks": [{ "name": "w", "clientConfig": { "caBundle": "hunter2" } }],
        }));
        assert_eq!(fields.iter().filter(|(_, value)| value.starts_with('#')).count(), 3, "{fields:?}");
        assert!(!format!("{fields:?}").contains("hunter2"));
    }

    #[test]
    fn the_status_of_a_component_is_not_compared() {
        let metadata = serde_json::from_value(json!({ "annotations": {
            "cluster-autoscaler.kubernetes.io/last-updated": "now",
        } }));
        let flat = Flat::read(
            Compared::All,
            &metadata.unwrap(),
            &json!({ "data": { "status": "x" } }),
            &Salt::of(b"s"),
        );
        assert_eq!(flat, Flat::default());
    }

    #[test]
    fn hostile_sizes_are_bounded_and_still_compared() {
        let many = |last: &str| {
            let mut data: serde_json::Map<_, _> =
                (0..5_000).map(|nth| (format!("k{nth:05}"), json!("x".repeat(1_000)))).collect();
            data.insert("k04999".to_owned(), json!(last));
            Flat::read(Compared::All, &ObjectMeta::default(), &json!({ "data": data }), &Salt::of(b"s"))
        };
        let (a, b) = (many("a"), many("b"));
        assert_eq!(a.fields.len(), MAX_FIELDS);
        assert_ne!(a.rest, b.rest);
        assert!(a.fields.iter().all(|(path, value)| path.len() + value.len() < 1_000));
        let mut deep = json!("bottom");
        (0..100).for_each(|_| deep = json!({ "a-long-name-of-a-field": deep }));
        let fields = flat(json!({ "spec": deep }));
        assert_eq!(fields.len(), 1);
        let long = flat(json!({ "spec": { "a": "x".repeat(1_000_000) } }));
        let other = flat(json!({ "spec": { "a": "x".repeat(999_999) + "y" } }));
        assert!(long[0].1.len() < 400 && long != other, "{long:?}");
    }
}
