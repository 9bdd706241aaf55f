//! Queries to a server that refuses some of them, and the names found by the others.

use std::sync::{Mutex, PoisonError};

use http::Response;
use kube::client::Body;
use serde_json::json;
use tower::service_fn;

use super::*;

/// A server that refuses the named queries, and knows one pod that has ended and one service. It records the
/// queries in `seen`.
fn server(refused: &'static [&'static str], seen: &Arc<Mutex<Vec<String>>>) -> Client {
    let seen = Arc::clone(seen);
    let service = service_fn(move |request: Request<Body>| {
        let resource = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let answer = match resource.as_str() {
            name if refused.contains(&name) => json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 403,
                "reason": "Forbidden", "message": "no",
            }),
            "nodes" => json!({ "metadata": {}, "columnDefinitions": [], "rows": [] }),
            "pods" => json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [{
                "metadata": { "uid": "u", "namespace": "shop", "name": "ended" },
                "status": { "phase": "Failed", "podIP": "10.2.0.5" },
            }] }),
            _ => json!({ "kind": "ServiceList", "apiVersion": "v1", "metadata": {}, "items": [{
                "metadata": {
                    "uid": "s", "namespace": "shop", "name": "redis", "creationTimestamp": "2026-11-20T01:46:40Z",
                },
            }] }),
        };
        let status = if refused.contains(&resource.as_str()) { 403 } else { 200 };
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(resource);
        let response = Response::builder().status(status).body(Body::from(answer.to_string().into_bytes()));
        std::future::ready(response)
    });
    Client::new(service, "shop")
}

/// The names found by two queries, one after the other, and the queries that the server received.
async fn asked_twice(refused: &'static [&'static str]) -> (Vec<String>, Vec<String>) {
    let seen = Arc::default();
    let mut asker = Asker {
        client: Some(server(refused, &seen)),
        pace: interval(Duration::from_millis(1)),
        health: Arc::new(Health::new("a test".to_owned())),
        metrics: Arc::default(),
        refused: HashMap::new(),
    };
    let peers = Peers::default();
    let mut found = Vec::new();
    for _ in 0..2 {
        let answer = asker.resolve(&peers, [10, 2, 0, 5].into()).await.unwrap();
        found = answer.into_iter().flat_map(|(_, found)| found).map(|found| found.identity.uid).collect();
    }
    let seen = seen.lock().unwrap().clone();
    (found, seen)
}

#[tokio::test]
async fn what_is_refused_is_asked_once_and_keeps_nothing_else_from_being_known() {
    for (refused, found, seen) in [
        (&[][..], &["u", "s"][..], &["nodes", "pods", "services", "pods", "services"][..]),
        (&["services"], &["u"], &["nodes", "pods", "services", "pods"]),
        (&["pods"], &["s"], &["nodes", "pods", "services", "services"]),
        (&["nodes"], &["u", "s"], &["nodes", "pods", "services", "pods", "services"]),
        (&["nodes", "pods", "services"], &[], &["nodes", "pods", "services"]),
    ] {
        let reported = asked_twice(refused).await;
        assert_eq!(
            (reported.0.as_slice(), reported.1.as_slice()),
            (&owned(found)[..], &owned(seen)[..]),
            "{refused:?}"
        );
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn the_pods_of_two_nodes_on_one_address_tell_neither() {
    let pod = |node: &str, since_unix_ns| Pod {
        node: Some(node.to_owned()),
        host_network: true,
        since_unix_ns: Some(since_unix_ns),
        ..Pod::default()
    };
    let ended = |node| Pod { until_unix_ns: Some(9), ..pod(node, 1) };
    let node =
        |from_unix_ns| Found { identity: PeerIdentity::of_node("a"), from_unix_ns, until_unix_ns: None };
    assert_eq!(holders(&[pod("a", 7), pod("a", 5), ended("b")]), [node(5)]);
    assert_eq!(holders(&[pod("a", 7), pod("b", 5)]), []);
    assert_eq!(holders(&[pod("b", 7), pod("a", 5), pod("b", 5)]), []);
    assert_eq!(holders(&[ended("b")]), []);
}
