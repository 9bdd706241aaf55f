//! What `kubectl describe` says about an object, as the set has it, in the fields of the API.

use std::collections::BTreeMap;

use serde_json::Value;
use tapio_occurrence::kubernetes::{Aspect, Field};

/// Fields with their values, as PORTTI compares them.
pub(crate) type Spec = BTreeMap<String, String>;

/// The text of a field; empty where it is absent.
pub(crate) fn text<'a>(of: &'a Value, key: &str) -> &'a str {
    of.get(key).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn list<'a>(of: &'a Value, key: &str) -> &'a [Value] {
    of.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub(crate) fn texts<'a>(of: &'a Value, key: &str) -> Vec<&'a str> {
    list(of, key).iter().filter_map(Value::as_str).collect()
}

/// What an object should be, of the fields that the set compares: as in its `usual` file.
pub(crate) fn flat(of: &Value) -> Spec {
    let mut spec = Spec::new();
    let join = |key: &str| texts(of, key).join("|");
    match text(of, "kind") {
        "Deployment" | "StatefulSet" => {
            flatten(of.get("template").unwrap_or(&Value::Null), "template", &mut spec);
            spec.insert("selector".to_owned(), text(of, "selector").to_owned());
            let replicas = text(of, "replicas").split_whitespace().next().unwrap_or_default();
            spec.insert("replicas".to_owned(), replicas.to_owned());
        }
        "Service" => {
            spec.insert("selector".to_owned(), join("selector"));
            spec.insert("type".to_owned(), text(of, "type").to_owned());
            let ports = texts(of, "ports")
                .into_iter()
                .filter(|port| !port.starts_with("Endpoints") && !port.starts_with("NodePort"));
            spec.insert("ports".to_owned(), ports.collect::<Vec<_>>().join("|"));
        }
        "ConfigMap" => {
            spec.insert("sha".to_owned(), text(of, "sha").to_owned());
        }
        "Node" => {
            spec.insert("unschedulable".to_owned(), text(of, "unschedulable").to_owned());
            let mut taints = texts(of, "taints");
            taints.sort_unstable();
            spec.insert("taints".to_owned(), taints.join("|"));
        }
        "PersistentVolume" | "PersistentVolumeClaim" => {
            for key in ["capacity", "access_modes", "storageclass"] {
                spec.insert(key.to_owned(), text(of, key).to_owned());
            }
        }
        _ => {}
    }
    spec
}

fn flatten(of: &Value, path: &str, to: &mut Spec) {
    match of {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| flatten(value, &format!("{path}.{key}"), to));
        }
        Value::Array(entries) if entries.first().is_some_and(Value::is_object) => {
            for entry in entries {
                flatten(entry, &format!("{path}.{}", text(entry, "name")), to);
            }
        }
        Value::Array(entries) => {
            let texts: Vec<&str> = entries.iter().filter_map(Value::as_str).collect();
            to.insert(path.to_owned(), texts.join("|"));
        }
        Value::String(text) => {
            to.insert(path.to_owned(), text.clone());
        }
        _ => {}
    }
}

/// How the fields of two specs differ, as PORTTI says it. What Kubernetes itself writes is no change.
pub(crate) fn differences(kind: &str, before: &Spec, after: &Spec) -> Vec<Field> {
    let (before, after) = (api(kind, before), api(kind, after));
    let paths: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let differs = |path: &&String| before.get(*path) != after.get(*path);
    let field = |path: &String| Field {
        path: path.clone(),
        aspect: aspect(kind, path),
        from: before.get(path).cloned(),
        to: after.get(path).cloned(),
    };
    paths.into_iter().filter(differs).map(field).collect()
}

/// A spec in the paths of the API.
fn api(kind: &str, spec: &Spec) -> Spec {
    let mut fields = Spec::new();
    for (path, value) in spec {
        match (kind, path.as_str()) {
            ("Service", "ports") => ports(value, &mut fields),
            ("Service" | "Deployment" | "StatefulSet", "selector") => {
                for (key, value) in value.split(['|', ',']).filter_map(|pair| pair.split_once('=')) {
                    fields.insert(format!("spec.selector.{key}"), value.to_owned());
                }
            }
            ("Node", "taints") => {
                // Those of its own a node's controller writes.
                for taint in value
                    .split('|')
                    .filter(|taint| !taint.is_empty() && !taint.starts_with("node.kubernetes.io/"))
                {
                    fields.insert(format!("spec.taints.{taint}"), taint.to_owned());
                }
            }
            ("Node", "unschedulable") => {
                if value == "true" {
                    fields.insert("spec.unschedulable".to_owned(), value.clone());
                }
            }
            // Of a claim that is not bound the tool says nothing.
            ("PersistentVolumeClaim" | "PersistentVolume", _) if value.is_empty() => {}
            ("PersistentVolumeClaim", "capacity" | "access_modes") => {}
            ("PersistentVolume", "capacity") => {
                fields.insert("spec.capacity.storage".to_owned(), value.clone());
            }
            (_, "access_modes") => {
                fields.insert("spec.accessModes".to_owned(), value.clone());
            }
            (_, "storageclass") => {
                fields.insert("spec.storageClassName".to_owned(), value.clone());
            }
            ("ConfigMap", "sha") => {
                fields.insert("data".to_owned(), value.clone());
            }
            (_, path) => template(path, value, &mut fields),
        }
    }
    fields
}

/// `Port=grpc  9555/TCP|TargetPort=9555/TCP`
fn ports(value: &str, fields: &mut Spec) {
    let mut name = String::new();
    for part in value.split('|') {
        if let Some(port) = part.strip_prefix("Port=") {
            let mut words = port.split_whitespace();
            name = words.next().unwrap_or_default().to_owned();
            let (port, protocol) = words.next().and_then(|port| port.split_once('/')).unwrap_or_default();
            fields.insert(format!("spec.ports.{name}.port"), port.to_owned());
            fields.insert(format!("spec.ports.{name}.protocol"), protocol.to_owned());
        } else if let Some(target) = part.strip_prefix("TargetPort=") {
            let target = target.split('/').next().unwrap_or_default();
            fields.insert(format!("spec.ports.{name}.targetPort"), target.to_owned());
        }
    }
}

fn template(path: &str, value: &str, fields: &mut Spec) {
    let Some(path) = path.strip_prefix("template.") else {
        if path == "replicas" {
            fields.insert("spec.replicas".to_owned(), value.to_owned());
        }
        return;
    };
    let (parent, last) = path.rsplit_once('.').unwrap_or(("", path));
    let at = |name: &str| format!("spec.template.spec.{parent}.{name}");
    match last {
        "liveness" | "readiness" | "startup" => probe(&at(&format!("{last}Probe")), value, fields),
        "mounts" => {
            fields.insert(at("volumeMounts"), value.to_owned());
        }
        "cpu" | "memory" => {
            let (container, which) = parent.rsplit_once('.').unwrap_or(("", parent));
            fields
                .insert(format!("spec.template.spec.{container}.resources.{which}.{last}"), value.to_owned());
        }
        "sa" => {
            fields.insert("spec.template.spec.serviceAccountName".to_owned(), value.to_owned());
        }
        "nodeSelectors" => {
            for (key, value) in value.split('|').filter_map(|pair| pair.split_once('=')) {
                fields.insert(format!("spec.template.spec.nodeSelector.{key}"), value.to_owned());
            }
        }
        "labels" => {
            fields.insert("spec.template.metadata.labels".to_owned(), value.to_owned());
        }
        _ if parent.ends_with(".env") => {
            fields.insert(format!("spec.template.spec.{path}"), hash(value));
        }
        _ => {
            fields.insert(format!("spec.template.spec.{path}"), value.to_owned());
        }
    }
}

/// Values of environment variables are not sent, only whether they are the same.
fn hash(value: &str) -> String {
    let mut hasher = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(value, &mut hasher);
    format!("h:{:016x}", std::hash::Hasher::finish(&hasher))
}

/// `http-get http://:8080/_healthz delay=5s timeout=1s period=10s #success=1 #failure=3`
fn probe(at: &str, value: &str, fields: &mut Spec) {
    let mut put = |name: &str, value: &str| fields.insert(format!("{at}.{name}"), value.to_owned());
    let mut words = value.split_whitespace();
    let how = words.next().unwrap_or_default();
    let target = words.next().unwrap_or_default();
    let port = target.rsplit_once(':').map_or(target, |(_, port)| port);
    let (port, path) = port.split_once('/').unwrap_or((port, ""));
    let handler = match how {
        "http-get" => "httpGet",
        "tcp-socket" => "tcpSocket",
        other => other,
    };
    put(&format!("{handler}.port"), port);
    if handler == "httpGet" {
        put("httpGet.path", &format!("/{path}"));
    }
    for word in words {
        let Some((key, value)) = word.split_once('=') else { continue };
        let name = match key {
            "delay" => "initialDelaySeconds",
            "timeout" => "timeoutSeconds",
            "period" => "periodSeconds",
            "#failure" => "failureThreshold",
            "#success" => "successThreshold",
            _ => continue,
        };
        put(name, value.trim_end_matches('s'));
    }
}

/// As PORTTI's table has it.
fn aspect(kind: &str, path: &str) -> Aspect {
    let has = |part: &str| path.contains(part);
    match kind {
        "Service" if path.starts_with("spec.selector") => Aspect::Selector,
        "Service" => Aspect::Ports,
        "Node" => Aspect::Node,
        "ConfigMap" => Aspect::Data,
        "PersistentVolume" if path.starts_with("spec.capacity") => Aspect::Amount,
        "PersistentVolume" | "PersistentVolumeClaim" => Aspect::Volume,
        _ if path == "spec.replicas" => Aspect::Replicas,
        _ if path.starts_with("spec.selector") => Aspect::Selector,
        _ if has("Probe.") => Aspect::Probe,
        _ if path.ends_with(".image") => Aspect::Image,
        _ if path.ends_with(".memory") => Aspect::Memory,
        _ if path.ends_with(".cpu") => Aspect::Cpu,
        _ if has(".env.") => Aspect::Environment,
        _ if has(".command") || has(".args") => Aspect::Command,
        _ if has(".volumes.") || has(".volumeMounts") => Aspect::Volume,
        _ if has(".nodeSelector") => Aspect::Placement,
        _ if has(".serviceAccountName") => Aspect::Security,
        _ => Aspect::Template,
    }
}
