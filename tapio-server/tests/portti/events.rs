//! Events of Kubernetes that tell of incidents, written with the role that they are shipped with.

use std::{fs, process::Command, sync::Arc};

use k8s_openapi::api::events::v1::Event;
use kube::{Api, api::ListParams};
use tapio_occurrence::{Occurrence, event::event};
use tapio_server::{
    journal::{FILE, Journal, Limits},
    metrics::Metrics,
};

use crate::{
    process::{PROGRAM, Server, free_address, wait_until},
    support::{Cluster, Portti, cluster_or_skip, deploy},
};

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: payments, namespace: shop}
spec:
  selector: {matchLabels: {app: payments}}
  template:
    metadata: {labels: {app: payments}}
    spec: {containers: [{name: app, image: payments:1}]}
";

/// Facts of a failure of payments, in the journal of a server that is to start.
async fn fail(state: &std::path::Path) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tapio-ahti/tests/recorded/limit.jsonl");
    let text = fs::read_to_string(path).unwrap();
    let facts = text.lines().map(|line| event(&Occurrence::read_json(line.as_bytes()).unwrap()));
    let facts: Vec<_> = facts.collect();
    fs::create_dir_all(state).unwrap();
    let limits = Limits { max_bytes: 1 << 30, max_age: std::time::Duration::from_secs(1 << 30) };
    let (journal, writer) = Journal::open(&state.join(FILE), limits, Arc::new(Metrics::default())).unwrap();
    let writing = tokio::spawn(writer.run());
    journal.append(&facts).await.unwrap();
    journal.close().await;
    writing.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fails_has_an_event_that_names_the_cause() {
    let cluster: Cluster = cluster_or_skip!("who_fails_has_an_event_that_names_the_cause");
    cluster.apply("payments", DEPLOYMENT, &[]);
    let directory = tempfile::tempdir().unwrap();
    fail(&directory.path().join("state")).await;
    let config = directory.path().join("config.yaml");
    fs::write(&config, "notify: {cluster: {kubernetes: {events: true}}}\n").unwrap();
    let start = || {
        let mut command = Command::new(PROGRAM);
        command.env("KUBECONFIG", Portti::kubeconfig(&cluster, "default"));
        let flags = ["--roles=polku,ahti", &format!("--config={}", config.display())];
        Server::start_as(command, free_address(), directory.path(), &flags)
    };
    let state = |server: &Server| server.status()["roles"]["ahti"]["notify"]["cluster"].clone();

    // It may not: that is said, with what to do.
    let server = start();
    let said = wait_until(|| state(&server), |state| !state["trouble"].is_null());
    let trouble = said["trouble"].as_str().unwrap();
    assert!(trouble.contains("cannot create") && trouble.contains("tapio-events"), "{trouble}");
    server.kill();

    cluster.kubectl(&["apply", "-f", deploy("server/events-role.yaml").to_str().unwrap()]);
    let role = [
        "create",
        "clusterrolebinding",
        "events",
        "--clusterrole=tapio-events",
        "--serviceaccount=tapio:portti",
    ];
    cluster.kubectl(&role);
    let server = start();
    wait_until(|| state(&server), |state| state["sent"] == 1);
    let events = Api::<Event>::namespaced(cluster.client.clone(), "shop");
    let events = events.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(events.len(), 1, "{events:#?}");
    let event = &events[0];
    let regarding = event.regarding.as_ref().unwrap();
    let object = (regarding.kind.as_deref(), regarding.name.as_deref(), regarding.uid.is_some());
    assert_eq!(object, (Some("Deployment"), Some("payments"), true));
    let said = (event.reason.as_deref(), event.type_.as_deref(), event.reporting_controller.as_deref());
    assert_eq!(said, (Some("TapioIncident"), Some("Warning"), Some("tapio.dev/ahti")));
    let note = event.note.as_deref().unwrap();
    assert!(note.contains("payments (shop) is OOM-killed") && note.contains("Do first: roll back"), "{note}");
    let described = cluster.kubectl(&["describe", "deployment/payments", "--namespace=shop"]);
    assert!(described.contains("TapioIncident"), "{described}");
    // PORTTI does not read them.
    let portti = Portti::synced(&cluster).await;
    assert!(!portti.told.messages().iter().any(|text| text.contains("TapioIncident")));
    portti.stop().await;
}

/// The real API server's word about objects `Incident`.
#[tokio::test(flavor = "multi_thread")]
async fn a_cause_has_an_incident_in_its_namespace_until_it_expires() {
    let cluster: Cluster = cluster_or_skip!("a_cause_has_an_incident_in_its_namespace_until_it_expires");
    cluster.apply("payments", DEPLOYMENT, &[]);
    let directory = tempfile::tempdir().unwrap();
    fail(&directory.path().join("state")).await;
    let config = directory.path().join("config.yaml");
    fs::write(&config, "notify: {cluster: {kubernetes: {incidents: true, keep: 1s}}}\n").unwrap();
    let start = || {
        let mut command = Command::new(PROGRAM);
        command.env("KUBECONFIG", Portti::kubeconfig(&cluster, "default"));
        let flags = ["--roles=polku,ahti", &format!("--config={}", config.display())];
        Server::start_as(command, free_address(), directory.path(), &flags)
    };
    let state = |server: &Server| server.status()["roles"]["ahti"]["notify"]["cluster"].clone();
    let portti = Portti::synced(&cluster).await;

    // It may not, and there is no such kind: that is said, with what to do.
    let server = start();
    let said = wait_until(|| state(&server), |state| !state["trouble"].is_null());
    let trouble = said["trouble"].as_str().unwrap();
    assert!(trouble.contains("tapio-incidents") || trouble.contains("deploy/server/incidents"), "{trouble}");
    server.kill();

    cluster.kubectl(&["apply", "-k", deploy("server/incidents").to_str().unwrap()]);
    let account = "--serviceaccount=tapio:portti";
    cluster.kubectl(&["create", "clusterrolebinding", "incidents", "--clusterrole=tapio-incidents", account]);
    cluster.kubectl(&["wait", "--for=condition=Established", "crd/incidents.tapio.dev", "--timeout=30s"]);
    let server = start();
    wait_until(|| state(&server), |state| state["sent"] == 1);
    let list = || cluster.kubectl(&["get", "incidents", "--namespace=shop"]);
    let shown = list();
    let (head, row) = shown.trim().split_once('\n').unwrap();
    let columns: Vec<&str> = head.split_whitespace().collect();
    assert_eq!(columns, ["NAME", "ID", "CAUSE", "CERTAINTY", "SINCE", "STATE"]);
    assert!(row.contains("TAP-1") && row.contains("payments (shop) is OOM-killed"), "{row}");
    assert!(row.trim().ends_with("open"), "{row}");
    let all = cluster.kubectl(&["get", "incidents", "-A", "-o", "json"]);
    let all: serde_json::Value = serde_json::from_str(&all).unwrap();
    assert_eq!(all["items"].as_array().map(Vec::len), Some(1), "{all:#}");
    let incident = &all["items"][0]["incident"];
    assert!(incident["answer"].to_string().contains("Do first: roll back"), "{incident:#}");
    // A stranger of the same kind is nobody's business.
    let other = "{apiVersion: tapio.dev/v1alpha1, kind: Incident, metadata: {name: own, namespace: shop}, incident: {id: x, title: x, \
                 certainty: likely, state: open, since: '2026-01-01T00:00:00Z', why: x}}";
    cluster.apply("own", other, &[]);
    // Its facts are gone, and so is the incident.
    server.kill();
    fs::remove_dir_all(directory.path().join("state/journal")).unwrap();
    let server = start();
    wait_until(|| state(&server), |state| state["sent"] == 1);
    let rest = wait_until(list, |list| !list.contains("TAP-1"));
    assert!(rest.contains("own"), "{rest}");
    // PORTTI says nothing of them.
    assert!(!portti.told.messages().iter().any(|text| text.contains("Incident")));
    portti.stop().await;
}
