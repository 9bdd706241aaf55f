//! The fields in which two versions of an object differ.

use std::cmp::Ordering;

use tapio_occurrence::kubernetes::Field;

use super::{aspect, flat::Flat};

/// The most fields in one fact.
pub(super) const MAX_FIELDS: usize = 32;

/// Values that the server fills in. A field that comes or goes with such a value is nobody's change.
const DEFAULTS: &[(&str, &str)] = &[
    ("terminationMessagePath", "/dev/termination-log"),
    ("terminationMessagePolicy", "File"),
    ("protocol", "TCP"),
    ("imagePullPolicy", "IfNotPresent"),
    ("imagePullPolicy", "Always"),
    ("restartPolicy", "Always"),
    ("dnsPolicy", "ClusterFirst"),
    ("schedulerName", "default-scheduler"),
    ("terminationGracePeriodSeconds", "30"),
    ("revisionHistoryLimit", "10"),
    ("progressDeadlineSeconds", "600"),
    ("defaultMode", "420"),
    ("apiVersion", "v1"),
    ("failureThreshold", "3"),
    ("periodSeconds", "10"),
    ("successThreshold", "1"),
    ("timeoutSeconds", "1"),
    ("scheme", "HTTP"),
    ("sessionAffinity", "None"),
    ("internalTrafficPolicy", "Cluster"),
];

/// What differs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Diff {
    /// The fields, those that say most first.
    pub(super) fields: Vec<Field>,
    /// The number of further ones.
    pub(super) more: u64,
}

impl Diff {
    /// Compares two versions of an object of this kind.
    pub(super) fn of(kind: &str, from: &Flat, to: &Flat) -> Self {
        let mut fields = Vec::new();
        let (mut before, mut after) = (from.fields.iter().peekable(), to.fields.iter().peekable());
        loop {
            let order = match (before.peek(), after.peek()) {
                (Some((a, _)), Some((b, _))) => a.cmp(b),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            let old = if order.is_le() { before.next() } else { None };
            let new = if order.is_ge() { after.next() } else { None };
            let Some((path, _)) = old.or(new) else { break };
            let (old, new) = (old.map(|(_, value)| value), new.map(|(_, value)| value));
            let only = old.xor(new);
            let other = if old.is_none() { from } else { to };
            if old != new && !is_default(path, only) && !is_name(path, only) && !is_parent(path, only, other)
            {
                let aspect = aspect::of(kind, path);
                fields.push(Field { path: path.clone(), aspect, from: old.cloned(), to: new.cloned() });
            }
        }
        // Aspects are in the order of what they say; paths are in order already.
        fields.sort_by_key(|field| field.aspect);
        let beyond = u64::from(from.rest != to.rest);
        let more = fields.len().saturating_sub(MAX_FIELDS) as u64 + beyond;
        fields.truncate(MAX_FIELDS);
        Self { fields, more }
    }

    /// Whether nothing differs.
    pub(super) const fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.more == 0
    }
}

/// Whether a field that came or went has the server's own value.
fn is_default(path: &str, only: Option<&String>) -> bool {
    let name = path.rsplit('.').next().unwrap_or_default();
    only.is_some_and(|value| DEFAULTS.iter().any(|(field, default)| *field == name && default == value))
}

/// Whether a field that came or went is the name of an entry, which the paths of its other fields have.
fn is_name(path: &str, only: Option<&String>) -> bool {
    let Some(name) = only else { return false };
    let ends = |key: &str| path.strip_suffix(key).is_some_and(|entry| entry.ends_with(&format!(".{name}")));
    [".name", ".mountPath", ".containerPort", ".port", ".key"].iter().any(|key| ends(key))
}

/// Whether an object that came or went, without fields, has some in the other version: it is these that came or went.
fn is_parent(path: &str, only: Option<&String>, other: &Flat) -> bool {
    let mut others = other.fields.iter().map(|(of, _)| of.as_str());
    only.is_some_and(|value| value == "{}")
        && others.any(|of| of.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use tapio_occurrence::kubernetes::Aspect;

    use super::*;

    fn flat(fields: &[(&str, &str)]) -> Flat {
        let mut fields: Vec<_> = fields.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        fields.sort();
        Flat { fields, rest: String::new() }
    }

    #[test]
    fn what_says_most_comes_first() {
        let app = "spec.template.spec.containers.app";
        let (image, memory) = (format!("{app}.image"), format!("{app}.resources.limits.memory"));
        let from = flat(&[("metadata.labels.a", "1"), (&image, "pay:1"), ("spec.replicas", "2")]);
        let to =
            flat(&[("metadata.labels.a", "2"), (&image, "pay:2"), (&memory, "1Gi"), ("spec.replicas", "2")]);
        let diff = Diff::of("Deployment", &from, &to);
        let fields: Vec<_> =
            diff.fields.iter().map(|f| (f.aspect, f.from.as_deref(), f.to.as_deref())).collect();
        assert_eq!(
            fields,
            [
                (Aspect::Image, Some("pay:1"), Some("pay:2")),
                (Aspect::Memory, None, Some("1Gi")),
                (Aspect::Metadata, Some("1"), Some("2")),
            ]
        );
    }

    #[test]
    fn what_the_server_fills_in_is_no_change() {
        let side = "spec.template.spec.containers.side";
        let to = [
            (format!("{side}.image"), "side:1"),
            (format!("{side}.name"), "side"),
            (format!("{side}.imagePullPolicy"), "IfNotPresent"),
            (format!("{side}.terminationMessagePath"), "/dev/termination-log"),
        ];
        let to: Vec<_> = to.iter().map(|(path, value)| (path.as_str(), *value)).collect();
        let diff = Diff::of("Deployment", &Flat::default(), &flat(&to));
        assert_eq!(diff.fields.len(), 1, "{diff:?}");
        let changed = Diff::of("Pod", &flat(&[("a.protocol", "TCP")]), &flat(&[("a.protocol", "UDP")]));
        assert_eq!(changed.fields.len(), 1);
    }

    #[test]
    fn an_object_that_is_filled_or_emptied_is_neither_set_nor_removed() {
        let (empty, filled) = (flat(&[("spec", "{}")]), flat(&[("spec.unschedulable", "true")]));
        for (from, to) in [(&empty, &filled), (&filled, &empty)] {
            let diff = Diff::of("Node", from, to);
            let paths: Vec<_> = diff.fields.iter().map(|field| field.path.as_str()).collect();
            assert_eq!(paths, ["spec.unschedulable"]);
        }
        let other = flat(&[("specimen", "1")]);
        assert_eq!(Diff::of("Node", &empty, &other).fields.len(), 2, "it is gone");
    }

    #[test]
    fn the_number_of_fields_is_bounded() {
        let many: Vec<(String, String)> =
            (0..500).map(|n| (format!("data.k{n:03}"), "#1".to_owned())).collect();
        let to = Flat { fields: many, rest: "#2".to_owned() };
        let diff = Diff::of("ConfigMap", &Flat::default(), &to);
        assert_eq!((diff.fields.len(), diff.more), (MAX_FIELDS, 500 - MAX_FIELDS as u64 + 1));
    }

    fn any_flat() -> impl Strategy<Value = Flat> {
        proptest::collection::btree_map("data\\.[a-c]{1,2}", "[x-z]", 0..12)
            .prop_map(|fields| Flat { fields: fields.into_iter().collect(), rest: String::new() })
    }

    proptest! {
        #[test]
        fn a_version_does_not_differ_from_itself(flat in any_flat()) {
            prop_assert!(Diff::of("ConfigMap", &flat, &flat).is_empty());
        }

        #[test]
        fn applied_to_one_version_it_gives_the_other(from in any_flat(), to in any_flat()) {
            let diff = Diff::of("ConfigMap", &from, &to);
            let mut fields: BTreeMap<_, _> = from.fields.iter().cloned().collect();
            for field in diff.fields {
                prop_assert_eq!(fields.remove(&field.path), field.from.clone());
                prop_assert_ne!(&field.from, &field.to);
                if let Some(value) = field.to {
                    fields.insert(field.path, value);
                }
            }
            prop_assert_eq!(fields.into_iter().collect::<Vec<_>>(), to.fields);
        }
    }
}
