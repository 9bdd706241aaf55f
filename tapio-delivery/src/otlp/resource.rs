//! The Resource of occurrences: the affected workload, never the agent.

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, ArrayValue, any_value},
    resource::v1::Resource,
};
use tapio_occurrence::{Occurrence, Workload};

use super::{
    Settings,
    attributes::{Attributes, text},
};

/// The prefix of pod annotations that become attributes
/// (<https://opentelemetry.io/docs/specs/semconv/non-normative/k8s-attributes/>).
const ANNOTATION: &str = "resource.opentelemetry.io/";
/// Namespaces that pod annotations may not set. The agent fills them with what it knows and leaves them out
/// otherwise, because whoever deploys a pod writes its annotations.
const OF_THE_AGENT: [&str; 7] = ["container", "host", "k8s", "process", "systemd", "tapio", "telemetry"];
/// Service attributes that annotations may set, by OpenTelemetry's rule
/// (<https://opentelemetry.io/docs/specs/semconv/non-normative/k8s-attributes/#service-attributes>).
const SERVICE: [&str; 4] = ["service.instance.id", "service.name", "service.namespace", "service.version"];
/// Attributes with this prefix, in the variables for the agent's own telemetry, describe the agent and not
/// the workload.
const OF_A_SERVICE: &str = "service.";

/// Attributes that all Resources share.
#[derive(Clone, Debug)]
pub(super) struct ResourceContext {
    /// Whether the node's name is that of a Kubernetes Node.
    pub(super) in_kubernetes: bool,
    attributes: Vec<(String, String)>,
    service_name: Option<String>,
}

impl ResourceContext {
    pub(super) fn new(settings: &Settings, in_kubernetes: bool) -> Self {
        let attributes = settings.resource_attributes.iter();
        Self {
            in_kubernetes,
            attributes: attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            service_name: settings.service_name.get().map(ToOwned::to_owned),
        }
    }

    /// The Resource of an occurrence. Occurrences of the same workload share it.
    pub(super) fn resource(&self, occurrence: &Occurrence) -> Resource {
        let mut found = Attributes::default();
        let node = Some(&*occurrence.node);
        found.text("k8s.cluster.name", occurrence.cluster.as_deref());
        found.text("k8s.node.name", node.filter(|_| self.in_kubernetes));
        found.text("host.name", node);
        let of_agent = |key: &str| key.starts_with(OF_A_SERVICE);
        match occurrence.workload.as_deref() {
            Some(workload) => describe(workload, &mut found),
            None => {
                found.text("service.name", self.service_name.as_deref());
                for (key, value) in self.attributes.iter().filter(|(key, _)| of_agent(key)) {
                    found.text(key, Some(value));
                }
            }
        }
        for (key, value) in self.attributes.iter().filter(|(key, _)| !of_agent(key)) {
            found.text(key, Some(value));
        }
        Resource { attributes: found.0, ..Resource::default() }
    }
}

/// Adds the known attributes first, then those of the pod's annotations, then those derived from both.
fn describe(workload: &Workload, found: &mut Attributes) {
    let (image, tag) = workload.image.as_deref().map(parse_image).unzip();
    found.text("k8s.namespace.name", workload.namespace.as_deref());
    found.text("k8s.pod.name", workload.pod.as_deref());
    found.text("k8s.pod.uid", workload.pod_uid.as_deref());
    found.text("k8s.container.name", workload.container.as_deref());
    found.text("container.id", workload.container_id.as_deref());
    found.text("container.runtime.name", workload.runtime.as_deref());
    found.text("container.image.name", image);
    if let Some(tag) = tag.flatten() {
        let values = vec![text(tag)];
        let tags = any_value::Value::ArrayValue(ArrayValue { values });
        found.put("container.image.tags", AnyValue { value: Some(tags) });
    }
    let owner = workload.owner.as_deref();
    match workload.owner_kind.as_deref() {
        Some(kind @ ("Deployment" | "StatefulSet" | "DaemonSet" | "Job" | "CronJob" | "ReplicaSet")) => {
            found.text(format!("k8s.{}.name", kind.to_ascii_lowercase()), owner);
        }
        kind => {
            found.text("tapio.owner.kind", kind);
            found.text("tapio.owner.name", owner);
        }
    }
    found.text("systemd.unit.name", workload.unit.as_deref());

    for (key, value) in &workload.labels {
        if let Some(key) = key.strip_prefix(ANNOTATION).filter(|key| may_annotate(key)) {
            found.text(key, Some(value));
        }
    }
    let unit = workload.unit.as_deref().map(|unit| unit.strip_suffix(".service").unwrap_or(unit));
    let name = owner.or(workload.pod.as_deref()).or(workload.container.as_deref()).or(unit);
    found.text("service.name", name);
    found.text("service.namespace", workload.namespace.as_deref());
    found.text("service.version", tag.flatten());
    if let (Some(namespace), Some(pod), Some(container)) =
        (&workload.namespace, &workload.pod, &workload.container)
    {
        found.text("service.instance.id", Some(&format!("{namespace}.{pod}.{container}")));
    }
}

/// Whether a pod's annotation may set this attribute.
fn may_annotate(key: &str) -> bool {
    let namespace = key.split_once('.').map_or(key, |(namespace, _)| namespace);
    match namespace {
        "" => false,
        "service" => SERVICE.contains(&key),
        namespace => !OF_THE_AGENT.contains(&namespace),
    }
}

/// The name and the tag of `registry:5000/name:tag@sha256:...`.
fn parse_image(image: &str) -> (&str, Option<&str>) {
    let image = image.split_once('@').map_or(image, |(named, _)| named);
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (image, None),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use tapio_occurrence::samples::occurrence as sample;
    use tapio_service::setting::Node as _;

    fn of(
        workload: Option<Workload>,
        settings: &[(&str, &str)],
        in_kubernetes: bool,
    ) -> BTreeMap<String, String> {
        let mut all = Settings::default();
        for (key, text) in settings {
            all.assign(key, text).unwrap();
        }
        let occurrence = Occurrence { workload: workload.map(Arc::new), ..sample() };
        let resource = ResourceContext::new(&all, in_kubernetes).resource(&occurrence);
        let count = resource.attributes.len();
        let found: BTreeMap<_, _> = resource
            .attributes
            .into_iter()
            .map(|pair| match pair.value.unwrap().value.unwrap() {
                any_value::Value::StringValue(text) => (pair.key, text),
                other => (pair.key, format!("{other:?}")),
            })
            .collect();
        assert_eq!(found.len(), count, "a key twice");
        found
    }

    fn workload(names: &[(&str, &str)]) -> Workload {
        let mut workload = Workload::default();
        for (key, text) in names {
            let value = Some((*text).to_owned());
            match *key {
                "namespace" => workload.namespace = value,
                "pod" => workload.pod = value,
                "container" => workload.container = value,
                "kind" => workload.owner_kind = value,
                "owner" => workload.owner = value,
                "unit" => workload.unit = value,
                "container_id" => workload.container_id = value,
                key => workload.labels.push((key.to_owned(), (*text).to_owned())),
            }
        }
        workload
    }

    #[test]
    fn the_name_of_a_service_by_the_rule() {
        let pod = [("namespace", "shop"), ("pod", "checkout-x"), ("container", "app")];
        let owned = [&pod[..], &[("kind", "Deployment"), ("owner", "checkout")]].concat();
        let annotated = [&owned[..], &[("resource.opentelemetry.io/service.name", "named")]].concat();
        let labelled = [&owned[..], &[("app.kubernetes.io/name", "label")]].concat();
        for (names, expected) in [
            (&annotated[..], Some("named")),
            (&labelled, Some("checkout")),
            (&owned, Some("checkout")),
            (&pod, Some("checkout-x")),
            (&[("container", "app")], Some("app")),
            (&[("unit", "nginx.service")], Some("nginx")),
            (&[("container_id", "8f14e45f")], None),
        ] {
            let found = of(Some(workload(names)), &[("service_name", "agent")], true);
            assert_eq!(found.get("service.name").map(String::as_str), expected, "{names:?}");
        }
        let found = of(Some(workload(&owned)), &[], true);
        assert_eq!(found["service.namespace"], "shop");
        assert_eq!(found["service.instance.id"], "shop.checkout-x.app");
        assert_eq!(found["k8s.deployment.name"], "checkout");
    }

    #[test]
    fn an_annotation_is_an_attribute_but_does_not_change_what_is_known() {
        let found = of(
            Some(workload(&[
                ("namespace", "shop"),
                ("pod", "checkout-x"),
                ("resource.opentelemetry.io/deployment.environment.name", "prod"),
                ("resource.opentelemetry.io/service.namespace", "store"),
                ("resource.opentelemetry.io/k8s.pod.name", "another"),
            ])),
            &[(
                "resource_attributes",
                "deployment.environment.name=test,team=a,service.version=7,host.name=b",
            )],
            true,
        );
        assert_eq!(found["deployment.environment.name"], "prod");
        assert_eq!(found["service.namespace"], "store");
        assert_eq!(found["k8s.pod.name"], "checkout-x");
        assert_eq!(found["team"], "a");
        assert_eq!(found["host.name"], sample().node.to_string());
        assert!(!found.contains_key("service.version"), "that is the agent's: {found:?}");
    }

    #[test]
    fn an_annotation_does_not_say_what_is_not_known() {
        let annotated = |keys: &[&str]| {
            let names: Vec<_> =
                keys.iter().map(|key| (format!("resource.opentelemetry.io/{key}"), "faked")).collect();
            let names: Vec<_> = names.iter().map(|(key, value)| (key.as_str(), *value)).collect();
            of(Some(workload(&names)), &[], true)
        };
        let bare = annotated(&[]);
        let others = [
            "k8s.namespace.name",
            "k8s.pod.uid",
            "k8s.cluster.name",
            "k8s.deployment.name",
            "k8s",
            "host.id",
            "host.ip",
            "container.id",
            "container.image.name",
            "process.pid",
            "systemd.unit.name",
            "tapio.owner.name",
            "telemetry.sdk.name",
            "service.peer.name",
            "service.criticality",
            "service",
            "",
        ];
        assert_eq!(annotated(&others), bare);
        for key in [
            "service.name",
            "service.namespace",
            "service.version",
            "service.instance.id",
            "team",
            "hostile.x",
        ] {
            assert_eq!(annotated(&[key]).get(key).map(String::as_str), Some("faked"), "{key}");
        }
    }

    #[test]
    fn without_a_workload() {
        let variables = [("resource_attributes", "service.name=weak,service.version=7,team=a")];
        let found = of(None, &variables, false);
        assert_eq!((found["service.name"].as_str(), found["service.version"].as_str()), ("weak", "7"));
        assert!(!found.contains_key("k8s.node.name"), "{found:?}");
        let found = of(None, &[variables[0], ("service_name", "tapio")], true);
        assert_eq!((found["service.name"].as_str(), &found["k8s.node.name"]), ("tapio", &found["host.name"]));
        assert!(!of(None, &[], true).contains_key("service.name"));
    }

    #[test]
    fn an_owner_of_another_kind_is_kept() {
        let found = of(Some(workload(&[("kind", "Rollout"), ("owner", "web")])), &[], true);
        assert_eq!(
            (found["tapio.owner.kind"].as_str(), found["tapio.owner.name"].as_str()),
            ("Rollout", "web")
        );
        assert!(!found.keys().any(|key| key.starts_with("k8s.rollout")), "{found:?}");
    }

    #[test]
    fn images() {
        for (image, expected) in [
            ("redis", ("redis", None)),
            ("redis:7.2", ("redis", Some("7.2"))),
            ("registry:5000/shop/app", ("registry:5000/shop/app", None)),
            ("registry:5000/shop/app:1@sha256:ab", ("registry:5000/shop/app", Some("1"))),
            ("app@sha256:ab", ("app", None)),
        ] {
            assert_eq!(parse_image(image), expected, "{image}");
        }
    }
}
