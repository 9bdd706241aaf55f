//! A pod, reduced to what identity needs.

use std::net::IpAddr;

use tapio_occurrence::Workload;

use k8s_openapi::{
    api::core::v1::{self, ContainerStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::owner;

/// The annotation of a mirror pod with the hash that its cgroups are named after instead of its UID.
const STATIC_HASH: &str = "kubernetes.io/config.hash";
const TEMPLATE_HASH: &str = "pod-template-hash";
/// The prefix of the labels that sinks name services by. No other labels are kept.
const KEPT_LABELS: &str = "app.kubernetes.io/";
const KEPT_ANNOTATIONS: &str = "resource.opentelemetry.io/";
/// Runtimes as the API names them; occurrences use the same names.
const RUNTIMES: &[&str] = &["containerd", "cri-o", "docker"];
/// The most labels and annotations kept of one pod.
const MAX_KEPT: usize = 16;
const MAX_VALUE_BYTES: usize = 256;
/// Times from the API are truncated to the second, so an event happened before the end of that second.
const SECOND_NS: u64 = 1_000_000_000;

/// A pod, reduced to what identity needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// UID.
    pub uid: String,
    /// The hash that a static pod's cgroups are named after instead of its UID.
    pub static_hash: Option<String>,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Kind and name of its owner.
    pub owner: Option<(String, String)>,
    /// The node that it is bound to.
    pub node: Option<String>,
    /// The pod is on the host network, so its addresses are the node's and do not identify it.
    pub host_network: bool,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// When the addresses were certainly its own, 1970 UTC; `None` if unknown.
    pub since_unix_ns: Option<u64>,
    /// Until when they certainly were: the pod has finished, or was deleted.
    pub until_unix_ns: Option<u64>,
    /// All containers have ended, or have been asked to because the pod is being deleted.
    pub is_over: bool,
    /// The latest time at which it can first have become ready, 1970 UTC; `None` if it never was.
    pub ready_unix_ns: Option<u64>,
    /// Containers that its status names: init, sidecar and ephemeral ones, and those before a restart.
    pub containers: Vec<Container>,
    /// Labels and annotations that sinks use.
    pub labels: Vec<(String, String)>,
    /// Its volumes.
    pub volumes: Volumes,
}

/// Names of a pod's volumes, each with that of its claim if it belongs to one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volumes(Vec<(String, Option<String>)>);

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its id, without the runtime's name.
    pub id: String,
    /// The runtime that runs it.
    pub runtime: Option<&'static str>,
    /// Its name in the pod.
    pub name: String,
    /// Its image, as the pod's spec names it.
    pub image: Option<String>,
}

impl Pod {
    /// Converts an API object. `None` without UID or name, which the API server never sends.
    #[must_use]
    pub fn read(pod: &v1::Pod) -> Option<Self> {
        let metadata = &pod.metadata;
        let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
        let label = |key: &str| metadata.labels.as_ref()?.get(key).map(String::as_str);
        let annotation = |key: &str| metadata.annotations.as_ref()?.get(key).cloned();
        let created_unix_s = metadata.creation_timestamp.as_ref().map(|time| unix_ns(time) / SECOND_NS);
        let controller = metadata.owner_references.iter().flatten().find(|r| r.controller == Some(true));
        let owner = controller
            .and_then(|r| owner::resolve(&r.kind, &r.name, label(TEMPLATE_HASH), created_unix_s))
            .map(|(kind, name)| (kind.to_owned(), name.to_owned()));
        let statuses: Vec<&ContainerStatus> = status
            .into_iter()
            .flat_map(|s| {
                [&s.init_container_statuses, &s.container_statuses, &s.ephemeral_container_statuses]
            })
            .flatten()
            .flatten()
            .collect();
        Some(Self {
            uid: metadata.uid.clone()?,
            static_hash: annotation(STATIC_HASH),
            namespace: metadata.namespace.clone()?,
            name: metadata.name.clone()?,
            owner,
            node: spec.and_then(|spec| spec.node_name.clone()),
            host_network: spec.and_then(|spec| spec.host_network).unwrap_or(false),
            addresses: addresses(status),
            since_unix_ns: since(status, &statuses),
            until_unix_ns: until(status, &statuses),
            is_over: metadata.deletion_timestamp.is_some() || is_over(status, &statuses),
            ready_unix_ns: ready(status),
            containers: containers(spec, &statuses),
            labels: kept(pod),
            volumes: spec.map(|spec| Volumes::of(pod, spec)).unwrap_or_default(),
        })
    }

    /// The workload for occurrences in the pod, or in one of its containers.
    #[must_use]
    pub fn workload(&self, container: Option<&Container>) -> Workload {
        let (owner_kind, owner) = self.owner.clone().unzip();
        Workload {
            namespace: Some(self.namespace.clone()),
            pod: Some(self.name.clone()),
            pod_uid: Some(self.uid.clone()),
            container: container.map(|container| container.name.clone()),
            container_id: container.map(|container| container.id.clone()),
            runtime: container.and_then(|container| container.runtime).map(Into::into),
            image: container.and_then(|container| container.image.clone()),
            owner_kind,
            owner,
            labels: self.labels.clone(),
            ..Workload::default()
        }
    }
}

impl Volumes {
    /// The claim of an ephemeral volume is named after pod and volume.
    fn of(pod: &v1::Pod, spec: &v1::PodSpec) -> Self {
        let claim = |volume: &v1::Volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(source), _) => Some(source.claim_name.clone()),
            (None, Some(_)) => pod.metadata.name.as_ref().map(|pod| format!("{pod}-{}", volume.name)),
            (None, None) => None,
        };
        Self(spec.volumes.iter().flatten().map(|volume| (volume.name.clone(), claim(volume))).collect())
    }

    /// The claim of the volume that is mounted by this name: that of its PersistentVolume, if it belongs to a claim. Only a
    /// pod with a single claim tells which that is.
    #[must_use]
    pub fn claim(&self, mounted: &str) -> Option<&str> {
        if self.0.iter().any(|(name, claim)| name == mounted && claim.is_none()) {
            return None;
        }
        let mut claims = self.0.iter().filter_map(|(_, claim)| claim.as_deref());
        claims.next().filter(|_| claims.next().is_none())
    }
}

fn addresses(status: Option<&v1::PodStatus>) -> Vec<IpAddr> {
    let Some(status) = status else { return Vec::new() };
    let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip).chain(&status.pod_ip);
    let mut addresses: Vec<IpAddr> = all.filter_map(|text| text.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// When the pod's network became ready; a network that is set up again has a new time. If the cluster does
/// not report that, and for finished pods, whose network is gone, this is the start of the first of its
/// present containers, which is later. Rounded up. `None` if the network is reported as not ready, because a
/// new one may have another address.
fn since(status: Option<&v1::PodStatus>, statuses: &[&ContainerStatus]) -> Option<u64> {
    let mut conditions = status?.conditions.iter().flatten();
    let condition = conditions.find(|condition| condition.type_ == "PodReadyToStartContainers");
    let is_ready = condition.is_some_and(|condition| condition.status == "True");
    if condition.is_some() && !is_ready && until(status, statuses).is_none() {
        return None;
    }
    let ready = condition.filter(|_| is_ready).and_then(|condition| condition.last_transition_time.as_ref());
    let began = || {
        let states = statuses.iter().filter_map(|status| status.state.as_ref());
        let times = states.filter_map(|state| {
            let running = state.running.as_ref().and_then(|running| running.started_at.as_ref());
            running.or_else(|| state.terminated.as_ref()?.started_at.as_ref())
        });
        times.map(unix_ns).min()
    };
    Some(ready.map(unix_ns).or_else(began)?.saturating_add(SECOND_NS))
}

/// When the pod became ready. For a pod that is no longer ready, the API reports only since when it is not, so
/// the start time is used. A pod that was never ready has been "not ready" since it started. Rounded up.
fn ready(status: Option<&v1::PodStatus>) -> Option<u64> {
    let status = status?;
    let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready")?;
    let changed = unix_ns(condition.last_transition_time.as_ref()?).saturating_add(SECOND_NS);
    if condition.status == "True" {
        return Some(changed);
    }
    let began = unix_ns(status.start_time.as_ref()?);
    (changed > began.saturating_add(2 * SECOND_NS)).then_some(began)
}

/// Finished pods still list the address that they had. It was theirs until the last container ended.
fn until(status: Option<&v1::PodStatus>, statuses: &[&ContainerStatus]) -> Option<u64> {
    let phase = status?.phase.as_deref()?;
    if phase != "Succeeded" && phase != "Failed" {
        return None;
    }
    let ended = statuses
        .iter()
        .filter_map(|status| status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref())
        .map(unix_ns)
        .max();
    Some(ended.unwrap_or(0))
}

/// Whether everything in the pod has ended. A container not yet reported as started may be running.
fn is_over(status: Option<&v1::PodStatus>, statuses: &[&ContainerStatus]) -> bool {
    let has_ended =
        |status: &&ContainerStatus| status.state.as_ref().is_some_and(|state| state.terminated.is_some());
    until(status, statuses).is_some() || (!statuses.is_empty() && statuses.iter().all(has_ended))
}

fn containers(spec: Option<&v1::PodSpec>, statuses: &[&ContainerStatus]) -> Vec<Container> {
    let image = |name: &str| {
        let spec = spec?;
        let plain = spec.init_containers.iter().flatten().chain(&spec.containers);
        let mut images = plain.map(|c| (&c.name, &c.image));
        let ephemeral = || spec.ephemeral_containers.iter().flatten().map(|c| (&c.name, &c.image));
        let named = images.find(|(n, _)| *n == name).or_else(|| ephemeral().find(|(n, _)| *n == name));
        named.and_then(|(_, image)| image.clone())
    };
    let mut containers: Vec<Container> = Vec::new();
    for status in statuses {
        let terminated = [&status.state, &status.last_state]
            .map(|state| state.as_ref().and_then(|state| state.terminated.as_ref()?.container_id.as_deref()));
        for id in [status.container_id.as_deref()].into_iter().chain(terminated).flatten() {
            // RUNTIME://ID
            let (runtime, id) = id.rsplit_once("://").unwrap_or(("", id));
            let runtime = RUNTIMES.iter().copied().find(|known| *known == runtime);
            if !id.is_empty() && !containers.iter().any(|container| container.id == id) {
                let (id, name) = (id.to_owned(), status.name.clone());
                let asked = image(&name).or_else(|| Some(status.image.clone()).filter(|i| !i.is_empty()));
                containers.push(Container { id, runtime, name, image: asked });
            }
        }
    }
    containers
}

fn kept(pod: &v1::Pod) -> Vec<(String, String)> {
    let of = |map: Option<&std::collections::BTreeMap<String, String>>, prefix: &str| {
        let entries = map.into_iter().flatten().filter(|(key, value)| {
            key.starts_with(prefix) && !value.is_empty() && value.len() <= MAX_VALUE_BYTES
        });
        entries.map(|(key, value)| (key.clone(), value.clone())).collect::<Vec<_>>()
    };
    let annotations = of(pod.metadata.annotations.as_ref(), KEPT_ANNOTATIONS);
    let labels = of(pod.metadata.labels.as_ref(), KEPT_LABELS);
    annotations.into_iter().chain(labels).take(MAX_KEPT).collect()
}

/// Nanoseconds since 1970; 0 for an earlier time.
pub(in crate::enrich) fn unix_ns(time: &Time) -> u64 {
    u64::try_from(time.0.as_nanosecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: serde_json::Value) -> Pod {
        Pod::read(&serde_json::from_value(value).unwrap()).unwrap()
    }

    fn metadata() -> serde_json::Value {
        json!({ "uid": "u", "namespace": "shop", "name": "p" })
    }

    #[test]
    fn containers_of_every_sort() {
        let status = |name: &str, id: &str| json!({ "name": name, "image": "resolved", "imageID": "", "ready": true, "restartCount": 0, "containerID": id });
        let mut restarted = status("app", "containerd://aa");
        restarted["lastState"] =
            json!({ "terminated": { "exitCode": 1, "containerID": "containerd://before" } });
        let pod = read(json!({
            "metadata": metadata(),
            "spec": {
                "initContainers": [{ "name": "init", "image": "asked/init" }],
                "containers": [{ "name": "app", "image": "asked/app" }],
                "ephemeralContainers": [{ "name": "debug", "image": "asked/debug" }],
            },
            "status": {
                "initContainerStatuses": [status("init", "cri-o://bb")],
                "containerStatuses": [restarted, status("not-yet", "")],
                "ephemeralContainerStatuses": [status("debug", "docker://cc")],
            },
        }));
        let containers: Vec<_> = pod
            .containers
            .iter()
            .map(|c| (c.id.as_str(), c.runtime, c.name.as_str(), c.image.as_deref()))
            .collect();
        assert_eq!(
            containers,
            [
                ("bb", Some("cri-o"), "init", Some("asked/init")),
                ("aa", Some("containerd"), "app", Some("asked/app")),
                ("before", Some("containerd"), "app", Some("asked/app")),
                ("cc", Some("docker"), "debug", Some("asked/debug")),
            ]
        );
    }

    #[test]
    fn the_claim_of_a_volume_is_certain_or_absent() {
        let claim = |name: &str, claim: &str| json!({ "name": name, "persistentVolumeClaim": { "claimName": claim } });
        let of = |volumes: &[serde_json::Value]| {
            read(json!({ "metadata": metadata(), "spec": { "containers": [], "volumes": volumes } })).volumes
        };
        let cache = json!({ "name": "cache", "emptyDir": { "medium": "Memory" } });
        let pod = of(&[cache.clone(), claim("data", "data-db-0")]);
        assert_eq!((pod.claim("pvc-7"), pod.claim("cache")), (Some("data-db-0"), None));
        let ephemeral = json!({ "name": "tmp", "ephemeral": { "volumeClaimTemplate": { "spec": {} } } });
        assert_eq!(of(&[ephemeral]).claim("pvc-8"), Some("p-tmp"));
        let two = of(&[claim("data", "a"), claim("wal", "b")]);
        assert_eq!((two.claim("pvc-7"), of(&[cache]).claim("pvc-7")), (None, None));
    }

    #[test]
    fn since_when_and_until() {
        let running = |at: &str| {
            json!({
                "name": "app", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": { "running": { "startedAt": at } },
            })
        };
        let at = |second: u64| Some((1_795_139_200 + second) * SECOND_NS);
        // 2026-11-20T01:46:40Z is second 1_795_139_200.
        let started = "2026-11-20T01:46:40Z";
        let pod = |status: serde_json::Value| read(json!({ "metadata": metadata(), "status": status }));
        let begun = pod(json!({ "phase": "Running", "containerStatuses": [running(started)] }));
        assert_eq!((begun.since_unix_ns, begun.until_unix_ns), (at(1), None));
        // The network was ready before the first container, and that time counts.
        let ready = pod(json!({
            "phase": "Running", "containerStatuses": [running("2026-11-20T01:46:50Z")],
            "conditions": [{ "type": "PodReadyToStartContainers", "status": "True", "lastTransitionTime": started }],
        }));
        assert_eq!(ready.since_unix_ns, at(1));
        // The pod lost its network, and may get another address.
        for (phase, status, since) in [
            ("Running", "False", None),
            ("Pending", "Unknown", None),
            ("Failed", "False", at(1)),
            ("Succeeded", "False", at(1)),
        ] {
            let lost = pod(json!({
                "phase": phase, "containerStatuses": [running(started)],
                "conditions": [{
                    "type": "PodReadyToStartContainers", "status": status, "lastTransitionTime": started,
                }],
            }));
            assert_eq!(lost.since_unix_ns, since, "{phase} {status}");
        }
        let pending = pod(json!({ "phase": "Pending", "startTime": started }));
        assert_eq!(pending.since_unix_ns, None);
        let mut ended = running(started);
        ended["state"] = json!({ "terminated": {
            "exitCode": 0, "startedAt": started, "finishedAt": "2026-11-20T01:46:45Z",
        } });
        let ended = pod(json!({ "phase": "Succeeded", "containerStatuses": [ended] }));
        assert_eq!((ended.since_unix_ns, ended.until_unix_ns), (at(1), at(5)));
        let evicted = pod(json!({ "phase": "Failed" }));
        assert_eq!((evicted.since_unix_ns, evicted.until_unix_ns), (None, Some(0)));
    }

    #[test]
    fn a_pod_is_over_when_all_that_it_runs_has_ended_or_it_is_deleted() {
        let status = |state: serde_json::Value| json!({ "name": "app", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state });
        let ended = || status(json!({ "terminated": { "exitCode": 0 } }));
        let runs = || status(json!({ "running": { "startedAt": "2026-11-20T01:46:40Z" } }));
        let waits = || status(json!({ "waiting": { "reason": "ContainerCreating" } }));
        for (phase, statuses, expected) in [
            ("Running", vec![ended(), ended()], true),
            ("Running", vec![ended(), runs()], false),
            ("Pending", vec![ended(), waits()], false),
            ("Pending", vec![], false),
            ("Succeeded", vec![ended()], true),
            ("Failed", vec![], true),
        ] {
            let status = json!({ "phase": phase, "containerStatuses": statuses });
            let pod = read(json!({ "metadata": metadata(), "status": status }));
            assert_eq!(pod.is_over, expected, "{phase} {statuses:?}");
        }
        let mut deleted = metadata();
        deleted["deletionTimestamp"] = json!("2026-11-20T01:46:40Z");
        assert!(read(json!({ "metadata": deleted, "status": { "phase": "Running" } })).is_over);
    }

    #[test]
    fn a_pod_that_was_ready_once_is_distinguished_from_one_that_never_was() {
        let at = |second: u32| format!("2026-11-20T01:46:{second:02}Z");
        let of = |status: &str, changed: u32| {
            let ready = json!({ "type": "Ready", "status": status, "lastTransitionTime": at(changed) });
            let status = json!({ "startTime": at(10), "conditions": [ready] });
            read(json!({ "metadata": metadata(), "status": status })).ready_unix_ns
        };
        let began = of("True", 9).unwrap();
        assert_eq!(of("True", 20), Some(began + 11 * SECOND_NS), "the end of that second");
        assert_eq!(of("False", 10), None);
        assert_eq!(of("False", 40), Some(began), "and no longer");
        assert_eq!(read(json!({ "metadata": metadata() })).ready_unix_ns, None);
    }

    #[test]
    fn of_labels_and_annotations_only_what_sinks_need() {
        let pod = read(json!({ "metadata": {
            "uid": "u", "namespace": "shop", "name": "p",
            "labels": { "app.kubernetes.io/name": "checkout", "team": "x", "app.kubernetes.io/part-of": "" },
            "annotations": {
                "resource.opentelemetry.io/service.name": "pay", "kubectl.kubernetes.io/x": "{}",
                "resource.opentelemetry.io/long": "a".repeat(MAX_VALUE_BYTES + 1),
            },
        } }));
        let pairs: Vec<_> = pod.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(
            pairs,
            [("resource.opentelemetry.io/service.name", "pay"), ("app.kubernetes.io/name", "checkout")]
        );
    }
}
