//! `tapio doctor` with a real API server: the agent's identity there, each missing permission, and every
//! cause of a failed connection.

use std::{fs, process::Command};

use serde_json::Value;
use tapio_agent::enrich::kubernetes::RIGHTS;

use crate::support::{Cluster, cluster_or_skip, until};

const NODE: &str = "node-a";

/// The Kubernetes lines of the agent's doctor on the node of this name.
fn lines(cluster: &Cluster, node: &str) -> Vec<Value> {
    let file = cluster.kubeconfig();
    let output = tokio::task::block_in_place(|| {
        Command::new(env!("CARGO_BIN_EXE_tapio"))
            .args(["doctor", "--json", "--listen=off", "--observer=container"])
            .env_clear()
            .envs([("KUBECONFIG", file.as_os_str()), ("NODE_NAME", node.as_ref())])
            .output()
            .unwrap()
    });
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "a report is all there is");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let sections = report["sections"].as_array().unwrap();
    let section = sections.iter().find(|section| section["name"] == "kubernetes").unwrap();
    section["lines"].as_array().unwrap().clone()
}

/// The lines that are not ok.
fn wrong(lines: &[Value]) -> Vec<&Value> {
    lines.iter().filter(|line| line["state"] != "ok").collect()
}

#[track_caller]
fn says(line: &Value, state: &str, found: &str, remedy: &str) {
    let has = |key: &str, words: &str| line[key].as_str().is_some_and(|text| text.contains(words));
    assert!(line["state"] == state && has("found", found) && has("remedy", remedy), "{line:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_shipped_role_all_is_well_and_each_verb_is_missed() {
    let cluster = cluster_or_skip!("with_the_shipped_role_all_is_well_and_each_verb_is_missed");
    cluster.node(NODE, "192.168.0.1").await;
    let reported = lines(&cluster, NODE);
    assert!(wrong(&reported).is_empty(), "{reported:#?}");
    assert_eq!(reported.len(), 2 + RIGHTS.len());
    let api = reported[0]["found"].as_str().unwrap();
    assert!(api.starts_with("v1.") && api.contains("system:serviceaccount:tapio:tapio"), "{api}");
    assert_eq!(reported[1]["found"], "node-a is one of the cluster");

    for missing in RIGHTS {
        let mut role = vec!["create".to_owned(), "clusterrole".to_owned(), "less".to_owned()];
        role.extend(["--verb=get".to_owned(), "--resource=configmaps".to_owned()]);
        cluster.kubectl(&role.iter().map(String::as_str).collect::<Vec<_>>());
        let rules: Vec<String> = RIGHTS
            .iter()
            .filter(|right| *right != missing)
            .map(|right| {
                format!(
                    r#"{{"apiGroups":[""],"resources":["{}"],"verbs":["{}"]}}"#,
                    right.resource, right.verb
                )
            })
            .collect();
        let patch = format!(r#"{{"rules":[{}]}}"#, rules.join(","));
        cluster.kubectl(&["patch", "clusterrole", "less", "--type=merge", "--patch", &patch]);
        cluster.kubectl(&["delete", "clusterrolebinding", "tapio"]);
        let binding = "create clusterrolebinding tapio --clusterrole=less --serviceaccount=tapio:tapio";
        cluster.kubectl(&binding.split(' ').collect::<Vec<_>>());
        // The server sees a new binding a moment later.
        let reported = until(async || lines(&cluster, NODE), |reported| wrong(reported).len() == 1).await;
        let line = wrong(&reported)[0];
        assert_eq!(line["name"], format!("may {} {}", missing.verb, missing.resource));
        says(
            line,
            "failed",
            missing.gives,
            &format!("resources: [{}], verbs: [{}]", missing.resource, missing.verb),
        );
        says(
            line,
            "failed",
            "no; without it",
            "bind the ClusterRole `tapio` to system:serviceaccount:tapio:tapio",
        );
        cluster.kubectl(&["delete", "clusterrole", "less"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_it_out_is_distinguished() {
    let cluster = cluster_or_skip!("what_keeps_it_out_is_distinguished");
    let reported = lines(&cluster, "nowhere");
    let [node] = wrong(&reported)[..] else { panic!("{reported:#?}") };
    says(node, "failed", "the cluster has no node nowhere", "--node-name");

    fs::write(cluster.file("token"), "not-a-token").unwrap();
    let reported = lines(&cluster, NODE);
    assert_eq!(reported.len(), 1, "{reported:#?}");
    says(
        &reported[0],
        "failed",
        "does not take the token (401)",
        "put a token of this cluster into the file",
    );
    cluster.renew_token(&[]);

    tokio::task::block_in_place(|| cluster.server.program("kube-apiserver").stop().unwrap());
    let reported = lines(&cluster, NODE);
    assert_eq!(reported.len(), 1, "{reported:#?}");
    says(&reported[0], "failed", "cannot be reached", "start the API server");
}
