//! States come from the objects' status, with its times, and end.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod},
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tapio_occurrence::{
    Outcome, Severity,
    kubernetes::{Change, Condition, Deleted, Verb, Warning},
};

use crate::support::{Cluster, Portti, cluster_or_skip};

async fn pod_status(cluster: &Cluster, name: &str, status: Value) {
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), "shop");
    let patch = Patch::Merge(json!({ "status": status }));
    pods.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
}

fn pod(name: &str, labels: Value) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop", "labels": labels },
        "spec": {
            "nodeName": "node-a", "automountServiceAccountToken": false,
            "containers": [{ "name": "app", "image": "pay:1" }],
        },
    })
    .to_string()
}

fn at(second: u32) -> String {
    format!("2026-11-20T01:46:{second:02}Z")
}

fn ready(status: &str, second: u32) -> Value {
    json!([{ "type": "Ready", "status": status, "reason": "ContainersNotReady", "lastTransitionTime": at(second),
             "message": "containers with unready status: [app]" }])
}

fn container(state: Value, last: Value) -> Value {
    json!([{ "name": "app", "image": "pay:1", "imageID": "", "ready": false, "restartCount": 3,
             "state": state, "lastState": last }])
}

#[tokio::test(flavor = "multi_thread")]
async fn pods() {
    let cluster = cluster_or_skip!("pods");
    let portti = Portti::synced(&cluster).await;
    let told = &portti.told;

    // A bad image.
    cluster.apply("image.yaml", &pod("image", json!({})), &[]);
    let waiting =
        |reason: &str| json!({ "waiting": { "reason": reason, "message": "Back-off pulling pay:1" } });
    let status =
        |statuses: Value| json!({ "phase": "Pending", "startTime": at(0), "containerStatuses": statuses });
    pod_status(&cluster, "image", status(container(waiting("ErrImagePull"), json!({})))).await;
    let (occurrence, condition) = told.state("image", "Waiting", "true").await;
    assert_eq!(
        (condition.reason.as_deref(), condition.container.as_deref()),
        (Some("ErrImagePull"), Some("app"))
    );
    assert_eq!((occurrence.severity, occurrence.outcome), (Severity::Error, Outcome::Failure));
    let workload = occurrence.workload.unwrap();
    assert_eq!((workload.pod.as_deref(), workload.container.as_deref()), (Some("image"), Some("app")));
    assert_eq!((workload.image.as_deref(), &*occurrence.node), (Some("pay:1"), "node-a"));
    // The kubelet alternates between the two; that is one state.
    pod_status(&cluster, "image", status(container(waiting("ImagePullBackOff"), json!({})))).await;
    pod_status(
        &cluster,
        "image",
        status(container(json!({ "running": { "startedAt": at(50) } }), json!({}))),
    )
    .await;
    let (occurrence, _) = told.state("image", "Waiting", "false").await;
    assert_eq!(tapio_occurrence::timestamp(occurrence.time_unix_ns).to_string().get(..4), Some("2026"));
    assert_eq!(occurrence.message, "Pod shop/image: app no longer Waiting");

    // Out of memory, and then waiting.
    cluster.apply("oom.yaml", &pod("oom", json!({})), &[]);
    let ended = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled", "finishedAt": at(40), "startedAt": at(5) } });
    pod_status(&cluster, "oom", status(container(waiting("CrashLoopBackOff"), ended))).await;
    let (occurrence, condition) = told.state("oom", "Terminated", "true").await;
    assert_eq!((condition.exit_code, condition.restarts), (Some(137), Some(3)));
    assert_eq!(tapio_occurrence::timestamp(occurrence.time_unix_ns).to_string(), at(40));
    told.state("oom", "Waiting", "true").await;

    // A probe fails after the pod was ready, and succeeds again.
    cluster.apply("probe.yaml", &pod("probe", json!({})), &[]);
    let running =
        |conditions: Value| json!({ "phase": "Running", "startTime": at(0), "conditions": conditions });
    pod_status(&cluster, "probe", running(ready("True", 10))).await;
    pod_status(&cluster, "probe", running(ready("False", 20))).await;
    let (occurrence, condition) = told.state("probe", "NotReady", "true").await;
    assert_eq!(tapio_occurrence::timestamp(occurrence.time_unix_ns).to_string(), at(20));
    assert_eq!(condition.text.as_deref(), Some("containers with unready status: [app]"));
    pod_status(&cluster, "probe", running(ready("True", 30))).await;
    let (occurrence, _) = told.state("probe", "NotReady", "false").await;
    assert_eq!(tapio_occurrence::timestamp(occurrence.time_unix_ns).to_string(), at(30));

    // Evicted by a kubelet.
    cluster.apply("evicted.yaml", &pod("evicted", json!({})), &[]);
    let evicted =
        json!({ "phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory." });
    pod_status(&cluster, "evicted", evicted).await;
    let (occurrence, _) = told.state("evicted", "Evicted", "true").await;
    assert_eq!(occurrence.message, "Pod shop/evicted: Evicted (The node was low on resource: memory.)");

    // Drained: evicted through the API.
    cluster.kubectl(&["create", "--raw", "/api/v1/namespaces/shop/pods/probe/eviction", "-f", &{
        let file = cluster.file("eviction.json");
        let eviction = json!({ "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": { "name": "probe", "namespace": "shop" }, "deleteOptions": { "gracePeriodSeconds": 0 } });
        std::fs::write(&file, eviction.to_string()).unwrap();
        file.display().to_string()
    }]);
    told.until(|deleted: &Deleted| deleted.object.name == "probe").await;
    told.change("Pod", "probe", |change: &Change| change.verb == Verb::Deleted).await;

    let states = told.of::<Condition>();
    assert_eq!(states.iter().filter(|(_, c)| c.object.name == "image").count(), 2, "{:#?}", told.messages());
    told.assert_distinct();
    portti.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_workloads_and_services() {
    let cluster = cluster_or_skip!("nodes_workloads_and_services");
    cluster.node("node-a", "192.168.0.1").await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "pay", "namespace": "shop" },
        "spec": { "ports": [{ "port": 80 }], "selector": { "app": "pay" } },
    });
    cluster.apply("service.yaml", &service.to_string(), &[]);
    let portti = Portti::synced(&cluster).await;
    let told = &portti.told;

    let nodes = Api::<Node>::all(cluster.client.clone());
    let condition = |kind: &str, status: &str, second: u32| {
        json!({ "type": kind, "status": status, "reason": "KubeletHas", "lastTransitionTime": at(second),
                "lastHeartbeatTime": at(second) })
    };
    for (conditions, status) in [
        (json!([condition("MemoryPressure", "True", 5), condition("Ready", "False", 6)]), "true"),
        (json!([condition("MemoryPressure", "False", 15), condition("Ready", "True", 16)]), "false"),
    ] {
        let patch = Patch::Merge(json!({ "status": { "conditions": conditions } }));
        nodes.patch_status("node-a", &PatchParams::default(), &patch).await.unwrap();
        let (occurrence, _) = told.state("node-a", "MemoryPressure", status).await;
        assert_eq!(&*occurrence.node, "node-a");
        told.state("node-a", "NodeNotReady", status).await;
    }

    // A quota: the controller cannot create pods.
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "pay", "namespace": "shop" },
        "spec": { "selector": { "matchLabels": { "app": "pay" } }, "template": {
            "metadata": { "labels": { "app": "pay" } },
            "spec": { "containers": [{ "name": "app", "image": "pay:1" }] },
        } },
    });
    cluster.apply("deployment.yaml", &deployment.to_string(), &[]);
    let deployments = Api::<Deployment>::namespaced(cluster.client.clone(), "shop");
    let conditions = json!([
        { "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "lastTransitionTime": at(1),
          "message": "pods \"pay-1\" is forbidden: exceeded quota: q" },
        { "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "lastTransitionTime": at(2) },
    ]);
    let patch = Patch::Merge(json!({ "status": { "conditions": conditions } }));
    deployments.patch_status("pay", &PatchParams::default(), &patch).await.unwrap();
    let (occurrence, condition) = told.state("pay", "ReplicaFailure", "true").await;
    assert_eq!(condition.reason.as_deref(), Some("FailedCreate"));
    assert!(occurrence.message.contains("exceeded quota"), "{}", occurrence.message);
    told.state("pay", "ProgressDeadlineExceeded", "true").await;

    // Endpoints: ready, then not, then ready. A new service has a minute.
    let slice = |ready: bool| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "name": "pay-1", "namespace": "shop", "labels": { "kubernetes.io/service-name": "pay" } },
            "ports": [{ "port": 80 }],
            "endpoints": [{ "addresses": ["10.0.0.1"], "conditions": { "ready": ready } }],
        })
        .to_string()
    };
    cluster.apply("slice.yaml", &slice(false), &[]);
    let (occurrence, condition) = told.state("pay", "NoEndpoints", "true").await;
    assert_eq!(condition.object.kind, "Service");
    assert_eq!(occurrence.message, "Service shop/pay: NoEndpoints (the only endpoint is not ready)");
    cluster.apply("slice.yaml", &slice(true), &[]);
    told.state("pay", "NoEndpoints", "false").await;

    // Events: the first at once, more of the same later.
    for nth in 1..=3 {
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": { "name": format!("e{nth}"), "namespace": "shop" },
            "type": "Warning", "reason": "FailedMount", "message": format!("no such volume {nth}"), "count": 2,
            "involvedObject": { "kind": "Pod", "namespace": "shop", "name": "x", "uid": "ux" },
            "source": { "component": "kubelet" }, "firstTimestamp": at(1), "lastTimestamp": at(nth),
        });
        cluster.apply("event.yaml", &event.to_string(), &[]);
    }
    let (occurrence, warning) = told.until(|warning: &Warning| warning.reason == "FailedMount").await;
    assert_eq!((occurrence.count, warning.text.as_str()), (2, "no such volume 1"));
    let (occurrence, _) = told.until(|warning: &Warning| warning.text == "no such volume 3").await;
    assert_eq!(occurrence.count, 4);
    assert_eq!(told.of::<Warning>().len(), 2);
    told.assert_distinct();
    portti.stop().await;
}
