//! Faults of the state of Kubernetes: what the API server says, and what changed before it.

use tapio_occurrence::{
    Data,
    feedback::{Feedback, Verdict},
    kubernetes::{Aspect, Pair, Verb, condition},
    signal::{ERRORS, STARVATION},
};

use super::kit::{Cluster, field};
use crate::incident::{Certainty, Incident};

#[track_caller]
fn is(incident: &Incident, root: &str, kind: &str) {
    let found = (
        incident.root.as_ref().map(ToString::to_string).unwrap_or_default(),
        incident.root_kind.clone().unwrap_or_default(),
    );
    assert_eq!(found, (root.to_owned(), kind.to_owned()), "{incident:#?}");
    assert!(incident.certainty >= Certainty::Likely, "{incident:#?}");
}

/// No probe of the newest pod succeeds for two minutes.
fn unhealthy(cluster: &mut Cluster, name: &str, text: &str) {
    let pod = cluster.newest(name);
    for _ in 0..12 {
        cluster.warning_of("Pod", &pod, "Unhealthy", text);
        cluster.wait(10);
    }
}

#[test]
fn a_probe_that_asks_another_port() {
    let mut cluster = Cluster::shop();
    let path = "spec.template.spec.containers.app.readinessProbe.httpGet.port";
    cluster.roll_out_with("payments", vec![field(path, Aspect::Probe, "8080", "8081")]);
    let pod = cluster.newest("payments");
    cluster.condition("Pod", &pod, condition::NOT_READY, "ContainersNotReady", "");
    unhealthy(&mut cluster, "payments", "Readiness probe failed: connection refused");
    is(&cluster.why("payments"), "Deployment shop/payments", "rollout");
}

#[test]
fn one_failed_probe_at_the_start_is_no_incident() {
    let mut cluster = Cluster::shop();
    cluster.roll_out("payments", "pay:2");
    let pod = cluster.newest("payments");
    cluster.warning_of("Pod", &pod, "Unhealthy", "Readiness probe failed: connection refused");
    cluster.wait(600);
    assert_eq!(cluster.incidents(), []);
}

#[test]
fn a_first_process_that_does_not_fit_into_its_limit() {
    let mut cluster = Cluster::shop();
    cluster.limit("payments", "512Mi", "5Mi");
    let pod = cluster.newest("payments");
    let text = "Failed to create pod sandbox: container init was OOM-killed (memory limit too low?)";
    cluster.warning_of("Pod", &pod, "FailedCreatePodSandBox", text);
    cluster.wait(60);
    is(&cluster.incident(), "Deployment shop/payments", "rollout");
}

#[test]
fn a_quota_that_is_used_up() {
    let mut cluster = Cluster::shop();
    cluster.changed("ResourceQuota", "pods", Verb::Created, Vec::new());
    cluster.condition("ResourceQuota", "pods", condition::USED_UP, "", "pods: 15 of 15 used");
    cluster.roll_out("payments", "pay:2");
    let text = "pods \"payments-2-x\" is forbidden: exceeded quota: pods, requested: pods=1, used: pods=15, limited: pods=15";
    cluster.condition("ReplicaSet", "payments-2", condition::REPLICA_FAILURE, "FailedCreate", text);
    cluster.wait(60);
    is(&cluster.why("payments"), "ResourceQuota shop/pods", "quota");
}

#[test]
fn a_service_that_a_quota_does_not_let_come_back() {
    let mut cluster = Cluster::shop();
    cluster.changed("ResourceQuota", "services", Verb::Created, Vec::new());
    cluster.condition("ResourceQuota", "services", condition::USED_UP, "", "services: 4 of 4 used");
    cluster.changed("Service", "payments", Verb::Deleted, Vec::new());
    cluster.wait(20);
    cluster.refused("checkout", "payments", 40);
    cluster.wait(60);
    is(&cluster.why("checkout"), "ResourceQuota shop/services", "quota");
}

#[test]
fn a_service_account_that_does_not_exist() {
    let mut cluster = Cluster::shop();
    let path = "spec.template.spec.serviceAccountName";
    cluster.roll_out_with("payments", vec![field(path, Aspect::Security, "pay", "pays")]);
    let text = "error looking up service account shop/pays: serviceaccount \"pays\" not found";
    cluster.condition("ReplicaSet", "payments-2", condition::REPLICA_FAILURE, "FailedCreate", text);
    cluster.wait(60);
    is(&cluster.why("payments"), "Deployment shop/payments", "rollout");
}

/// Pods of payments that no node takes, after they were bound to the only node with a label.
fn bound_to_a_label(cluster: &mut Cluster, text: &str) {
    cluster.labelled_node("node-2", Pair { key: "disk".to_owned(), value: "ssd".to_owned() });
    let path = "spec.template.spec.nodeSelector.disk";
    cluster.roll_out_with("payments", vec![field(path, Aspect::Placement, "", "ssd")]);
    let pod = cluster.newest("payments");
    cluster.condition("Pod", &pod, condition::UNSCHEDULABLE, "Unschedulable", text);
    cluster.wait(60);
}

#[test]
fn where_a_node_fits_it_is_the_taint_that_keeps_pods_away() {
    let mut cluster = Cluster::shop();
    cluster.changed(
        "Node",
        "node-2",
        Verb::Updated,
        vec![field("spec.taints.dedicated", Aspect::Node, "", "dedicated")],
    );
    let text = "0/3 nodes are available: 1 node(s) had untolerated taint {dedicated: }, 2 node(s) didn't match Pod's node affinity/selector.";
    bound_to_a_label(&mut cluster, text);
    is(&cluster.why("payments"), "Node node-2", "node");
}

#[test]
fn where_no_node_fits_it_is_what_the_pods_ask_for() {
    let mut cluster = Cluster::shop();
    cluster.labelled_node("node-2", Pair { key: "disk".to_owned(), value: "hdd".to_owned() });
    let path = "spec.template.spec.nodeSelector.disk";
    cluster.roll_out_with("payments", vec![field(path, Aspect::Placement, "", "ssd")]);
    let pod = cluster.newest("payments");
    let text = "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.";
    cluster.condition("Pod", &pod, condition::UNSCHEDULABLE, "Unschedulable", text);
    cluster.wait(60);
    is(&cluster.why("payments"), "Deployment shop/payments", "rollout");
}

#[test]
fn a_change_of_memory_does_not_explain_a_claim_that_is_not_bound() {
    let mut cluster = Cluster::shop();
    cluster.limit("payments", "512Mi", "256Mi");
    let pod = cluster.newest("payments");
    let text = "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.";
    cluster.condition("Pod", &pod, condition::UNSCHEDULABLE, "Unschedulable", text);
    cluster.wait(60);
    let incident = cluster.why("payments");
    assert_eq!(incident.root_kind.as_deref(), Some("scheduling"), "{incident:#?}");
}

#[test]
fn of_changes_that_were_made_together_it_is_the_one_that_explains() {
    let mut cluster = Cluster::shop();
    let image = "spec.template.spec.containers.app.image";
    for name in ["checkout", "gateway", "stock"] {
        cluster.changed_in("apply-1", "Deployment", name, vec![field(image, Aspect::Image, "a", "b")]);
    }
    let path = "spec.template.spec.serviceAccountName";
    cluster.changed_in(
        "apply-1",
        "Deployment",
        "payments",
        vec![field(path, Aspect::Security, "pay", "pays")],
    );
    let text = "error looking up service account shop/pays: serviceaccount \"pays\" not found";
    cluster.condition("ReplicaSet", "payments-1", condition::REPLICA_FAILURE, "FailedCreate", text);
    cluster.wait(60);
    is(&cluster.why("payments"), "Deployment shop/payments", "rollout");
}

#[test]
fn a_port_that_no_container_has() {
    let mut cluster = Cluster::shop();
    cluster.edit("Service", "payments", Aspect::Ports, "8080", "http-web");
    cluster.condition("Service", "payments", condition::NO_ENDPOINTS, "NoEndpoints", "");
    cluster.wait(20);
    cluster.refused("checkout", "payments", 40);
    cluster.wait(60);
    is(&cluster.incident(), "Service shop/payments", "service");
}

#[test]
fn a_service_of_a_node_that_was_stopped() {
    let mut cluster = Cluster::shop();
    cluster.of_node("node.service_stopped", "node-1", Data::from([("unit", "kubelet.service".into())]));
    cluster.wait(40);
    cluster.condition(
        "Node",
        "node-1",
        condition::NODE_NOT_READY,
        "NodeStatusUnknown",
        "Kubelet stopped posting",
    );
    cluster.wait(60);
    is(&cluster.incident(), "Node node-1", "daemon");
}

/// The rollout is innocent: a node without kube-proxy does not learn of the new pods.
#[test]
fn a_rollout_after_the_kube_proxy_of_its_callers_was_stopped() {
    let mut cluster = Cluster::shop();
    let of_proxy = Data::from([("unit", "kube-proxy.service".into()), ("since_ms", 16_000u64.into())]);
    for node in ["node-1", "node-2"] {
        cluster.of_node("node.service_stopped", node, of_proxy.clone());
    }
    cluster.wait(120);
    cluster.roll_out("payments", "pay:2");
    cluster.wait(20);
    cluster.connects("network.connection_unreachable", "checkout", "payments", 40);
    cluster.wait(60);
    let incident = cluster.incident();
    assert_eq!(incident.root_kind.as_deref(), Some("daemon"), "{incident:#?}");
    let command = incident.advice[0].command.as_ref().map(ToString::to_string);
    assert!(command.is_some_and(|command| command.contains("systemctl start kube-proxy.service")));
}

#[test]
fn an_incident_that_is_over_keeps_its_story() {
    let mut cluster = Cluster::shop();
    cluster.limit("payments", "512Mi", "128Mi");
    cluster.oom_of("payments", 0, 128 << 20);
    cluster.refused("checkout", "payments", 40);
    cluster.wait(60);
    let open = cluster.incident();
    // Another symptom that ends later.
    cluster.wait(400);
    cluster.connects("network.connection_timeout", "gateway", "checkout", 40);
    cluster.wait(1_200);
    let over = cluster.why("checkout");
    assert_eq!((over.root, over.lines.len() >= open.lines.len()), (open.root, true));
}

#[test]
fn a_slow_connection_is_of_the_end_of_which_more_connections_are_slow() {
    let mut cluster = Cluster::shop();
    // Checkout connects to payments and stock, and gateway to checkout.
    cluster.connects("network.rtt_shift", "checkout", "payments", 40);
    is_at(&cluster, "Deployment shop/payments");
    let mut cluster = Cluster::shop();
    for (client, server) in [("checkout", "payments"), ("checkout", "stock"), ("gateway", "checkout")] {
        cluster.connects("network.rtt_shift", client, server, 40);
    }
    is_at(&cluster, "Deployment shop/checkout");
}

#[track_caller]
fn is_at(cluster: &Cluster, expected: &str) {
    let causes = cluster.run().causes(0, None);
    let first = causes.first().map(|cause| cause.workload.to_string());
    assert_eq!(first.as_deref(), Some(expected), "{causes:#?}");
}

#[test]
fn where_new_pods_serve_without_errors_their_rollout_is_not_blamed() {
    let mut cluster = Cluster::shop();
    cluster.roll_out("stock", "stock:2");
    let image = "spec.template.spec.containers.app.image";
    cluster.canary("payments", vec![field(image, Aspect::Image, "a", "b")]);
    let since_ns = cluster.now_ns;
    for _ in 0..4 {
        cluster.wait(60);
        // The newest pod, not the older ones.
        cluster.signal_of(ERRORS, "payments", None, since_ns, 1);
    }
    is_at(&cluster, "Deployment shop/payments");
    let mut cluster = Cluster::shop();
    cluster.canary("payments", vec![field(image, Aspect::Image, "a", "b")]);
    let since_ns = cluster.now_ns;
    for _ in 0..4 {
        cluster.wait(60);
        cluster.signal(ERRORS, "payments", None, since_ns);
    }
    let certainty = cluster.why("payments").certainty;
    assert_eq!(certainty, Certainty::Inconclusive, "old pods fail as well");
}

#[test]
fn an_unknown_cause_is_closest_where_the_calls_end() {
    let mut cluster = Cluster::shop();
    cluster.signals(&[(ERRORS, "gateway", None), (ERRORS, "checkout", None), (ERRORS, "payments", None)], 2);
    let incident = cluster.why("gateway");
    assert!(!incident.has_cause, "{incident:#?}");
    assert_eq!(incident.considered[0].workload.name, "payments", "{incident:#?}");
}

#[test]
fn behind_a_broken_caller_it_is_quiet() {
    let mut cluster = Cluster::shop();
    cluster.signals(&[(ERRORS, "checkout", None), (STARVATION, "stock", None)], 2);
    let incident = cluster.why("checkout");
    let rules: Vec<_> = incident.chain.iter().map(|step| &*step.rule).collect();
    assert_eq!(rules, ["signal-starved"], "{incident:#?}");
}

#[test]
fn where_answers_were_often_wrong_an_unlikely_cause_is_not_named() {
    let mut cluster = Cluster::shop();
    let fails = |cluster: &mut Cluster| {
        cluster.roll_out("payments", "pay:2");
        let pod = cluster.newest("payments");
        cluster.condition("Pod", &pod, condition::NOT_READY, "ContainersNotReady", "");
        unhealthy(cluster, "payments", "Readiness probe failed: connection refused");
    };
    for nth in 0..20 {
        let verdict = Feedback {
            incident: format!("TAP-{nth}"),
            fingerprint: format!("v1:rollout:{nth}"),
            cause: None,
            verdict: Verdict::Wrong,
            chance: Some(0.9),
            note: None,
        };
        cluster.portti(&verdict, "wrong");
    }
    fails(&mut cluster);
    let incident = cluster.incident();
    let chance = incident.lead.unwrap().chance;
    assert!(chance.percent < 50 && chance.judged == 20, "{chance:?}");
    assert_eq!((incident.has_cause, incident.root.clone(), &*incident.advice), (false, None, &[][..]));
    let text = crate::answer::text(&incident, &crate::incident::Coverage::default());
    assert!(text.contains("the cause is not known"), "{text}");
    assert!(text.contains("CAUSE     not known; closest: Deployment shop/payments"), "{text}");

    let mut cluster = Cluster::shop();
    fails(&mut cluster);
    let text = crate::answer::text(&cluster.incident(), &crate::incident::Coverage::default());
    assert!(text.contains(" %\nCAUSE"), "{text}");
}
