//! Pods and pod templates: what they use, and their containers.

use serde_json::Value;
use tapio_occurrence::kubernetes::{Container, Object, Port, Reference};

use super::{MAX_ENTRIES, beside, distinct, pairs};
use crate::portti::read::{capped, list, number, text, thousandths};

/// Where a source of a volume or of variables has the name of what it uses.
const USED: &[(&str, &str)] = &[
    ("/configMap/name", "ConfigMap"),
    ("/secret/secretName", "Secret"),
    ("/secret/name", "Secret"),
    ("/persistentVolumeClaim/claimName", "PersistentVolumeClaim"),
    ("/configMapRef/name", "ConfigMap"),
    ("/secretRef/name", "Secret"),
    ("/valueFrom/configMapKeyRef/name", "ConfigMap"),
    ("/valueFrom/secretKeyRef/name", "Secret"),
];

/// A pod template, with its labels.
pub(super) fn template(template: Option<&Value>, object: &mut Object) {
    object.labels = pairs(template.and_then(|template| template.pointer("/metadata/labels")));
    spec(template.and_then(|template| template.pointer("/spec")), object);
}

/// The spec of a pod.
pub(super) fn spec(spec: Option<&Value>, object: &mut Object) {
    let Some(spec) = spec else { return };
    let containers = || ["/initContainers", "/containers"].into_iter().flat_map(|path| list(spec, path));
    let plain = list(spec, "/volumes");
    let projected = list(spec, "/volumes").flat_map(|volume| list(volume, "/projected/sources"));
    let variables =
        containers().flat_map(|container| list(container, "/env").chain(list(container, "/envFrom")));
    let sources = plain.chain(projected).chain(variables);
    let used =
        sources.flat_map(|source| USED.iter().filter_map(|(path, kind)| Some((*kind, text(source, path)?))));
    let account = text(spec, "/serviceAccountName").map(|name| ("ServiceAccount", name));
    let pull = list(spec, "/imagePullSecrets").filter_map(|secret| Some(("Secret", text(secret, "/name")?)));
    let uses: Vec<Reference> =
        distinct(used.chain(account).chain(pull).map(|(kind, name)| beside(object, kind, name)));
    object.uses = uses;
    object.containers = containers().filter_map(container).take(MAX_ENTRIES).collect();
    object.ports = containers()
        .flat_map(|container| list(container, "/ports"))
        .filter_map(port)
        .take(MAX_ENTRIES)
        .collect();
}

fn container(container: &Value) -> Option<Container> {
    let amount = |path: &str| {
        let amount = container.pointer(path)?;
        thousandths(amount.as_str().map_or_else(|| amount.to_string(), ToOwned::to_owned).as_str())
    };
    let bytes = |path: &str| amount(path).map(|thousandths| thousandths.div_ceil(1_000));
    Some(Container {
        name: text(container, "/name")?.to_owned(),
        image: capped(text(container, "/image").unwrap_or_default()),
        memory_limit_bytes: bytes("/resources/limits/memory"),
        memory_request_bytes: bytes("/resources/requests/memory"),
        cpu_limit_millicores: amount("/resources/limits/cpu"),
        cpu_request_millicores: amount("/resources/requests/cpu"),
    })
}

fn port(port: &Value) -> Option<Port> {
    Some(Port {
        name: text(port, "/name").map(ToOwned::to_owned),
        port: u16::try_from(number(port, "/containerPort")?).ok()?,
        target: None,
        protocol: text(port, "/protocol").filter(|name| *name != "TCP").map(ToOwned::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_that_a_pod_uses() {
        let mut object = Object::default();
        let pod = json!({ "metadata": { "labels": { "app": "pay" } }, "spec": {
            "serviceAccountName": "pay",
            "imagePullSecrets": [{ "name": "registry" }],
            "volumes": [
                { "name": "a", "configMap": { "name": "settings" } },
                { "name": "b", "persistentVolumeClaim": { "claimName": "data" } },
                { "name": "c", "projected": { "sources": [{ "secret": { "name": "tls" } }] } },
            ],
            "initContainers": [{ "name": "init", "image": "init:1", "envFrom": [{ "configMapRef": { "name": "more" } }] }],
            "containers": [{
                "name": "app", "image": "pay:1", "ports": [{ "containerPort": 8080 }],
                "resources": { "limits": { "memory": "512Mi", "cpu": "1.5" }, "requests": { "cpu": 1 } },
                "env": [{ "name": "P", "valueFrom": { "secretKeyRef": { "name": "password", "key": "p" } } }],
            }],
        } });
        template(Some(&pod), &mut object);
        let uses: Vec<_> = object.uses.iter().map(|used| format!("{}/{}", used.kind, used.name)).collect();
        assert_eq!(
            uses,
            [
                "ConfigMap/more",
                "ConfigMap/settings",
                "PersistentVolumeClaim/data",
                "Secret/password",
                "Secret/registry",
                "Secret/tls",
                "ServiceAccount/pay",
            ]
        );
        let app = &object.containers[1];
        assert_eq!((app.memory_limit_bytes, app.cpu_limit_millicores), (Some(512 << 20), Some(1500)));
        assert_eq!(app.cpu_request_millicores, Some(1000));
        assert_eq!((object.ports[0].port, object.labels[0].key.as_str()), (8080, "app"));
    }
}
