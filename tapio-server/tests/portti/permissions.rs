//! The shipped role is enough, and reads only. A kind that may not be watched is said; the others go on.

use std::fs;

use serde_json::Value;
use tapio_occurrence::kubernetes::{Aspect, Object, Synced};
use tapio_server::portti::{Secrets, Settings};

use crate::support::{Portti, Told, cluster_or_skip, deploy, objects};

/// The part of the Gateway API's definition that is used here.
const ROUTES: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: httproutes.gateway.networking.k8s.io
  annotations: {api-approved.kubernetes.io: unapproved}
spec:
  group: gateway.networking.k8s.io
  scope: Namespaced
  names: {kind: HTTPRoute, plural: httproutes, singular: httproute, listKind: HTTPRouteList}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";
const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: pay, namespace: shop}
spec: {rules: [{backendRefs: [{name: pay, port: 80}]}]}
";

#[test]
fn the_role_reads_only() {
    let roles = objects(&fs::read_to_string(deploy("server/portti-role.yaml")).unwrap());
    assert_eq!(roles.len(), 2);
    for rule in roles.iter().flat_map(|role| role["rules"].as_array().unwrap()) {
        assert_eq!(rule["verbs"], serde_json::json!(["get", "list", "watch"]), "{rule}");
    }
    let of_secrets =
        |rule: &Value| rule["resources"].as_array().unwrap().iter().any(|name| name == "secrets");
    assert!(!roles[0]["rules"].as_array().unwrap().iter().any(of_secrets));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_kind_is_missing() {
    let cluster = cluster_or_skip!("one_kind_is_missing");
    let portti = Portti::synced(&cluster).await;
    let kinds = portti.status.kinds();
    let missing: Vec<_> = kinds.iter().filter(|kind| !kind.watched).map(|kind| kind.kind).collect();
    assert_eq!(missing, ["HTTPRoute", "Secret"], "the shipped role is enough; {kinds:#?}");
    let route = kinds.iter().find(|kind| kind.kind == "HTTPRoute").unwrap();
    assert!(route.reason.as_ref().unwrap().contains("does not serve httproutes"), "{route:?}");
    // The cluster has no routes: nothing is missing.
    let (_, synced) = portti.told.until(|synced: &Synced| synced.missing.len() == 1).await;
    assert!(synced.missing[0].reason.contains("set it to `hashes`"), "{synced:?}");
    portti.stop().await;

    // The same role without ConfigMaps.
    let role = fs::read_to_string(deploy("server/portti-role.yaml")).unwrap();
    cluster.apply("role.yaml", &role.replace("      - configmaps\n", ""), &[]);
    let portti = Portti::start(&cluster, &Told::new(), Settings::default()).await;
    portti.settled().await;
    let told = &portti.told;
    let is = |synced: &Synced| synced.missing.iter().any(|missing| missing.kind == "ConfigMap");
    let (_, synced) = told.until(is).await;
    let reason = &synced.missing.iter().find(|missing| missing.kind == "ConfigMap").unwrap().reason;
    assert!(reason.contains("403") && reason.contains("grant list and watch on configmaps"), "{reason}");
    let map = portti.status.kinds().into_iter().find(|kind| kind.kind == "ConfigMap").unwrap();
    assert_eq!((map.watched, map.lost), (false, Some("changes of ConfigMaps")));
    cluster.kubectl(&["create", "serviceaccount", "new", "-n", "shop"]);
    told.until(|object: &Object| object.object.name == "new").await;
    // The permission comes.
    cluster.apply("role.yaml", &role, &[]);
    let is = |synced: &Synced| synced.kinds.iter().any(|kind| kind.kind == "ConfigMap");
    told.until(is).await;
    portti.stop().await;

    // Secrets, asked for: keys, and hashes. Routes, now that the API has them.
    cluster.apply("routes.yaml", ROUTES, &[]);
    cluster.kubectl(&["wait", "--for=condition=Established", "crd/httproutes.gateway.networking.k8s.io"]);
    cluster.kubectl(&["create", "secret", "generic", "token", "-n", "shop", "--from-literal=key=hunter2"]);
    let settings = Settings { secrets: Secrets::Hashes, ..Settings::default() };
    let portti = Portti::start(&cluster, &Told::new(), settings).await;
    portti.settled().await;
    let told = &portti.told;
    cluster.kubectl(&["patch", "secret", "token", "-n", "shop", "-p", r#"{"stringData":{"key":"hunter3"}}"#]);
    cluster.apply("route.yaml", ROUTE, &[]);
    let (_, route) = told.until(|object: &Object| object.object.kind == "HTTPRoute").await;
    assert_eq!((route.uses[0].kind.as_str(), route.uses[0].name.as_str()), ("Service", "pay"));
    let (_, change) = told.change("Secret", "token", |change| !change.fields.is_empty()).await;
    let field = &change.fields[0];
    assert_eq!((field.path.as_str(), field.aspect, change.fields.len()), ("data.key", Aspect::Data, 1));
    assert!(field.from != field.to && field.to.as_ref().unwrap().starts_with('#'), "{field:?}");
    portti.stop().await;
}
