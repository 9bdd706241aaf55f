//! Whatever the API server does, occurrences go out with all known names, `/status` shows the problem, and
//! the agent recovers by itself.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tapio_kube::Access;

use crate::support::{Agent, Answer, Cluster, Gate, Shape, cluster_or_skip, until};

/// A pod on the agent's node and one elsewhere.
async fn two_pods(cluster: &Cluster) -> (Shape, String) {
    cluster.node("node-a", "192.168.0.1").await;
    let here = Shape::new("here", "node-a", "10.1.0.1");
    let uid = cluster.pod(&here).await;
    for nth in 1..=6 {
        cluster.pod(&Shape::new(&format!("there-{nth}"), "node-b", &format!("10.2.0.{nth}"))).await;
    }
    (here, uid)
}

/// The occurrence of an anomaly, which must not be delayed longer than allowed.
async fn promptly(agent: &mut Agent, cgroup_id: u64, peer: &str) -> Value {
    let start = Instant::now();
    let reported = agent.tell(Agent::anomaly(cgroup_id, peer)).await;
    assert!(start.elapsed() < Duration::from_millis(2_500), "{:?}", start.elapsed());
    reported
}

async fn until_running(agent: &Agent) {
    until(async || agent.state(), |state| state == "running").await;
}

async fn until_named(agent: &mut Agent, peer: &str, name: &str) {
    let named = |reported: &Value| reported["peer"]["pod"] == name;
    until(async || agent.tell(Agent::anomaly(0, peer)).await, named).await;
    assert_eq!(agent.health.status()["peers"], "running");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_and_comes_back() {
    let cluster = cluster_or_skip!("a_server_that_is_away_and_comes_back");
    let (here, uid) = two_pods(&cluster).await;
    let file = cluster.kubeconfig();
    let server = cluster.server.program("kube-apiserver");
    tokio::task::block_in_place(|| server.stop().unwrap());

    let mut agent = Agent::by(Access::Kubeconfig(vec![file]), "node-a");
    let cgroup_id = agent.cgroup(&uid, &here.container_id());
    let reported = promptly(&mut agent, cgroup_id, "10.2.0.1").await;
    let bare = json!({ "pod_uid": uid, "container_id": here.container_id() });
    assert_eq!(
        (&reported["workload"], &reported["peer"]),
        (&bare, &json!({ "address": "10.2.0.1", "port": 6379 }))
    );
    until(async || agent.state(), |state| state.contains("cannot be reached")).await;
    let why = agent.health.synced_once().unwrap_err();
    assert!(why.contains("not known yet: the API server cannot be reached"), "{why}");

    tokio::task::block_in_place(|| cluster.server.resume().unwrap());
    until_running(&agent).await;
    let reported = promptly(&mut agent, cgroup_id, "127.0.0.1").await;
    assert_eq!(reported["workload"]["pod"], "here");
    until_named(&mut agent, "10.2.0.1", "there-1").await;

    // The server is killed: known names stay, and the agent does not wait longer than necessary for unknown
    // ones.
    tokio::task::block_in_place(|| server.signal("KILL").unwrap());
    let reported = promptly(&mut agent, cgroup_id, "10.2.0.2").await;
    assert_eq!((&reported["workload"]["pod"], reported["peer"].get("pod")), (&json!("here"), None));
    until(async || agent.state(), |state| state.starts_with("degraded(pods are not followed")).await;
    assert_eq!(agent.health.synced_once(), Ok(()), "it was ready, and is");
    tokio::task::block_in_place(|| cluster.server.resume().unwrap());
    until_running(&agent).await;
    until_named(&mut agent, "10.2.0.3", "there-3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_too_old_is_made_anew() {
    let cluster = cluster_or_skip!("a_list_that_is_too_old_is_made_anew");
    let (here, uid) = two_pods(&cluster).await;
    let gate = Gate::before(&cluster).await;
    let mut agent = Agent::by(Access::Kubeconfig(vec![gate.kubeconfig()]), "node-a");
    agent.wait_until_synced().await;
    let lists = || gate.seen("nodeName%3Dnode-a").iter().filter(|uri| !uri.contains("watch=true")).count();
    assert_eq!(lists(), 1);
    until(async || gate.seen("watch=true").len(), |watches| *watches == 1).await;

    gate.answer(Answer::Gone);
    gate.cut();
    until(async || gate.seen("watch=true").len(), |watches| *watches == 2).await;
    cluster.delete_pod("here").await;
    let new = Shape::new("new", "node-a", "10.1.0.2");
    let new_uid = cluster.pod(&new).await;
    let before = lists();
    gate.release();
    // Two containers of each pod, and one of the pods is on this node.
    let known = |status: &Value| status["pods"] == 1 && status["containers"] == 4;
    until(async || agent.health.status(), known).await;
    assert!(lists() > before, "{:?}", gate.seen(""));
    let cgroup_id = agent.cgroup(&new_uid, &new.container_id());
    assert_eq!(promptly(&mut agent, cgroup_id, "127.0.0.1").await["workload"]["pod"], "new");
    let cgroup_id = agent.cgroup(&uid, &here.container_id());
    assert_eq!(promptly(&mut agent, cgroup_id, "127.0.0.1").await["workload"]["pod"], "here");
    assert_eq!(agent.state(), "running");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_busy_or_slow() {
    let cluster = cluster_or_skip!("a_server_that_is_busy_or_slow");
    let (here, uid) = two_pods(&cluster).await;
    let gate = Gate::before(&cluster).await;
    gate.answer(Answer::Status(429));
    let mut agent = Agent::by(Access::Kubeconfig(vec![gate.kubeconfig()]), "node-a");
    let cgroup_id = agent.cgroup(&uid, &here.container_id());
    until(async || agent.state(), |state| state.starts_with("failed(the API server is busy (429)")).await;
    assert!(promptly(&mut agent, cgroup_id, "10.2.0.1").await["workload"].get("pod").is_none());
    gate.answer(Answer::Pass);
    until_running(&agent).await;
    until_named(&mut agent, "10.2.0.1", "there-1").await;

    gate.answer(Answer::Slowly(Duration::from_secs(10)));
    let reported = promptly(&mut agent, cgroup_id, "10.2.0.2").await;
    assert_eq!((&reported["workload"]["pod"], reported["peer"].get("pod")), (&json!("here"), None));
    until(
        async || agent.health.status()["peers"].as_str().unwrap().to_owned(),
        |peers| peers.contains("gave no answer within 2s"),
    )
    .await;
    // Without lookups there are no delays.
    let start = Instant::now();
    agent.tell(Agent::anomaly(cgroup_id, "10.2.0.3")).await;
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    gate.answer(Answer::Pass);
    until_named(&mut agent, "10.2.0.4", "there-4").await;
}

/// As when a gateway on the path has lost the connection's state. A connection that is merely quiet is not
/// dead.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_dead_is_distinguished_from_one_that_is_quiet() {
    let cluster = cluster_or_skip!("a_watch_that_is_dead_is_distinguished_from_one_that_is_quiet");
    two_pods(&cluster).await;
    let (quiet, dead) = (Gate::before(&cluster).await, Gate::before(&cluster).await);
    dead.answer(Answer::Silence);
    let by = |gate: &Gate| Agent::by(Access::Kubeconfig(vec![gate.kubeconfig()]), "node-a");
    let (of_quiet, of_dead) = (by(&quiet), by(&dead));
    until_running(&of_quiet).await;
    until_running(&of_dead).await;
    until(async || of_dead.state(), |state| state.starts_with("degraded(pods are not followed")).await;
    dead.answer(Answer::Pass);
    until_running(&of_dead).await;
    let lists = |gate: &Gate| gate.seen("nodeName%3Dnode-a").len() - gate.seen("watch=true").len();
    assert_eq!((lists(&quiet), lists(&dead)), (1, 2));
    assert_eq!((of_quiet.state().as_str(), quiet.seen("watch=true").len()), ("running", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_role() {
    let cluster = cluster_or_skip!("without_the_role");
    let (here, uid) = two_pods(&cluster).await;
    cluster.kubectl(&["delete", "clusterrolebinding", "tapio"]);
    let mut agent = Agent::start(&cluster, "node-a");
    until(async || agent.state(), |state| state.contains("(403): bind the ClusterRole `tapio`")).await;
    let cgroup_id = agent.cgroup(&uid, &here.container_id());
    promptly(&mut agent, cgroup_id, "10.2.0.1").await;
    cluster.kubectl(&[
        "create",
        "clusterrolebinding",
        "tapio",
        "--clusterrole=tapio",
        "--serviceaccount=tapio:tapio",
    ]);
    until_running(&agent).await;
    assert_eq!(promptly(&mut agent, cgroup_id, "127.0.0.1").await["workload"]["pod"], "here");
}

/// The role allows reading and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn the_role_has_no_more_than_it_needs() {
    let cluster = cluster_or_skip!("the_role_has_no_more_than_it_needs");
    let agent = "--as=system:serviceaccount:tapio:tapio";
    let allowed = cluster.kubectl(&["auth", "can-i", "--list", "--no-headers", agent]);
    for (resource, verbs) in [("pods", "[list watch]"), ("nodes", "[get list]"), ("services", "[list]")] {
        let of_it: Vec<&str> =
            allowed.lines().filter(|line| line.split_whitespace().next() == Some(resource)).collect();
        assert!(of_it.len() == 1 && of_it[0].ends_with(verbs), "{resource} {verbs}: {allowed}");
    }
    for verb in ["update", "patch", "delete", "deletecollection"] {
        assert!(!allowed.contains(verb), "{verb}: {allowed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_the_cluster_does_not_have() {
    let cluster = cluster_or_skip!("a_node_that_the_cluster_does_not_have");
    two_pods(&cluster).await;
    let mut agent = Agent::start(&cluster, "node-z");
    until(async || agent.state(), |state| state.contains("no node node-z: set NODE_NAME")).await;
    assert!(
        promptly(&mut agent, 0, "10.2.0.1").await["peer"].get("pod").is_none(),
        "it may be another cluster"
    );
    cluster.node("node-z", "192.168.0.26").await;
    until_running(&agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_no_longer_taken() {
    let cluster = cluster_or_skip!("a_token_that_is_no_longer_taken");
    let (here, uid) = two_pods(&cluster).await;
    // The token is bound to this secret and expires with it, because the shortest token lifetime is ten
    // minutes.
    cluster.kubectl(&["create", "secret", "generic", "session", "--namespace=tapio"]);
    cluster.renew_token(&["--bound-object-kind=Secret", "--bound-object-name=session"]);
    let mut agent = Agent::synced(&cluster, "node-a").await;
    let cgroup_id = agent.cgroup(&uid, &here.container_id());
    until_named(&mut agent, "10.2.0.1", "there-1").await;
    cluster.kubectl(&["delete", "secret", "session", "--namespace=tapio"]);
    tokio::task::block_in_place(|| {
        cluster.server.program("kube-apiserver").stop().unwrap();
        cluster.server.resume().unwrap();
    });
    until(async || agent.state(), |state| state.contains("does not take the token (401)")).await;
    assert_eq!(promptly(&mut agent, cgroup_id, "10.2.0.2").await["workload"]["pod"], "here");
    cluster.renew_token(&[]);
    until_running(&agent).await;
    until_named(&mut agent, "10.2.0.3", "there-3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_replaced() {
    let cluster = cluster_or_skip!("an_authority_that_is_replaced");
    two_pods(&cluster).await;
    let mut agent = Agent::synced(&cluster, "node-a").await;
    let ca = cluster.rotate_authority();
    until(async || agent.state(), |state| state.contains("certificate")).await;
    promptly(&mut agent, 0, "10.2.0.1").await;
    fs::copy(ca, cluster.file("agent-ca.crt")).unwrap();
    until_running(&agent).await;
    until_named(&mut agent, "10.2.0.2", "there-2").await;
}
