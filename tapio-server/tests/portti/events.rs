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
