//! What somebody changed is said: which fields, from what to what, by whom.

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tapio_occurrence::kubernetes::{Aspect, Change, Deleted, Object, Verb};

use crate::support::{Cluster, Portti, cluster_or_skip};

const SHOP: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: pay, namespace: shop}
spec:
  replicas: 1
  selector: {matchLabels: {app: pay}}
  template:
    metadata: {labels: {app: pay}}
    spec:
      containers:
        - name: app
          image: pay:1
          env: [{name: URL, value: first-value}]
          envFrom: [{configMapRef: {name: settings}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {color: first-value}
---
apiVersion: v1
kind: Service
metadata: {name: pay, namespace: shop}
spec:
  selector: {app: pay}
  ports: [{port: 80, targetPort: 8080}]
"#;

const SYNCED: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata:
  name: a
  namespace: shop
  annotations: {"argocd.argoproj.io/tracking-id": "cart:/ConfigMap:shop/a"}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: b
  namespace: shop
  annotations: {"argocd.argoproj.io/tracking-id": "cart:/ConfigMap:shop/b"}
"#;

/// The only field of this aspect.
fn field(change: &Change, aspect: Aspect) -> (&str, Option<&str>, Option<&str>) {
    let fields: Vec<_> = change.fields.iter().filter(|field| field.aspect == aspect).collect();
    assert_eq!(fields.len(), 1, "{change:?}");
    (&fields[0].path, fields[0].from.as_deref(), fields[0].to.as_deref())
}

fn has(aspect: Aspect) -> impl Fn(&Change) -> bool {
    move |change| change.fields.iter().any(|field| field.aspect == aspect)
}

fn now_unix_ns() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
}

fn words(text: &str) -> Vec<&str> {
    text.split(' ').collect()
}

async fn as_manager(cluster: &Cluster, manager: &str, patch: serde_json::Value, scale: bool) {
    let deployments = Api::<Deployment>::namespaced(cluster.client.clone(), "shop");
    let params = PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(patch);
    if scale {
        deployments.patch_scale("pay", &params, &patch).await.unwrap();
    } else {
        deployments.patch("pay", &params, &patch).await.unwrap();
    }
}

/// The API server notes no writer of a field that is gone, and 0 replicas are none.
#[tokio::test(flavor = "multi_thread")]
async fn when_somebody_scaled_to_zero() {
    let cluster = cluster_or_skip!("when_somebody_scaled_to_zero");
    cluster.apply("shop.yaml", SHOP, &[]);
    let portti = Portti::synced(&cluster).await;
    tokio::time::sleep(std::time::Duration::from_secs(12)).await;
    let before = now_unix_ns();
    cluster.kubectl(&words("scale deployment/pay --replicas=0 -n shop"));
    let (occurrence, change) = portti.told.change("Deployment", "pay", has(Aspect::Replicas)).await;
    assert_eq!(field(&change, Aspect::Replicas), ("spec.replicas", Some("1"), Some("0")));
    assert_eq!(change.manager, None, "not who created it");
    // Times of the API server are whole seconds.
    assert!(occurrence.time_unix_ns + 1_000_000_000 >= before, "{occurrence:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_changed() {
    let cluster = cluster_or_skip!("what_somebody_changed");
    cluster.node("node-a", "192.168.0.1").await;
    cluster.apply("shop.yaml", SHOP, &[]);
    let portti = Portti::synced(&cluster).await;
    let told = &portti.told;
    assert!(told.changes().is_empty(), "nobody knows what was before: {:?}", told.changes());
    let (_, pay) = told.until(|o: &Object| o.object.kind == "Deployment" && o.object.name == "pay").await;
    let uses: Vec<_> = pay.uses.iter().map(|used| used.name.as_str()).collect();
    assert_eq!((uses, pay.replicas, pay.selector[0].value.as_str()), (vec!["settings"], Some(1), "pay"));

    cluster.kubectl(&words("set image deployment/pay app=pay:2 -n shop"));
    let (occurrence, change) = told.change("Deployment", "pay", has(Aspect::Image)).await;
    let image = ("spec.template.spec.containers.app.image", Some("pay:1"), Some("pay:2"));
    assert_eq!((field(&change, Aspect::Image), change.fields.len()), (image, 1));
    assert_eq!((change.verb, change.manager.as_deref()), (Verb::Updated, Some("kubectl-set")));
    assert_eq!((change.tool.as_deref(), change.generation), (Some("kubectl"), Some(2)));
    assert_eq!(
        occurrence.message,
        "Deployment shop/pay: image of app changed from pay:1 to pay:2, by kubectl-set"
    );
    let (_, object) = told.until(|o: &Object| o.containers.iter().any(|c| c.image == "pay:2")).await;
    assert_eq!(object.object, change.object);

    cluster.kubectl(&words("set resources deployment/pay --limits=memory=64Mi -n shop"));
    let (_, change) = told.change("Deployment", "pay", has(Aspect::Memory)).await;
    let path = "spec.template.spec.containers.app.resources.limits.memory";
    assert_eq!((field(&change, Aspect::Memory), change.fields.len()), ((path, None, Some("64Mi")), 1));

    cluster.kubectl(&words("set env deployment/pay URL=second-value -n shop"));
    let (occurrence, change) = told.change("Deployment", "pay", has(Aspect::Environment)).await;
    assert_eq!(field(&change, Aspect::Environment).0, "spec.template.spec.containers.app.env.URL.value");
    assert!(occurrence.message.contains("environment variable URL of app changed, by"), "{occurrence:?}");

    cluster.kubectl(&words("scale deployment/pay --replicas=3 -n shop"));
    let (_, change) = told.change("Deployment", "pay", has(Aspect::Replicas)).await;
    assert_eq!(field(&change, Aspect::Replicas), ("spec.replicas", Some("1"), Some("3")));
    assert_eq!(change.manager.as_deref(), Some("kubectl"));

    cluster.kubectl(&words("rollout restart deployment/pay -n shop"));
    let (_, change) = told.change("Deployment", "pay", has(Aspect::Template)).await;
    assert!(field(&change, Aspect::Template).0.ends_with("kubectl.kubernetes.io/restartedAt"), "{change:?}");

    cluster.apply("shop.yaml", &SHOP.replace("color: first-value", "color: second-value"), &[]);
    let (occurrence, change) = told.change("ConfigMap", "settings", has(Aspect::Data)).await;
    let (path, from, to) = field(&change, Aspect::Data);
    assert!(path == "data.color" && from != to && from.unwrap().starts_with('#'), "{change:?}");
    assert_eq!(
        occurrence.message,
        "ConfigMap shop/settings: key color changed, by kubectl-client-side-apply"
    );

    cluster.kubectl(&[
        "patch",
        "service",
        "pay",
        "-n",
        "shop",
        "-p",
        r#"{"spec":{"selector":{"app":"oops"}}}"#,
    ]);
    let (_, change) = told.change("Service", "pay", has(Aspect::Selector)).await;
    assert_eq!(field(&change, Aspect::Selector), ("spec.selector.app", Some("pay"), Some("oops")));
    assert_eq!(change.manager.as_deref(), Some("kubectl-patch"));

    let before = now_unix_ns();
    cluster.kubectl(&["cordon", "node-a"]);
    let (occurrence, change) = told.change("Node", "node-a", has(Aspect::Node)).await;
    assert_eq!(&*occurrence.node, "node-a");
    assert!(occurrence.time_unix_ns >= before, "the server noted no writer, and it is not of the past");
    assert!(change.fields.iter().any(|f| f.path == "spec.unschedulable" && f.to.as_deref() == Some("true")));

    // Two objects of one sync, by a tool.
    cluster.apply("synced.yaml", SYNCED, &["--server-side", "--field-manager=argocd-controller"]);
    let (_, a) = told.change("ConfigMap", "a", |change| change.verb == Verb::Created).await;
    let (_, b) = told.change("ConfigMap", "b", |change| change.verb == Verb::Created).await;
    assert_eq!((a.tool.as_deref(), a.application.as_deref()), (Some("Argo CD"), Some("cart")));
    assert_eq!((a.manager.as_deref(), a.set.as_ref()), (Some("argocd-controller"), b.set.as_ref()));

    cluster.kubectl(&words("delete configmap settings -n shop"));
    let (_, change) = told.change("ConfigMap", "settings", |change| change.verb == Verb::Deleted).await;
    let (gone, deleted) = told.until(|deleted: &Deleted| deleted.object.name == "settings").await;
    assert_eq!(deleted.object, change.object);
    assert_eq!(gone.message, "ConfigMap shop/settings is gone");

    let texts = serde_json::to_string(&told.all()).unwrap();
    assert!(!texts.contains("first-value") && !texts.contains("second-value"), "values are secret");
    told.assert_distinct();
    portti.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_component_did() {
    let cluster = cluster_or_skip!("what_a_component_did");
    cluster.apply("shop.yaml", SHOP, &[]);
    let portti = Portti::synced(&cluster).await;
    let told = &portti.told;

    // The Deployment controller's note is no change; an autoscaler's decision is one.
    let revision = json!({ "metadata": { "annotations": { "deployment.kubernetes.io/revision": "2" } } });
    as_manager(&cluster, "kube-controller-manager", revision, false).await;
    as_manager(&cluster, "kube-controller-manager", json!({ "spec": { "replicas": 5 } }), true).await;
    let (_, change) = told.change("Deployment", "pay", |_| true).await;
    assert_eq!(field(&change, Aspect::Replicas), ("spec.replicas", Some("1"), Some("5")));
    assert_eq!(change.manager.as_deref(), Some("kube-controller-manager"));

    // What is owned comes and goes as a consequence.
    let deployment = cluster.kubectl(&words("get deployment pay -n shop -o jsonpath={.metadata.uid}"));
    let owner = json!([{
        "apiVersion": "apps/v1", "kind": "Deployment", "name": "pay", "uid": deployment, "controller": true,
    }]);
    let set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": "pay-5d", "namespace": "shop", "ownerReferences": owner,
            "labels": { "pod-template-hash": "5d" },
            "annotations": { "deployment.kubernetes.io/revision": "2" },
        },
        "spec": {
            "replicas": 0, "selector": { "matchLabels": { "app": "pay", "pod-template-hash": "5d" } },
            "template": {
                "metadata": { "labels": { "app": "pay", "pod-template-hash": "5d" } },
                "spec": { "containers": [{ "name": "app", "image": "pay:1" }] },
            },
        },
    });
    cluster.apply("set.yaml", &set.to_string(), &[]);
    let (_, object) = told.until(|o: &Object| o.object.name == "pay-5d").await;
    assert_eq!((object.revision.as_deref(), object.owners[0].name.as_str()), (Some("2"), "pay"));
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "pay-5d-x", "namespace": "shop", "labels": { "app": "pay", "pod-template-hash": "5d" },
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "pay-5d", "controller": true,
                "uid": object.object.uid.unwrap(),
            }],
        },
        "spec": {
            "nodeName": "node-a", "automountServiceAccountToken": false,
            "containers": [{ "name": "app", "image": "pay:1" }],
        },
    });
    cluster.apply("pod.yaml", &pod.to_string(), &[]);
    let (occurrence, object) = told.until(|o: &Object| o.object.kind == "Pod").await;
    let workload = occurrence.workload.unwrap();
    assert_eq!(
        (workload.owner_kind.as_deref(), workload.owner.as_deref()),
        (Some("Deployment"), Some("pay"))
    );
    assert_eq!((&*occurrence.node, object.node.as_deref()), ("node-a", Some("node-a")));
    cluster.kubectl(&words("delete pod pay-5d-x -n shop --grace-period=0 --force"));
    told.until(|deleted: &Deleted| deleted.object.name == "pay-5d-x").await;
    // A pod that nobody owns is somebody's.
    let bare = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "bare", "namespace": "shop" },
        "spec": { "automountServiceAccountToken": false, "containers": [{ "name": "app", "image": "pay:1" }] },
    });
    cluster.apply("bare.yaml", &bare.to_string(), &[]);
    told.change("Pod", "bare", |change| change.verb == Verb::Created).await;
    cluster.kubectl(&words("delete pod bare -n shop --grace-period=0 --force"));
    told.change("Pod", "bare", |change| change.verb == Verb::Deleted).await;
    let told_of: Vec<_> = told.changes().into_iter().map(|change| change.object.name).collect();
    assert_eq!(told_of, ["pay", "bare", "bare"], "{:#?}", told.messages());
    told.assert_distinct();
    portti.stop().await;
}
