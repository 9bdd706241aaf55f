//! What is no fact: heartbeats, renewals, notes of components, writes that change nothing.

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, Node},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tapio_occurrence::kubernetes::Object;

use crate::support::{Portti, cluster_or_skip};

#[tokio::test(flavor = "multi_thread")]
async fn noise() {
    let cluster = cluster_or_skip!("noise");
    cluster.node("node-a", "192.168.0.1").await;
    cluster.kubectl(&["create", "configmap", "settings", "-n", "shop", "--from-literal=a=1"]);
    let portti = Portti::synced(&cluster).await;
    let told = &portti.told;
    told.until(|object: &Object| object.object.name == "settings").await;
    told.forget();

    let nodes = Api::<Node>::all(cluster.client.clone());
    let leases = Api::<Lease>::namespaced(cluster.client.clone(), "kube-node-lease");
    let maps = Api::<ConfigMap>::namespaced(cluster.client.clone(), "shop");
    let lease = json!({ "metadata": { "name": "node-a" }, "spec": { "holderIdentity": "node-a" } });
    leases.create(&PostParams::default(), &serde_json::from_value(lease).unwrap()).await.unwrap();
    for nth in 0..5 {
        let (params, by) = (PatchParams::default(), |manager: &str| PatchParams {
            field_manager: Some(manager.to_owned()),
            ..PatchParams::default()
        });
        let renewal =
            Patch::Merge(json!({ "spec": { "renewTime": format!("2026-11-20T01:46:4{nth}.000000Z") } }));
        leases.patch("node-a", &params, &renewal).await.unwrap();
        let beat = json!([{ "type": "Ready", "status": "True", "lastTransitionTime": "2026-11-20T01:46:40Z",
                            "lastHeartbeatTime": format!("2026-11-20T01:46:4{nth}Z") }]);
        let beat = Patch::Merge(json!({ "status": { "conditions": beat } }));
        nodes.patch_status("node-a", &params, &beat).await.unwrap();
        // The same content by another manager changes only managedFields.
        let same = Patch::Apply(
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "settings" }, "data": { "a": "1" } }),
        );
        maps.patch("settings", &by(&format!("manager-{nth}")).force(), &same).await.unwrap();
        let leader = json!({ "metadata": { "annotations": { "control-plane.alpha.kubernetes.io/leader": nth.to_string() } } });
        maps.patch("settings", &params, &Patch::Merge(leader)).await.unwrap();
    }
    // A fact after all of that.
    cluster.kubectl(&["create", "configmap", "last", "-n", "shop"]);
    cluster.kubectl(&["label", "node", "node-a", "last=1"]);
    told.change("ConfigMap", "last", |_| true).await;
    told.change("Node", "node-a", |_| true).await;
    // Other objects, such as the namespace's service account, may come late.
    let is_of_these =
        |message: &String| ["node-a", "shop/settings", "shop/last"].iter().any(|of| message.contains(of));
    let said: Vec<_> = told.messages().into_iter().filter(is_of_these).collect();
    // Of both the object, which a label is part of, and the change.
    assert_eq!(said.len(), 4, "{said:#?}");
    portti.stop().await;
}
