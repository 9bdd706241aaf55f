//! What fails below connections.

use tapio_occurrence::Data;

use super::kit::{Cluster, NODES, node_of};
use crate::incident::{Incident, Line};

const UNREACHABLE: &str = "network.connection_unreachable";

fn gateway() -> Data {
    Data::from([("gateway", "10.0.0.1".into()), ("device", "eth0".into())])
}

impl Cluster {
    /// A workload's newest pod cannot connect.
    fn cut_off(&mut self, name: &str) {
        for _ in 0..10 {
            let data = Data::from([("error", "EHOSTUNREACH".into()), ("direction", "outbound".into())]);
            self.agent(UNREACHABLE, name, 0, &format!("{name}: no route to host"), data);
            self.wait(5);
        }
        self.wait(60);
    }
}

#[track_caller]
fn is(incident: &Incident, root: &str, rule: &str) {
    assert_eq!(incident.root.as_ref().map(ToString::to_string).as_deref(), Some(root), "{incident:#?}");
    assert_eq!(incident.root_kind.as_deref(), Some("network"), "{incident:#?}");
    assert!(incident.chain.iter().any(|step| &*step.rule == rule), "{incident:#?}");
}

#[test]
fn the_gateway_of_a_node_is_why_its_pods_cannot_connect() {
    let mut cluster = Cluster::shop();
    let node = node_of(&cluster.newest("checkout"));
    cluster.of_node("link.neighbor_failed", node, gateway());
    cluster.wait(5);
    cluster.cut_off("checkout");
    is(&cluster.incident(), &format!("Node {node}"), "node-gateway-silent");
}

#[test]
fn the_gateway_of_a_pod_is_why_it_cannot_connect() {
    let mut cluster = Cluster::shop();
    cluster.agent("link.neighbor_failed", "checkout", 0, "checkout: gateway", gateway());
    cluster.wait(5);
    cluster.cut_off("checkout");
    let pod = cluster.newest("checkout");
    is(&cluster.why("checkout"), &format!("Pod shop/{pod}"), "gateway-silent");
}

/// The first pod is reported by itself, until others miss the same gateway.
#[test]
fn a_gateway_that_several_pods_miss_is_one_incident_of_their_node() {
    let mut cluster = Cluster::shop();
    let node = node_of(&cluster.newest("checkout"));
    cluster.agent("link.neighbor_failed", "checkout", 0, "checkout: gateway", gateway());
    let of_pods = || Data::from([("gateway", "10.0.0.1".into()), ("network_namespaces", 7u64.into())]);
    cluster.of_node("link.neighbor_failed", node, of_pods());
    cluster.wait(5);
    cluster.cut_off("checkout");
    let other = (0..NODES.len()).map(|_| cluster.pod("payments")).find(|pod| node_of(pod) == node).unwrap();
    cluster.condition("Pod", &other, "NotReady", "ContainersNotReady", "containers with unready status");
    cluster.wait(60);
    let incident = cluster.incident();
    is(&incident, &format!("Node {node}"), "gateway-of-pods");
    let unhealthy = "gateway-of-pods-unhealthy";
    assert!(incident.chain.iter().any(|step| &*step.rule == unhealthy), "{incident:#?}");
    assert!(incident.title.to_string().contains("because Node node-"), "{incident:#?}");
}

#[test]
fn another_gateway_that_a_pod_misses_is_its_own() {
    let mut cluster = Cluster::shop();
    let pod = cluster.newest("checkout");
    let of_pods = Data::from([("gateway", "10.9.0.1".into()), ("network_namespaces", 7u64.into())]);
    cluster.of_node("link.neighbor_failed", node_of(&pod), of_pods);
    cluster.agent("link.neighbor_failed", "checkout", 0, "checkout: gateway", gateway());
    cluster.wait(60);
    let is_of_pod = |incident: &Incident| {
        incident.root.as_ref().is_some_and(|root| root.to_string() == format!("Pod shop/{pod}"))
    };
    assert!(cluster.incidents().iter().any(is_of_pod), "{:#?}", cluster.incidents());
}

/// The kernel says of the new pods what Kubernetes only sees as a probe that fails, and a moment later. Whoever calls waits.
#[test]
fn a_rollout_that_accepts_too_slowly_is_said_to_in_the_order_of_time() {
    let mut cluster = Cluster::shop();
    cluster.roll_out("payments", "pay:2");
    let pod = cluster.newest("payments");
    cluster.warning_of("Pod", &pod, "Unhealthy", "Readiness probe failed");
    cluster.condition("Pod", &pod, "NotReady", "ContainersNotReady", "containers with unready status");
    cluster.endpoints("payments", false);
    cluster.wait(3);
    let data = Data::from([("dropped_connections", 90u64.into()), ("port", 8080u64.into())]);
    cluster.agent("link.listen_overflow", "payments", 0, "payments: 90 attempts were dropped", data);
    cluster.wait(20);
    cluster.connects("network.connection_timeout", "checkout", "payments", 40);
    cluster.wait(120);
    let incident = cluster.incident();
    let title = incident.title.to_string();
    assert!(
        title.contains("payments (shop) accepts connections too slowly since it was rolled out"),
        "{title}"
    );
    let times: Vec<_> = incident.lines.iter().map(|line| line.since_unix_ns).collect();
    assert!(times.len() > 3 && times.is_sorted(), "{incident:#?}");
    for step in &incident.chain {
        assert!(step.cause < step.effect, "{step:?} in {incident:#?}");
    }
}

/// Many nodes have a gateway of IPv6 that never answers.
#[test]
fn a_gateway_of_the_other_address_family_is_not_why() {
    let is_why = |gateway: &'static str| {
        let mut cluster = Cluster::shop();
        let node = node_of(&cluster.newest("checkout"));
        let data = Data::from([("gateway", gateway.into()), ("device", "eth0".into())]);
        cluster.of_node("link.neighbor_failed", node, data);
        cluster.wait(5);
        cluster.connects("network.connection_timeout", "checkout", "payments", 40);
        cluster.wait(60);
        let incident = cluster.why("checkout");
        incident.root.map(|root| root.to_string()) == Some(format!("Node {node}"))
    };
    assert!(is_why("10.0.0.1"));
    assert!(!is_why("fd00::1"));
}

/// Probes do not leave the node, whoever else does.
#[test]
fn the_gateway_of_the_node_is_not_why_its_kubelet_reaches_no_pod() {
    let mut cluster = Cluster::shop();
    for (name, node) in [("checkout", NODES[0]), ("stock", NODES[0]), ("payments", NODES[1])] {
        cluster.move_to(name, node);
    }
    cluster.of_node("link.neighbor_failed", NODES[0], gateway());
    cluster.wait(5);
    cluster.probed("network.connection_timeout", "stock", 10);
    cluster.connects("network.connection_timeout", "checkout", "payments", 40);
    cluster.wait(60);
    let incident = cluster.why("checkout");
    assert_eq!(incident.root.map(|root| root.to_string()), Some(format!("Node {}", NODES[0])));
    let is_probe = |line: &Line| line.kind == "network.connection_timeout" && line.entity.kind == "Node";
    assert!(!incident.lines.iter().any(is_probe), "{:#?}", incident.lines);
}

#[test]
fn the_gateway_of_the_node_is_not_why_pods_of_the_same_node_do_not_answer() {
    let mut cluster = Cluster::shop();
    ["checkout", "payments"].iter().for_each(|name| cluster.move_to(name, NODES[0]));
    cluster.of_node("link.neighbor_failed", NODES[0], gateway());
    cluster.wait(5);
    cluster.connects("network.connection_timeout", "checkout", "payments", 40);
    cluster.wait(60);
    let incident = cluster.why("checkout");
    assert!(!incident.has_cause, "{incident:#?}");
}

/// Its device is why; the kubelet, which probes it, is no victim of it.
#[test]
fn a_kubelet_whose_probes_fail_is_nobody_who_fails() {
    let mut cluster = Cluster::shop();
    for nth in 0..3 {
        let data =
            Data::from([("device", "eth0".into()), ("losses", 5u64.into()), ("window_ms", 60_000u64.into())]);
        cluster.agent("link.flapping", "payments", nth, "payments: eth0 lost its carrier 5 times", data);
    }
    let before = cluster.clone();
    cluster.connects("network.connection_timeout", "checkout", "payments", 40);
    cluster.probed("network.connection_timeout", "payments", 20);
    let incident = cluster.incident();
    assert!(incident.title.to_string().starts_with("checkout (shop) is failing"), "{incident:#?}");
    assert!(incident.hits.iter().all(|name| name.kind != "Unit"), "{incident:#?}");

    let mut cluster = before;
    cluster.probed("network.connection_timeout", "payments", 40);
    assert_eq!(cluster.incidents(), [], "of a probe alone");
}

#[test]
fn a_device_that_comes_and_goes_is_why_callers_of_its_pod_wait() {
    let mut cluster = Cluster::shop();
    for nth in 0..3 {
        let data =
            Data::from([("device", "eth0".into()), ("losses", 5u64.into()), ("window_ms", 60_000u64.into())]);
        cluster.agent("link.flapping", "payments", nth, "payments: eth0 lost its carrier 5 times", data);
    }
    cluster.connects("network.connection_timeout", "checkout", "payments", 40);
    cluster.wait(120);
    let incident = cluster.why("checkout");
    assert_eq!(incident.root_kind.as_deref(), Some("network"), "{incident:#?}");
    assert!(incident.root.as_ref().is_some_and(|root| root.to_string().starts_with("Pod shop/payments")));
    assert!(incident.chain.iter().any(|step| &*step.rule == "link-callers"), "{incident:#?}");
}
