//! The right pod: owners, late metadata, and nothing of other nodes.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Agent, PodKind, Shape, cluster_or_skip};

/// Of 3,000 pods on 100 nodes, the watch receives the 30 of this node.
#[tokio::test(flavor = "multi_thread")]
async fn the_watch_sees_its_own_node_only() {
    let cluster = cluster_or_skip!("the_watch_sees_its_own_node_only");
    let shapes = (0..3_000).map(|nth| {
        let (node, ip) = (format!("node-{}", nth % 100), format!("10.1.{}.{}", nth / 250, nth % 250 + 1));
        Shape::new(&format!("pod-{nth}"), &node, &ip)
    });
    cluster.node("node-7", "192.168.0.7").await;
    cluster.many_pods(shapes.collect()).await;

    let mut agent = Agent::synced(&cluster, "node-7").await;
    assert_eq!(agent.metric("tapio_kubernetes_objects_total", &[]), 30);
    assert_eq!(agent.health.status()["pods"], 30);
    // The watch does not report changes elsewhere; for this node it reports the pod's deletion in two steps.
    for nth in (8..3_000).step_by(100) {
        cluster.delete_pod(&format!("pod-{nth}")).await;
    }
    cluster.delete_pod("pod-107").await;
    crate::support::until(async || agent.health.status()["pods"].as_u64(), |pods| *pods == Some(29)).await;
    assert!(agent.metric("tapio_kubernetes_objects_total", &[]) <= 32);
    // Pods of this node are peers that need no lookup.
    let reported = agent.tell(Agent::anomaly(0, "10.1.0.8")).await;
    assert_eq!((&reported["peer"]["pod"], agent.requests()), (&json!("pod-7"), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sort_of_pod_has_its_owner() {
    let cluster = cluster_or_skip!("every_sort_of_pod_has_its_owner");
    cluster.node("node-a", "192.168.0.1").await;
    let mut agent = Agent::synced(&cluster, "node-a").await;
    let cases = [
        ("bare", PodKind::Bare, false, json!(null)),
        ("deployed", PodKind::Deployment, false, json!(["Deployment", "checkout"])),
        ("redis-0", PodKind::StatefulSet, false, json!(["StatefulSet", "redis"])),
        ("exporter", PodKind::DaemonSet, true, json!(["DaemonSet", "exporter"])),
        ("import", PodKind::Job, false, json!(["Job", "import-2"])),
        ("backup", PodKind::CronJob, false, json!(["CronJob", "backup"])),
        ("kube-proxy-node-a", PodKind::Static, true, json!(null)),
    ];
    for (nth, (name, kind, host_network, owner)) in cases.into_iter().enumerate() {
        let ip = if host_network { "192.168.0.1".to_owned() } else { format!("10.1.0.{}", nth + 1) };
        let shape = Shape { kind, host_network, ..Shape::new(name, "node-a", &ip) };
        let before = agent.metric("tapio_kubernetes_objects_total", &[]);
        let uid = cluster.pod(&shape).await;
        // The pod, and its status. An occurrence does not wait for long, and the machine may be busy.
        let known = async || agent.metric("tapio_kubernetes_objects_total", &[]);
        crate::support::until(known, |objects| *objects >= before + 2).await;
        let in_group = if matches!(kind, PodKind::Static) { Shape::STATIC_HASH } else { &uid };
        let cgroup_id = agent.cgroup(in_group, &shape.container_id());
        let reported = agent.tell(Agent::anomaly(cgroup_id, "127.0.0.1")).await;
        let mut expected = json!({
            "namespace": "shop", "pod": name, "pod_uid": uid, "container": "app",
            "container_id": shape.container_id(), "runtime": "containerd", "image": "registry.example/app:1",
        });
        if let Some([kind, name]) = owner.as_array().map(Vec::as_slice) {
            expected["owner_kind"] = kind.clone();
            expected["owner"] = name.clone();
        }
        assert_eq!(reported["workload"], expected);
        assert_eq!(reported["message"], format!("{name}: connection to 127.0.0.1:6379 was refused"));
    }
}

/// An occurrence in a container that the API does not know yet waits, without delaying others.
#[tokio::test(flavor = "multi_thread")]
async fn late_metadata_is_waited_for() {
    let cluster = cluster_or_skip!("late_metadata_is_waited_for");
    cluster.node("node-a", "192.168.0.1").await;
    let early = Shape::new("early", "node-a", "10.1.0.1");
    let uid = cluster.pod(&early).await;
    let mut agent = Agent::synced(&cluster, "node-a").await;
    let known = agent.cgroup(&uid, &early.container_id());

    let late = Shape::new("late", "node-a", "10.1.0.2");
    let uid = cluster.pod_without_status(&late).await;
    let start = Instant::now();
    agent.give(Agent::anomaly(agent.cgroup(&uid, &late.container_id()), "127.0.0.1"));
    // It delays others only by the walk over the cgroups.
    let reported = agent.tell(Agent::anomaly(known, "127.0.0.1")).await;
    assert_eq!(reported["workload"]["pod"], "early");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.report(&late).await;
    let reported = agent.reported().await;
    assert_eq!(
        (&reported["workload"]["pod"], &reported["workload"]["container"]),
        (&json!("late"), &json!("app"))
    );
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());

    // The container's metadata never arrives: the occurrence goes out with the pod's names after two seconds.
    let start = Instant::now();
    let never = agent.cgroup(&uid, &"ab".repeat(32));
    let reported = agent.tell(Agent::anomaly(never, "127.0.0.1")).await;
    assert_eq!((&reported["workload"]["pod"], reported["workload"].get("container")), (&json!("late"), None));
    let waited = start.elapsed();
    assert!(waited > Duration::from_millis(1_900) && waited < Duration::from_secs(3), "{waited:?}");
    assert_eq!(agent.metric("tapio_unresolved_total", &[r#"name="workload""#, r#"reason="late""#]), 1);
    assert!(agent.stop().await.is_empty());
}

/// An event in a pod that has been deleted since.
#[tokio::test(flavor = "multi_thread")]
async fn deleted_pods_stay_known() {
    let cluster = cluster_or_skip!("deleted_pods_stay_known");
    cluster.node("node-a", "192.168.0.1").await;
    let shape = Shape::new("gone", "node-a", "10.1.0.1");
    let uid = cluster.pod(&shape).await;
    let mut agent = Agent::synced(&cluster, "node-a").await;
    let cgroup_id = agent.cgroup(&uid, &shape.container_id());
    cluster.delete_pod("gone").await;
    crate::support::until(async || agent.health.status()["pods"].as_u64(), |pods| *pods == Some(0)).await;
    let reported = agent.tell(Agent::anomaly(cgroup_id, "127.0.0.1")).await;
    assert_eq!(reported["workload"]["container"], "app");
    // Also after the server, and with it the watch, restarted.
    tokio::task::block_in_place(|| {
        cluster.server.program("kube-apiserver").stop().unwrap();
        cluster.server.resume().unwrap();
    });
    crate::support::until(async || agent.state(), |state| state == "running").await;
    let reported = agent.tell(Agent::anomaly(cgroup_id, "127.0.0.1")).await;
    assert_eq!(reported["workload"]["container"], "app");
}
