//! Facts that are sent on: to another server, and to standard output, also while one of them is away or killed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use tapio_occurrence::Occurrence;
use tempfile::{TempDir, tempdir};

use crate::{
    answers::{recorded, send},
    collector::{Collector, collector_or_skip},
    support::{PROGRAM, Server, free_address, journaled_ids, wait_until},
};

fn config(directory: &Path, text: &str) -> String {
    let file = directory.join("server.yaml");
    fs::write(&file, text).unwrap();
    format!("--config={}", file.display())
}

/// Those that the route of the first test matches.
fn is_wanted(fact: &Occurrence) -> bool {
    let namespace = fact.workload.as_ref().and_then(|workload| workload.namespace.as_deref());
    fact.kind.starts_with("container.") && namespace == Some("shop")
        || fact.kind == "kubernetes.change" && ["warning", "info"].contains(&severity(fact).as_str())
}

fn severity(fact: &Occurrence) -> String {
    serde_json::to_value(fact.severity).unwrap().as_str().unwrap().to_owned()
}

fn ids<'a>(facts: impl IntoIterator<Item = &'a Occurrence>) -> Vec<String> {
    facts.into_iter().filter(|fact| is_wanted(fact)).map(|fact| fact.id.to_string()).collect()
}

/// The only sink's part of `/status`.
fn sink(server: &Server) -> serde_json::Value {
    server.status()["roles"]["polku"]["sinks"][0].clone()
}

fn accounts(server: &Server) -> [u64; 4] {
    let sink = sink(server);
    ["received", "sent", "rejected", "queued"].map(|key| sink[key].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_go_on_to_another_server_whatever_is_killed() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let address = free_address();
    let text = format!(
        "roles: [polku]\n\
         routes:\n\
         - {{match: {{type: [container.*], namespace: [shop]}}, to: other}}\n\
         - match: {{type: kubernetes.change, severity: [warning, info]}}\n  to: other\n\
         sinks: {{other: {{polku: {{endpoint: \"http://{address}\"}}}}}}\n"
    );
    let config = config(from.path(), &text);
    let facts = recorded();
    let (first, second) = facts.split_at(facts.len() / 2);
    assert!(ids(first).len() > 3 && ids(second).len() > 3 && ids(&facts).len() < facts.len() / 2);

    let server = Server::start(from.path(), &[&config]);
    let other = Server::start_on(address, to.path(), &["--roles=polku"]);
    send(&server, first).await;
    let expected = ids(first).len() as u64;
    wait_until(|| accounts(&server), |accounts| *accounts == [expected, expected, 0, 0]);
    assert_eq!(sink(&server)["state"], "ok");
    other.kill();

    // Acks do not wait for the other one.
    let start = Instant::now();
    send(&server, second).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let waiting = wait_until(|| sink(&server), |sink| sink["queued"].as_u64() > Some(0));
    wait_until(|| sink(&server), |sink| sink["state"].as_str().unwrap().starts_with("retrying("));
    assert_eq!(waiting["dropped"]["journal_expired"], 0, "{waiting}");
    server.kill();
    let server = Server::start(from.path(), &[&config]);
    let other = Server::start_on(address, to.path(), &["--roles=polku"]);
    let rest = wait_until(|| accounts(&server), |[received, sent, ..]| *sent > 0 && received == sent);
    assert!(rest[0] >= ids(second).len() as u64, "{rest:?}");
    let metrics = server.get("/metrics");
    let sent = format!("tapio_sink_sent_total{{sink=\"other\"}} {}\n", rest[1]);
    assert!(metrics.contains(&sent), "{sent}: {metrics}");
    for line in
        ["tapio_sink_state{sink=\"other\",state=\"ok\"} 1\n", "tapio_sink_behind_facts{sink=\"other\"} 0\n"]
    {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    server.stop();
    other.stop();
    assert_eq!(journaled_ids(to.path()).await, ids(&facts), "each once, in order");
}

/// A server whose standard output is a file.
fn with_output(directory: &TempDir, text: &str) -> (Server, PathBuf) {
    let output = directory.path().join("out.jsonl");
    let mut command = Command::new("sh");
    command.args(["-c", "out=$1; shift; exec \"$0\" \"$@\" > \"$out\"", PROGRAM]).arg(&output);
    let config = config(directory.path(), text);
    (Server::start_as(command, free_address(), directory.path(), &[&config]), output)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_away_does_not_hold_up_another() {
    let directory = tempdir().unwrap();
    let text = format!(
        "roles: [polku]\n\
         routes: [{{to: away}}, {{match: {{severity: error}}, to: out}}, {{match: {{type: [kubernetes.*]}}, to: out}}]\n\
         sinks:\n  away: {{polku: {{endpoint: \"http://{}\"}}}}\n  out: {{stdout: true}}\n",
        free_address()
    );
    let (server, output) = with_output(&directory, &text);
    let facts = recorded();
    send(&server, &facts).await;
    let is_wanted = |fact: &&Occurrence| severity(fact) == "error" || fact.kind.starts_with("kubernetes.");
    let wanted: BTreeSet<String> = facts.iter().filter(is_wanted).map(|fact| fact.id.to_string()).collect();
    let written = wait_until(
        || fs::read_to_string(&output).unwrap(),
        |text| text.lines().count() >= wanted.len() && text.ends_with('\n'),
    );
    let read: Vec<Occurrence> =
        written.lines().map(|line| Occurrence::read_json(line.as_bytes()).unwrap()).collect();
    assert_eq!(read.len(), wanted.len(), "a fact that two routes match goes there once");
    assert_eq!(read.iter().map(|fact| fact.id.to_string()).collect::<BTreeSet<_>>(), wanted);
    let sinks = server.status()["roles"]["polku"]["sinks"].clone();
    assert_eq!((&sinks[0]["sink"], &sinks[0]["sent"]), (&"away".into(), &0.into()), "{sinks:#}");
    assert_eq!(sinks[1]["sent"], wanted.len(), "{sinks:#}");
    let ledger = server.ledger();
    assert_eq!(ledger["accepted"], facts.len(), "{ledger}");
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_go_on_to_a_real_collector_also_after_it_was_away() {
    let collector = collector_or_skip!("facts_go_on_to_a_real_collector_also_after_it_was_away");
    let directory = tempdir().unwrap();
    let [(_, endpoint), (_, protocol)] = collector.keys("grpc");
    let text = format!(
        "roles: [polku]\n\
         routes: [{{match: {{type: [kubernetes.condition]}}, to: logs}}]\n\
         sinks: {{logs: {{otlp: {{endpoint: \"{endpoint}\", protocol: {protocol}}}}}}}\n"
    );
    let server = Server::start(directory.path(), &[&config(directory.path(), &text)]);
    let facts = recorded();
    let (first, second) = facts.split_at(facts.len() / 2);
    let wanted =
        |facts: &[Occurrence]| facts.iter().filter(|fact| fact.kind == "kubernetes.condition").count();
    assert!(wanted(first) > 0 && wanted(second) > 0);
    send(&server, first).await;
    wait_until(|| collector.records().len(), |records| *records == wanted(first));
    collector.stop();
    send(&server, second).await;
    wait_until(|| sink(&server), |sink| sink["state"].as_str().unwrap().starts_with("retrying("));
    collector.resume();
    wait_until(|| collector.records().len(), |records| *records >= wanted(&facts));
    let all: BTreeSet<String> =
        collector.records().iter().map(|(.., record)| record["attributes"].to_string()).collect();
    assert_eq!(all.len(), wanted(&facts), "each of them, though one may have come twice");
    let [received, sent, rejected, queued] = wait_until(|| accounts(&server), |accounts| accounts[3] == 0);
    assert_eq!((received, sent, rejected, queued), (wanted(&facts) as u64, received, 0, 0));
}
