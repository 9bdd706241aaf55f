//! How objects relate to others: selectors, addresses, ports, and what they use. One function a kind; the table of kinds
//! names it.

mod template;

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::Value;
use tapio_occurrence::kubernetes::{Address, Endpoint, Object, Pair, Port, Reference};

use super::read::{capped, list, number, text};

/// The most entries of one list in a fact.
const MAX_ENTRIES: usize = 128;
/// The most members of an EndpointSlice: the API allows no more.
const MAX_ENDPOINTS: usize = 1_000;
/// The label with the name of an EndpointSlice's service.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Reads the relations of an object; `object` has its reference, its owners and its labels already.
pub(super) type Relate = fn(&Value, &mut Object);

/// An object of which nothing but its existence matters.
pub(super) fn nothing(_: &Value, object: &mut Object) {
    object.labels.clear();
}

/// A pod.
pub(super) fn pod(data: &Value, object: &mut Object) {
    template::spec(data.pointer("/spec"), object);
    object.node = text(data, "/spec/nodeName").map(ToOwned::to_owned);
    let host_network = data.pointer("/spec/hostNetwork") == Some(&Value::Bool(true));
    object.host_network = host_network.then(|| "true".to_owned());
    object.addresses = addresses(list(data, "/status/podIPs").filter_map(|ip| text(ip, "/ip")));
    let label = |key: &str| object.labels.iter().find(|pair| pair.key == key).map(|pair| pair.value.clone());
    object.revision = label("pod-template-hash").or_else(|| label("controller-revision-hash"));
}

/// A workload with `spec.template`.
pub(super) fn workload(data: &Value, object: &mut Object) {
    template::template(data.pointer("/spec/template"), object);
    object.selector = pairs(data.pointer("/spec/selector/matchLabels"));
    object.replicas = number(data, "/spec/replicas");
}

/// A CronJob.
pub(super) fn cron_job(data: &Value, object: &mut Object) {
    template::template(data.pointer("/spec/jobTemplate/spec/template"), object);
}

/// A DaemonSet.
pub(super) fn daemon_set(data: &Value, object: &mut Object) {
    workload(data, object);
    object.replicas = number(data, "/status/desiredNumberScheduled");
}

/// A node. Its labels decide which pods it takes.
pub(super) fn node(data: &Value, object: &mut Object) {
    let ips = list(data, "/status/addresses").filter(|address| {
        text(address, "/type").is_some_and(|kind| kind == "InternalIP" || kind == "ExternalIP")
    });
    object.addresses = addresses(ips.filter_map(|address| text(address, "/address")));
}

/// A service.
pub(super) fn service(data: &Value, object: &mut Object) {
    object.labels.clear();
    object.selector = pairs(data.pointer("/spec/selector"));
    let own = list(data, "/spec/clusterIPs").chain(list(data, "/spec/externalIPs")).filter_map(Value::as_str);
    let outside = list(data, "/status/loadBalancer/ingress").filter_map(|entry| text(entry, "/ip"));
    object.addresses = addresses(own.chain(outside));
    object.ports = ports(list(data, "/spec/ports"), "/port");
}

/// An EndpointSlice.
pub(super) fn endpoint_slice(data: &Value, object: &mut Object) {
    let service = object.labels.iter().find(|pair| pair.key == SERVICE_NAME).map(|pair| pair.value.clone());
    object.labels.clear();
    object.uses = service.map(|name| beside(object, "Service", &name)).into_iter().collect();
    object.ports = ports(list(data, "/ports"), "/port");
    let members = list(data, "/endpoints").flat_map(|endpoint| {
        // Absent means that it is ready.
        let ready = endpoint.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true);
        let pod = (text(endpoint, "/targetRef/kind") == Some("Pod")).then_some(endpoint);
        let of_pod = move |path| pod.and_then(|pod| text(pod, path)).map(ToOwned::to_owned);
        list(endpoint, "/addresses").filter_map(Value::as_str).filter_map(|address| address.parse().ok()).map(
            move |address| Endpoint {
                address,
                pod: of_pod("/targetRef/name"),
                pod_uid: of_pod("/targetRef/uid"),
                ready: ready.to_string(),
            },
        )
    });
    object.endpoints = members.take(MAX_ENDPOINTS).collect();
    object.endpoints.sort_by_key(|endpoint| endpoint.address);
}

/// An Ingress.
pub(super) fn ingress(data: &Value, object: &mut Object) {
    object.labels.clear();
    let paths = list(data, "/spec/rules").flat_map(|rule| list(rule, "/http/paths"));
    let behind = paths.filter_map(|path| text(path, "/backend/service/name"));
    let default = text(data, "/spec/defaultBackend/service/name");
    let services = behind.chain(default).map(|name| beside(object, "Service", name));
    let secrets = list(data, "/spec/tls").filter_map(|tls| text(tls, "/secretName"));
    let uses = distinct(services.chain(secrets.map(|name| beside(object, "Secret", name))));
    object.uses = uses;
}

/// An HTTPRoute.
pub(super) fn http_route(data: &Value, object: &mut Object) {
    object.labels.clear();
    let behind = list(data, "/spec/rules").flat_map(|rule| list(rule, "/backendRefs"));
    let services = behind.filter(|to| text(to, "/kind").is_none_or(|kind| kind == "Service"));
    let services = services.filter_map(|to| {
        let namespace =
            text(to, "/namespace").map(ToOwned::to_owned).or_else(|| object.object.namespace.clone());
        Some(Reference { namespace, ..beside(object, "Service", text(to, "/name")?) })
    });
    let uses = distinct(services);
    object.uses = uses;
}

/// An autoscaler.
pub(super) fn autoscaler(data: &Value, object: &mut Object) {
    object.labels.clear();
    let target = text(data, "/spec/scaleTargetRef/kind").zip(text(data, "/spec/scaleTargetRef/name"));
    object.uses = target.map(|(kind, name)| beside(object, kind, name)).into_iter().collect();
}

/// A claim.
pub(super) fn claim(data: &Value, object: &mut Object) {
    object.labels.clear();
    let volume = text(data, "/spec/volumeName").map(|name| Reference {
        kind: "PersistentVolume".to_owned(),
        name: name.to_owned(),
        ..Reference::default()
    });
    object.uses = volume.into_iter().collect();
}

/// A NetworkPolicy.
pub(super) fn network_policy(data: &Value, object: &mut Object) {
    object.labels.clear();
    object.selector = pairs(data.pointer("/spec/podSelector/matchLabels"));
}

/// A PodDisruptionBudget.
pub(super) fn disruption_budget(data: &Value, object: &mut Object) {
    object.labels.clear();
    object.selector = pairs(data.pointer("/spec/selector/matchLabels"));
}

/// A webhook configuration.
pub(super) fn webhooks(data: &Value, object: &mut Object) {
    object.labels.clear();
    let services = list(data, "/webhooks").filter_map(|webhook| {
        let service = webhook.pointer("/clientConfig/service")?;
        Some(Reference {
            kind: "Service".to_owned(),
            namespace: text(service, "/namespace").map(ToOwned::to_owned),
            name: text(service, "/name")?.to_owned(),
            uid: None,
        })
    });
    object.uses = distinct(services);
}

/// Labels, or the selector, at most [`MAX_ENTRIES`].
pub(super) fn pairs(map: Option<&Value>) -> Vec<Pair> {
    let entries = map.and_then(Value::as_object).into_iter().flatten();
    let pair =
        |(key, value): (&String, &Value)| Some(Pair { key: capped(key), value: capped(value.as_str()?) });
    let mut pairs: Vec<_> = entries.filter_map(pair).take(MAX_ENTRIES).collect();
    pairs.sort_unstable();
    pairs
}

/// A reference to an object of the same namespace.
fn beside(object: &Object, kind: &str, name: &str) -> Reference {
    Reference {
        kind: kind.to_owned(),
        namespace: object.object.namespace.clone(),
        name: capped(name),
        uid: None,
    }
}

fn distinct(references: impl Iterator<Item = Reference>) -> Vec<Reference> {
    references.collect::<BTreeSet<_>>().into_iter().take(MAX_ENTRIES).collect()
}

fn addresses<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<Address> {
    // A headless service has `None` instead of an address.
    let addresses = texts.filter_map(|text| text.parse::<IpAddr>().ok());
    addresses.take(MAX_ENTRIES).map(|address| Address { address }).collect()
}

fn ports<'a>(entries: impl Iterator<Item = &'a Value>, number_at: &str) -> Vec<Port> {
    let port = |entry: &Value| {
        let target = entry
            .get("targetPort")
            .map(|target| target.as_str().map_or_else(|| target.to_string(), ToOwned::to_owned));
        Some(Port {
            name: text(entry, "/name").map(ToOwned::to_owned),
            port: u16::try_from(number(entry, number_at)?).ok()?,
            target,
            protocol: text(entry, "/protocol").filter(|name| *name != "TCP").map(ToOwned::to_owned),
        })
    };
    entries.filter_map(port).take(MAX_ENTRIES).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(relate: Relate, data: Value) -> Object {
        let mut object = Object::default();
        object.object.namespace = Some("shop".to_owned());
        object.labels = pairs(Some(&json!({ SERVICE_NAME: "pay" })));
        relate(&data, &mut object);
        object
    }

    #[test]
    fn an_endpoint_slice_and_its_members() {
        let object = of(
            endpoint_slice,
            json!({
                "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
                "endpoints": [
                    { "addresses": ["10.0.0.2"], "conditions": { "ready": false },
                      "targetRef": { "kind": "Pod", "name": "b", "uid": "ub" } },
                    { "addresses": ["10.0.0.1"] },
                ],
            }),
        );
        let members: Vec<_> = object
            .endpoints
            .iter()
            .map(|e| (e.address.to_string(), e.pod.as_deref(), e.ready.as_str()))
            .collect();
        let expected = [("10.0.0.1".to_owned(), None, "true"), ("10.0.0.2".to_owned(), Some("b"), "false")];
        assert_eq!(members, expected);
        assert_eq!(object.uses[0].name, "pay");
        assert_eq!((object.ports[0].port, object.ports[0].protocol.as_deref()), (8080, None));
    }

    #[test]
    fn where_requests_go() {
        let rule =
            |name: &str| json!({ "http": { "paths": [{ "backend": { "service": { "name": name } } }] } });
        let object = of(ingress, json!({ "spec": { "rules": [rule("pay"), rule("cart"), rule("pay")] } }));
        let names: Vec<_> = object.uses.iter().map(|used| used.name.as_str()).collect();
        assert_eq!(names, ["cart", "pay"]);
        let route =
            json!({ "spec": { "rules": [{ "backendRefs": [{ "name": "pay", "namespace": "other" }] }] } });
        assert_eq!(of(http_route, route).uses[0].namespace.as_deref(), Some("other"));
        let service = of(
            service,
            json!({ "spec": {
            "clusterIPs": ["None"], "selector": { "app": "pay" },
            "ports": [{ "port": 80, "targetPort": "http" }, { "port": 53, "targetPort": 5353, "protocol": "UDP" }],
        } }),
        );
        assert!(service.addresses.is_empty());
        let targets: Vec<_> = service.ports.iter().map(|port| port.target.as_deref()).collect();
        assert_eq!(targets, [Some("http"), Some("5353")]);
    }
}
