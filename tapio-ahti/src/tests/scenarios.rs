//! Failures with known causes, and what must not be taken for one.

use tapio_occurrence::{
    Data, Outcome, Severity,
    kubernetes::{Aspect, Object, Reference, Verb, condition},
};

use super::kit::{Cluster, NODES};
use crate::incident::{Certainty, Incident, Status};

#[track_caller]
fn is(incident: &Incident, root: &str, kind: &str, certainty: Certainty) {
    let found = (
        incident.root.as_ref().map(ToString::to_string).unwrap_or_default(),
        incident.root_kind.clone().unwrap_or_default(),
        incident.certainty,
    );
    assert_eq!(found, (root.to_owned(), kind.to_owned(), certainty), "{incident:#?}");
}

#[test]
fn a_rollout_that_is_oom_killed_and_refuses_its_callers() {
    let mut cluster = Cluster::shop();
    cluster.roll_out("payments", "pay:2");
    cluster.wait(120);
    cluster.oom("payments");
    cluster.wait(5);
    cluster.refused("checkout", "payments", 40);
    cluster.wait(30);
    let incident = cluster.incident();
    is(&incident, "Deployment shop/payments", "rollout", Certainty::Likely);
    assert_eq!(
        incident.title,
        "checkout (shop) is failing because payments (shop) is OOM-killed since it was rolled out"
    );
    assert_eq!(incident, cluster.why("checkout"));
    let chain: Vec<_> = incident.chain.iter().map(|step| &*step.rule).collect();
    assert_eq!(chain, ["rollout-oom", "dead-refused"]);
    assert!(incident.missing.is_empty(), "{incident:#?}");
    assert!(incident.at_risk.iter().any(|name| name.name == "gateway"), "{incident:#?}");
}

#[test]
fn a_limit_that_was_lowered_is_proved() {
    let mut cluster = Cluster::shop();
    cluster.limit("payments", "512Mi", "128Mi");
    cluster.wait(10);
    cluster.oom_of("payments", 0, 128 << 20);
    cluster.refused("checkout", "payments", 40);
    cluster.wait(40);
    is(&cluster.incident(), "Deployment shop/payments", "rollout", Certainty::Confirmed);
}

/// The clock of one node after the other, early or late.
#[test]
fn a_clock_that_is_five_seconds_off() {
    for node in NODES {
        for (late_ns, early_ns) in [(5_000_000_000, 0), (0, 5_000_000_000)] {
            let mut cluster = Cluster::shop();
            cluster.roll_out("payments", "pay:2");
            cluster.wait(20);
            cluster.oom("payments");
            cluster.wait(2);
            cluster.refused("checkout", "payments", 40);
            cluster.wait(60);
            for fact in cluster.facts.iter_mut().filter(|fact| *fact.node == *node) {
                fact.time_unix_ns = fact.time_unix_ns + late_ns - early_ns;
            }
            is(&cluster.incident(), "Deployment shop/payments", "rollout", Certainty::Likely);
        }
    }
}

#[test]
fn memory_that_grew_in_every_revision_is_no_fault_of_an_old_rollout() {
    let mut cluster = Cluster::shop();
    cluster.wait(7_200);
    cluster.oom("payments");
    cluster.refused("checkout", "payments", 40);
    cluster.wait(40);
    let incident = cluster.incident();
    is(&incident, "Pod shop/payments-1-9", "memory", Certainty::Likely);
    assert!(incident.ruled_out.iter().any(|text| *text == "a rollout of payments"), "{incident:#?}");
}

#[test]
fn an_innocent_rollout_of_another_workload_is_not_blamed() {
    let mut cluster = Cluster::shop();
    cluster.roll_out("stock", "stock:2");
    cluster.wait(60);
    cluster.oom("payments");
    cluster.refused("checkout", "payments", 40);
    cluster.wait(40);
    let incident = cluster.incident();
    is(&incident, "Pod shop/payments-1-9", "memory", Certainty::Likely);
}

#[test]
fn a_rollout_is_not_blamed_for_what_old_pods_did_before() {
    let mut cluster = Cluster::shop();
    cluster.oom("payments");
    cluster.wait(1_200);
    cluster.roll_out("payments", "pay:2");
    cluster.wait(600);
    cluster.oom("payments");
    cluster.wait(60);
    let incident = cluster.why("payments");
    assert_eq!(incident.root_kind.as_deref(), Some("memory"), "{incident:#?}");
}

#[test]
fn a_bad_command() {
    let mut cluster = Cluster::shop();
    let fields = vec![tapio_occurrence::kubernetes::Field {
        path: "spec.template.spec.containers.app.command".to_owned(),
        aspect: Aspect::Command,
        from: None,
        to: Some("[\"/nothing\"]".to_owned()),
    }];
    cluster.roll_out_with("payments", fields);
    let data = || Data::from([("status", 127u64.into())]);
    cluster.agent("container.exit_error", "payments", 0, "payments exited with 127", data());
    cluster.wait(20);
    let pod = cluster.newest("payments");
    cluster.condition(
        "Pod",
        &pod,
        condition::WAITING,
        "CrashLoopBackOff",
        "back-off 10s restarting failed container",
    );
    cluster.agent("container.exit_error", "payments", 0, "payments exited with 127", data());
    cluster.wait(60);
    is(&cluster.incident(), "Deployment shop/payments", "rollout", Certainty::Confirmed);
}

#[test]
fn an_image_that_is_not_there() {
    let mut cluster = Cluster::shop();
    cluster.roll_out("payments", "registry/pay:nothing");
    let pod = cluster.newest("payments");
    let text = "Back-off pulling image \"registry/pay:nothing\"";
    cluster.condition("Pod", &pod, condition::WAITING, "ImagePullBackOff", text);
    cluster.wait(60);
    is(&cluster.incident(), "Deployment shop/payments", "rollout", Certainty::Confirmed);
}

#[test]
fn a_selector_that_was_edited() {
    let mut cluster = Cluster::shop();
    cluster.reselect("payments", "payment");
    cluster.wait(1);
    cluster.condition("Service", "payments", condition::NO_ENDPOINTS, "NoEndpoints", "");
    cluster.refused("checkout", "payments", 40);
    cluster.wait(60);
    let incident = cluster.incident();
    is(&incident, "Service shop/payments", "service", Certainty::Confirmed);
}

/// Which of the three it was does not matter: it is the same edit.
#[test]
fn a_selector_that_was_edited_and_restored_and_edited_again() {
    let failing = |edits: &[[&str; 2]]| {
        let mut cluster = Cluster::shop();
        for (nth, [from, to]) in edits.iter().enumerate() {
            let reason = ["NoEndpoints", ""][nth % 2];
            cluster.edit_selector("payments", from, to);
            cluster.wait(1);
            if reason.is_empty() {
                cluster.endpoints("payments", true);
            } else {
                cluster.condition("Service", "payments", condition::NO_ENDPOINTS, reason, "");
                cluster.refused("checkout", "payments", 40);
            }
            cluster.wait(40);
        }
        cluster.incident()
    };
    let again = failing(&[["payments", "payment"], ["payment", "payments"], ["payments", "payment"]]);
    is(&again, "Service shop/payments", "service", Certainty::Confirmed);
    let other = failing(&[["payments", "payment"], ["payment", "payments"], ["payments", "pay"]]);
    assert_eq!(other.certainty, Certainty::Inconclusive, "{other:#?}");
}

/// Whether it was the edit, or that it was taken back, nobody can say.
#[test]
fn an_edit_and_its_revert_are_rivals() {
    let mut cluster = Cluster::shop();
    for (from, to) in [("payments", "payment"), ("payment", "payments")] {
        cluster.edit_selector("payments", from, to);
        cluster.wait(20);
    }
    cluster.condition("Service", "payments", condition::NO_ENDPOINTS, "NoEndpoints", "");
    cluster.refused("checkout", "payments", 40);
    cluster.wait(40);
    let incident = cluster.incident();
    assert_eq!(incident.certainty, Certainty::Inconclusive, "{incident:#?}");
}

#[test]
fn scaling_to_zero() {
    let mut cluster = Cluster::shop();
    cluster.scale_to_zero("payments");
    cluster.condition("Service", "payments", condition::NO_ENDPOINTS, "NoEndpoints", "");
    cluster.refused("checkout", "payments", 40);
    cluster.wait(60);
    is(&cluster.incident(), "Deployment shop/payments", "scaling", Certainty::Confirmed);
}

#[test]
fn a_configuration_that_was_edited() {
    let mut cluster = Cluster::shop();
    cluster.edit("ConfigMap", "payments-config", Aspect::Data, "h:1", "h:2");
    cluster.wait(90);
    for _ in 0..3 {
        let data = Data::from([("status", 1u64.into())]);
        cluster.agent("container.exit_error", "payments", 0, "payments exited with 1", data);
        cluster.wait(20);
    }
    cluster.wait(60);
    is(&cluster.incident(), "ConfigMap shop/payments-config", "configuration", Certainty::Likely);
}

#[test]
fn a_policy_that_cuts() {
    let mut cluster = Cluster::shop();
    cluster.changed("NetworkPolicy", "deny", Verb::Created, Vec::new());
    cluster.wait(20);
    cluster.connects("network.connection_timeout", "checkout", "payments", 40);
    cluster.wait(60);
    let incident = cluster.incident();
    assert_eq!(
        incident.root.as_ref().map(ToString::to_string).as_deref(),
        Some("NetworkPolicy shop/deny"),
        "{incident:#?}"
    );
    let title = "checkout (shop) is failing because NetworkPolicy deny (shop) was created";
    assert_eq!(incident.title.to_string(), title);
    assert!(incident.advice[0].command.is_some(), "{incident:#?}");
}

#[test]
fn somebody_who_kills() {
    let mut cluster = Cluster::shop();
    cluster.killed("payments", "kill");
    cluster.refused("checkout", "payments", 40);
    cluster.wait(40);
    is(&cluster.incident(), "Pod shop/payments-1-9", "kill", Certainty::Likely);
}

#[test]
fn where_nobody_looks_the_cause_is_not_known_and_it_says_what_is_missing() {
    let mut cluster = Cluster::shop();
    cluster.dark = vec!["node-1"];
    cluster.wait(300);
    // Of the pods behind it only one failed, on the node that nobody looks at.
    cluster.oom("payments");
    let before = cluster.facts.len();
    cluster.refused("checkout", "payments", 40);
    cluster.wait(60);
    assert!(cluster.facts.len() > before);
    let incident = cluster.incident();
    assert_eq!(incident.certainty, Certainty::Inconclusive, "{incident:#?}");
    assert!(!incident.has_cause);
    assert!(incident.missing.iter().any(|text| *text == "no agent on node-1"), "{incident:#?}");
}

#[test]
fn healthy_rollouts_scaling_and_noise_are_no_incident() {
    let mut cluster = Cluster::shop();
    for name in ["payments", "checkout", "stock"] {
        cluster.roll_out(name, "new");
        // Connections to pods that end.
        cluster.connects("network.connection_refused", "gateway", "checkout", 4);
        cluster.warning("Pod", &cluster.newest(name), "Unhealthy");
        cluster.wait(120);
    }
    cluster.edit("Deployment", "stock", Aspect::Replicas, "3", "5");
    cluster.wait(600);
    assert_eq!(cluster.incidents(), []);
}

#[test]
fn an_incident_is_resolved_and_comes_back() {
    let mut cluster = Cluster::shop();
    let fail = |cluster: &mut Cluster| {
        cluster.oom("payments");
        cluster.refused("checkout", "payments", 40);
    };
    fail(&mut cluster);
    cluster.wait(60);
    assert_eq!(cluster.incident().status, Status::Open);
    cluster.wait(1_200);
    let over = cluster.incident();
    assert_eq!(over.status, Status::Resolved);
    let after_last =
        over.resolved_unix_ns.unwrap() - over.lines.iter().map(|line| line.last_unix_ns).max().unwrap();
    assert_eq!(after_last, 300_000_000_000);
    fail(&mut cluster);
    cluster.wait(60);
    let again = cluster.incident();
    assert_eq!((again.status, &again.id), (Status::Regressed, &over.id));
    assert!(again.revision > over.revision);
}

/// An agent reports the first failure, then how many followed until when, and at last what it expects and leaves out.
#[test]
fn what_agents_fold_lasts_as_long_as_they_say() {
    let refused = |cluster: &mut Cluster, count, more: &[(&'static str, u64)]| {
        cluster.refused_once("checkout", "payments");
        let fact = cluster.facts.last_mut().unwrap();
        fact.count = count;
        more.iter().for_each(|(key, value)| fact.data.push(*key, *value));
    };
    let mut cluster = Cluster::shop();
    refused(&mut cluster, 1, &[]);
    cluster.now_ns += 1_000_000_000;
    refused(&mut cluster, 11, &[]);
    cluster.wait(120);
    assert_eq!(cluster.incidents(), [], "all within a second");
    let fact = cluster.facts.iter_mut().rfind(|fact| fact.count == 11).unwrap();
    fact.data.push("until_ms", 29_500u64);
    assert_eq!(cluster.incident().status, Status::Open);
    refused(&mut cluster, 44, &[("until_ms", 110_000), ("expected_per_minute", 22)]);
    cluster.wait(3_000);
    let incident = cluster.incident();
    assert_eq!(incident.status, Status::Open, "they go on and are not reported");
    assert!(incident.lines.iter().all(|line| line.last_unix_ns <= cluster.now_ns), "{incident:#?}");
    let mut stopped = cluster.clone();
    cluster.wait(1_200);
    assert_eq!(
        cluster.incident().status,
        Status::Resolved,
        "an agent that started anew does not say when they stop"
    );
    refused(&mut stopped, 1, &[("stopped_ms", 1_000), ("expected_count", 7)]);
    let fact = stopped.facts.last_mut().unwrap();
    (fact.severity, fact.outcome) = (Severity::Info, Outcome::Success);
    fact.time_unix_ns -= 2_800_000_000_000;
    let last_ns = fact.time_unix_ns;
    let over = stopped.incident();
    assert_eq!(over.status, Status::Resolved, "they have stopped");
    assert_eq!(over.resolved_unix_ns, Some(last_ns + 300_000_000_000));
}

#[test]
fn two_faults_at_once_are_two_incidents() {
    let mut cluster = Cluster::shop();
    cluster.limit("payments", "512Mi", "128Mi");
    cluster.roll_out("stock", "registry/stock:nothing");
    let pod = cluster.newest("stock");
    let text = "Back-off pulling image \"registry/stock:nothing\"";
    cluster.condition("Pod", &pod, condition::WAITING, "ImagePullBackOff", text);
    cluster.oom_of("payments", 0, 128 << 20);
    cluster.refused("checkout", "payments", 40);
    cluster.wait(60);
    let incidents = cluster.incidents();
    let roots: Vec<_> =
        incidents.iter().map(|incident| incident.root.as_ref().unwrap().name.clone()).collect();
    assert_eq!(roots.len(), 2, "{incidents:#?}");
    is(&cluster.why("payments"), "Deployment shop/payments", "rollout", Certainty::Confirmed);
    is(&cluster.why("stock"), "Deployment shop/stock", "rollout", Certainty::Confirmed);
}

#[test]
fn a_chain_of_four_hops() {
    let mut cluster = Cluster::shop();
    cluster.limit("db", "512Mi", "128Mi");
    cluster.oom_of("db", 0, 128 << 20);
    cluster.refused("payments", "db", 40);
    cluster.agent(
        "container.exit_error",
        "payments",
        0,
        "payments exited with 1",
        Data::from([("status", 1u64.into())]),
    );
    cluster.refused("checkout", "payments", 40);
    cluster.agent(
        "container.exit_error",
        "checkout",
        0,
        "checkout exited with 1",
        Data::from([("status", 1u64.into())]),
    );
    cluster.refused("gateway", "checkout", 40);
    cluster.wait(60);
    let incident = cluster.incident();
    is(&incident, "Deployment shop/db", "rollout", Certainty::Confirmed);
    assert_eq!(
        incident.title,
        "gateway (shop) is failing because db (shop) is OOM-killed since it was rolled out"
    );
    let rules: Vec<_> = incident.chain.iter().map(|step| &*step.rule).collect();
    assert_eq!(rules, ["rollout-oom", "dead-refused", "cascade", "dead-refused", "cascade", "dead-refused"]);
}

/// A server that answers its callers with errors shows nothing in the kernel.
#[test]
fn who_calls_somebody_who_fails_is_told_so() {
    let mut cluster = Cluster::shop();
    cluster.limit("db", "512Mi", "128Mi");
    cluster.oom_of("db", 0, 128 << 20);
    cluster.refused("payments", "db", 40);
    cluster.wait(60);
    let mut engine = cluster.run();
    let own = engine.why(Some("deploy"), Some("shop"), "payments");
    let of_caller = engine.why(Some("deploy"), Some("shop"), "gateway");
    assert_eq!((own.needs, &own.incident), (None, &of_caller.incident));
    assert_eq!(of_caller.needs.as_ref().map(|needs| &*needs.name), Some("payments"));
    let first = "Deployment shop/gateway has no incident of its own. It calls Deployment shop/payments, directly or through others:\n";
    assert!(of_caller.text().starts_with(first), "{}", of_caller.text());
    let other = engine.why(Some("deploy"), Some("shop"), "stock");
    assert_eq!((other.needs, other.incident), (None, None), "it calls nobody");
}

#[test]
fn a_policy_for_other_pods_is_not_blamed() {
    let mut cluster = Cluster::shop();
    cluster.scale_to_zero("payments");
    cluster.edit("ConfigMap", "stock-config", Aspect::Data, "h:1", "h:2");
    cluster.condition("Service", "payments", condition::NO_ENDPOINTS, "NoEndpoints", "");
    cluster.refused("checkout", "payments", 40);
    cluster.wait(60);
    is(&cluster.incident(), "Deployment shop/payments", "scaling", Certainty::Confirmed);
}

#[test]
fn conditions_end_with_their_object() {
    let mut cluster = Cluster::shop();
    let pod = cluster.newest("stock");
    cluster.condition("Pod", &pod, condition::NOT_READY, "ContainersNotReady", "");
    cluster.wait(10);
    cluster.delete("Pod", &pod);
    cluster.wait(600);
    assert_eq!(cluster.incidents(), []);
}

#[test]
fn one_exit_is_no_incident() {
    let mut cluster = Cluster::shop();
    let data = Data::from([("status", 1u64.into())]);
    cluster.agent("container.exit_error", "payments", 0, "payments exited with 1", data);
    cluster.wait(600);
    assert_eq!(cluster.incidents(), []);
}

#[test]
fn the_same_on_several_pods_is_one_incident() {
    let mut cluster = Cluster::shop();
    for nth in 0..3 {
        let data = Data::from([("signal", "SIGSEGV".into())]);
        cluster.agent("container.crash", "payments", nth, "payments crashed", data);
    }
    cluster.wait(60);
    let incident = cluster.incident();
    assert_eq!(
        (incident.lines.len(), incident.lines[0].count, incident.lines[0].pods),
        (1, 3, 3),
        "{incident:#?}"
    );
    assert_eq!(incident.title, "payments (shop) crashes");
}

#[test]
fn refusals_that_began_with_the_rollout_itself_are_explained_by_what_most_came_after() {
    let mut cluster = Cluster::shop();
    cluster.roll_out("checkout", "checkout:2");
    cluster.wait(90);
    cluster.roll_out("payments", "pay:2");
    // The old pods end.
    cluster.refused_once("checkout", "payments");
    cluster.wait(12);
    for nth in 0..3 {
        cluster.oom_of("payments", nth, 512 << 20);
    }
    cluster.refused("checkout", "payments", 40);
    cluster.wait(60);
    let incident = cluster.incident();
    is(&incident, "Deployment shop/payments", "rollout", Certainty::Likely);
}

#[test]
fn who_calls_what_is_just_being_created_is_no_incident() {
    let mut cluster = Cluster::shop();
    cluster.changed("Deployment", "payments", Verb::Created, Vec::new());
    cluster.wait(5);
    cluster.refused("checkout", "payments", 40);
    cluster.wait(300);
    assert_eq!(cluster.incidents(), []);
    // But if it crashes.
    let mut cluster = Cluster::shop();
    cluster.changed("Deployment", "payments", Verb::Created, Vec::new());
    cluster.wait(5);
    for nth in 0..3 {
        cluster.agent("container.crash", "payments", nth, "payments crashed", Data::default());
    }
    cluster.refused("checkout", "payments", 40);
    cluster.wait(60);
    assert_eq!(cluster.incident().root_kind.as_deref(), Some("crash"));
}

fn filesystem(state: &str) -> Data {
    Data::from([
        ("mount_point", "/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/pvc-7/mount".into()),
        ("device", "vdb".into()),
        ("filesystem", "ext4".into()),
        ("state", state.to_owned().into()),
        ("resource", "bytes".into()),
    ])
}

#[test]
fn a_volume_that_is_full_ends_its_pod_and_fails_its_callers() {
    let mut cluster = Cluster::shop();
    cluster.agent("storage.filesystem_full", "db", 0, "db is nearly full", filesystem("nearly_full"));
    cluster.wait(600);
    assert_eq!(cluster.incidents(), [], "that alone is no incident");
    cluster.agent("storage.filesystem_full", "db", 0, "db is full", filesystem("full"));
    cluster.wait(5);
    let status = || Data::from([("status", 1u64.into())]);
    cluster.agent("container.exit_error", "db", 0, "db exited with 1", status());
    cluster.wait(5);
    cluster.agent("container.exit_error", "db", 0, "db exited with 1", status());
    cluster.refused("payments", "db", 40);
    cluster.wait(60);
    let incident = cluster.incident();
    is(&incident, &format!("Pod shop/{}", cluster.newest("db")), "storage", Certainty::Likely);
    assert!(incident.chain.iter().any(|step| &*step.rule == "volume-ends"), "{incident:#?}");
}

#[test]
fn a_disk_that_failed_made_the_volume_read_only() {
    let mut cluster = Cluster::shop();
    let data = [
        ("device", "vdb".into()),
        ("operation", "write".into()),
        ("error", "EIO".into()),
        ("sector", 8u64.into()),
    ];
    cluster.agent("storage.io_error", "db", 0, "a write of vdb failed", Data::from(data));
    cluster.wait(5);
    let mut read_only = filesystem("");
    read_only.0.retain(|(key, _)| !["state", "resource"].contains(&&**key));
    read_only.push("option", "ro");
    cluster.agent("storage.filesystem_readonly", "db", 0, "db became read-only", read_only);
    cluster.wait(10);
    cluster.refused("payments", "db", 40);
    cluster.wait(60);
    let incident = cluster.incident();
    is(&incident, &format!("Pod shop/{}", cluster.newest("db")), "storage", incident.certainty);
    let chain: Vec<_> = incident.chain.iter().map(|step| &*step.rule).collect();
    assert!(chain.contains(&"error-readonly"), "{incident:#?}");
}

#[test]
fn a_node_whose_disk_is_full_evicts_its_pods() {
    let mut cluster = Cluster::shop();
    let pod = cluster.newest("db");
    let number: usize = pod.rsplit('-').next().unwrap().parse().unwrap();
    let node = NODES[number % NODES.len()];
    cluster.of_node("storage.filesystem_full", node, filesystem("full"));
    cluster.wait(30);
    cluster.condition("Node", node, condition::DISK_PRESSURE, "KubeletHasDiskPressure", "disk pressure");
    cluster.wait(5);
    cluster.condition("Pod", &pod, condition::EVICTED, "Evicted", "The node was low on resource");
    cluster.wait(60);
    let incident = cluster.incident();
    is(&incident, &format!("Node {node}"), "storage", incident.certainty);
}

#[test]
fn a_volume_that_pods_share_is_its_claims() {
    let mut cluster = Cluster::shop();
    let named = |kind: &str, name: &str, namespace: Option<&str>| Reference {
        kind: kind.to_owned(),
        namespace: namespace.map(ToOwned::to_owned),
        name: name.to_owned(),
        uid: None,
    };
    let claim = named("PersistentVolumeClaim", "data", Some("shop"));
    let uses = vec![named("PersistentVolume", "pvc-7", None)];
    cluster.portti(&Object { object: claim.clone(), uses, ..Object::default() }, "");
    let pod = named("Pod", &cluster.newest("db"), Some("shop"));
    cluster.portti(&Object { object: pod, uses: vec![claim], ..Object::default() }, "");
    let mut data = filesystem("full");
    data.push("volume", "pvc-7");
    cluster.of_node("storage.filesystem_full", "node-1", data);
    cluster.wait(60);
    let incident = cluster.incident();
    is(&incident, "PersistentVolumeClaim shop/data", "storage", incident.certainty);
}
