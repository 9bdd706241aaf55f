//! The peer: looked up once, with few requests per second, and correct for the time of the anomaly.

use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use tapio_kube::Access;
use tapio_service::clock;

use crate::support::{Agent, Cluster, Gate, PodKind, Shape, cluster_or_skip};

async fn gated(cluster: &Cluster) -> (Gate, Agent) {
    cluster.node("node-a", "192.168.0.1").await;
    cluster.node("node-b", "192.168.0.2").await;
    let gate = Gate::before(cluster).await;
    let agent = Agent::by(Access::Kubeconfig(vec![gate.kubeconfig()]), "node-a");
    agent.wait_until_synced().await;
    (gate, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_asked_for_once_however_many_anomalies() {
    let cluster = cluster_or_skip!("a_peer_is_asked_for_once_however_many_anomalies");
    let (gate, mut agent) = gated(&cluster).await;
    let shape = Shape::new("checkout-7d9f8c6b5d-x2x", "node-b", "10.2.0.5");
    cluster.pod(&Shape { kind: PodKind::Deployment, ..shape }).await;
    // A node whose address the list lacks, and its host-network pods that have it.
    let host = Shape::new("kube-proxy-b", "node-b", "192.168.7.2");
    cluster.pod(&Shape { kind: PodKind::DaemonSet, host_network: true, ..host }).await;
    let host = Shape::new("exporter-b", "node-b", "192.168.0.2");
    cluster.pod(&Shape { kind: PodKind::DaemonSet, host_network: true, ..host }).await;
    cluster.service("redis", "10.96.7.7").await;
    // The API truncates times to a second, so the service has to be older than the anomaly by more than that.
    tokio::time::sleep(Duration::from_millis(1_100)).await;

    for (address, peer, said) in [
        (
            "10.2.0.5",
            json!({ "namespace": "shop", "pod": "checkout-7d9f8c6b5d-x2x", "owner_kind": "Deployment", "owner": "checkout" }),
            "checkout-7d9f8c6b5d-x2x.shop:6379",
        ),
        ("10.96.7.7", json!({ "namespace": "shop", "service": "redis" }), "redis.shop:6379"),
        ("192.168.0.2", json!({ "node": "node-b" }), "node-b:6379"),
        ("192.168.7.2", json!({ "node": "node-b" }), "node-b:6379"),
        ("203.0.113.9", json!({}), "203.0.113.9:6379"),
    ] {
        (0..200).for_each(|_| agent.give(Agent::anomaly(0, address)));
        for _ in 0..200 {
            let reported = agent.reported().await;
            assert_eq!(reported["message"], format!("unknown process: connection to {said} was refused"));
            let mut expected = json!({ "address": address, "port": 6379 });
            for (key, name) in peer.as_object().into_iter().flatten() {
                expected[key] = name.clone();
            }
            assert_eq!(reported["peer"], expected);
        }
    }
    assert_eq!(gate.seen("/api/v1/nodes?").len(), 1, "{:?}", gate.seen(""));
    for (address, pods, services) in
        [("10.2.0.5", 1, 0), ("10.96.7.7", 1, 1), ("192.168.7.2", 1, 0), ("203.0.113.9", 1, 1)]
    {
        assert_eq!(gate.seen(&format!("status.podIP%3D{address}")).len(), pods, "{address}");
        assert_eq!(gate.seen(&format!("spec.clusterIP%3D{address}")).len(), services, "{address}");
    }
    let lists = gate.seen("/api/v1/pods?").len() - gate.seen("podIP").len();
    assert_eq!(lists, gate.seen("spec.nodeName%3Dnode-a").len(), "nothing wider: {:?}", gate.seen(""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_peers_stay_under_the_bound() {
    let cluster = cluster_or_skip!("a_thousand_peers_stay_under_the_bound");
    let (gate, mut agent) = gated(&cluster).await;
    let shapes = (0..1_000).map(|nth| {
        let ip = format!("10.2.{}.{}", nth / 250, nth % 250 + 1);
        Shape::new(&format!("pod-{nth}"), "node-b", &ip)
    });
    cluster.many_pods(shapes.collect()).await;
    let before = gate.seen("").len();
    let start = Instant::now();
    for nth in 0..1_000 {
        let peer = format!("10.2.{}.{}", nth / 250, nth % 250 + 1);
        (0..2).for_each(|_| agent.give(Agent::anomaly(0, &peer)));
    }
    let mut named = 0;
    for _ in 0..2_000 {
        let reported = agent.reported().await;
        if let Some(pod) = reported["peer"]["pod"].as_str() {
            let nth: usize = pod.strip_prefix("pod-").unwrap().parse().unwrap();
            assert_eq!(reported["peer"]["address"], format!("10.2.{}.{}", nth / 250, nth % 250 + 1));
            named += 1;
        }
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(4), "none waits longer than it should: {took:?}");
    assert!(named >= 10, "{named}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (asked, seconds) = (gate.seen("").len() - before, start.elapsed().as_secs_f64());
    assert!(asked as f64 <= 5.0 * seconds + 1.0, "{asked} requests in {seconds} s");
    assert_eq!(gate.most_at_once(), 1);
    assert!(agent.metric("tapio_unresolved_total", &[r#"name="peer""#, r#"reason="limited""#]) > 900);
    println!("{asked} requests, {named} of 2,000 occurrences named, {took:?}");
}

/// The address belonged to one pod before and to another afterwards; in between, its owner is uncertain.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_used_again_is_right_for_before_and_after() {
    let cluster = cluster_or_skip!("an_address_that_is_used_again_is_right_for_before_and_after");
    let (_gate, mut agent) = gated(&cluster).await;
    let pod = |reported: &serde_json::Value| {
        reported["peer"].get("pod").map(|pod| pod.as_str().unwrap().to_owned())
    };
    // A completed pod still shows the address.
    let done = Shape { kind: PodKind::Job, ..Shape::new("done", "node-b", "10.2.0.9") };
    cluster.pod(&done).await;
    let ended = Timestamp::from_second(Timestamp::now().as_second() - 60).unwrap().to_string();
    let began = done.started.to_string();
    let patch = json!({ "status": { "phase": "Succeeded", "containerStatuses": [{
        "name": "app", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "running": null, "terminated": { "exitCode": 0, "startedAt": began, "finishedAt": ended } },
    }] } });
    let patch = patch.to_string();
    cluster.kubectl(&["patch", "pod", "done", "--namespace=shop", "--subresource=status", "--patch", &patch]);
    let first = Shape::new("first", "node-b", "10.2.0.9");
    let began = Timestamp::from_second(Timestamp::now().as_second() - 30).unwrap();
    cluster.pod(&Shape { started: began, ..first }).await;

    let before_ns = clock::boot_ns();
    let second_ns = 1_000_000_000;
    let reported = agent.tell(Agent::anomaly_at(0, "10.2.0.9", before_ns)).await;
    assert_eq!(pod(&reported).as_deref(), Some("first"));
    let reported = agent.tell(Agent::anomaly_at(0, "10.2.0.9", before_ns - 90 * second_ns)).await;
    assert_eq!(pod(&reported).as_deref(), Some("done"), "when the Job ran");
    let reported = agent.tell(Agent::anomaly_at(0, "10.2.0.9", before_ns - 45 * second_ns)).await;
    assert_eq!(pod(&reported), None, "between the two");

    cluster.delete_pod("first").await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    let second = Shape::new("second", "node-b", "10.2.0.9");
    cluster.pod(&Shape { started: Timestamp::now(), ..second }).await;
    let reported = agent.tell(Agent::anomaly_at(0, "10.2.0.9", clock::boot_ns() - 1_100_000_000)).await;
    assert_eq!(pod(&reported), None, "it began after this");
    tokio::time::sleep(Duration::from_millis(2_000)).await;
    let after_ns = clock::boot_ns();
    for (time_ns, expected) in [(after_ns, "second"), (before_ns, "first"), (after_ns, "second")] {
        let reported = agent.tell(Agent::anomaly_at(0, "10.2.0.9", time_ns)).await;
        assert_eq!(pod(&reported).as_deref(), Some(expected));
    }
}
