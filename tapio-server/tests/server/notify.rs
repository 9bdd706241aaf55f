//! Who is told of incidents: each kind of target, from the first fact to the end of the incident.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::hmac;
use serde_json::Value;
use tapio_ahti::incident::Incident;
use tapio_occurrence::Occurrence;
use tempfile::{TempDir, tempdir};
use ulid::Ulid;

use crate::{
    answers::{recorded, send},
    queries::tool,
    receiver::Receiver,
    support::{Server, ask, free_address, wait_until},
};

/// Facts of a failure as they were recorded on a cluster, without states, so that it ends some minutes after the last one.
pub(crate) fn failure() -> Vec<Occurrence> {
    let facts = recorded().into_iter();
    facts.filter(|fact| &*fact.kind != "kubernetes.condition").collect()
}

/// Signs of life for two hours after it.
fn later(facts: &[Occurrence]) -> Vec<Occurrence> {
    const EACH_NS: u64 = 30_000_000_000;
    let last = facts.iter().rfind(|fact| &*fact.kind == "tapio.heartbeat").unwrap();
    let beat = |nth| {
        let time_unix_ns = last.time_unix_ns + nth * EACH_NS;
        Occurrence { id: Ulid::from_parts(time_unix_ns / 1_000_000, 1), time_unix_ns, ..last.clone() }
    };
    (1..=240).map(beat).collect()
}

/// A server that tells `one`.
pub(crate) fn start(directory: &Path, one: &str) -> Server {
    let config = directory.join("config.yaml");
    fs::write(&config, format!("cluster: prod\nnotify: {{one: {one}}}\n")).unwrap();
    Server::start(directory, &["--roles=polku,ahti", &format!("--config={}", config.display())])
}

fn secret(directory: &TempDir, text: &str) -> String {
    let file = directory.path().join("secret");
    fs::write(&file, text).unwrap();
    file.display().to_string()
}

fn state(server: &Server) -> Value {
    server.status()["roles"]["ahti"]["notify"]["one"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_gets_signed_events_once_also_over_a_kill() {
    let directory = tempdir().unwrap();
    // It is away for a moment at first.
    let (receiver, address) = Receiver::start(&[(503, "not yet")], "").await;
    let keys = [[7; 32], [9; 32]];
    let secrets = keys.map(|key| format!("whsec_{}", STANDARD.encode(key))).join("\n");
    let file = secret(&directory, &secrets);
    let one = format!("{{webhook: {{url: 'http://{address}/told', secret_file: {file}}}}}");
    let server = start(directory.path(), &one);
    let facts = failure();
    send(&server, &facts).await;
    let came = receiver.wait(2);
    let (first, opened) = (came[0].json(), came[1].json());
    assert_eq!(first["id"], opened["id"], "told again");
    assert_eq!(
        (&opened["type"], &opened["specversion"]),
        (&"dev.tapio.incident.opened.v1".into(), &"1.0".into())
    );
    assert_eq!((&opened["source"], &opened["subject"]), (&"/tapio/prod".into(), &opened["data"]["id"]));
    assert_eq!(opened["data"]["root"]["name"], "payments", "{opened:#}");
    // The incident's bytes are those of the API.
    let incident: Incident = serde_json::from_value(opened["data"].clone()).unwrap();
    let data = format!(r#""data":{}"#, serde_json::to_string(&incident).unwrap());
    assert!(String::from_utf8_lossy(&came[1].body).contains(&data), "{opened:#}");
    for came in &came {
        assert_eq!(
            (came.path.as_str(), came.header("content-type")),
            ("/told", "application/cloudevents+json")
        );
        assert_eq!(came.header("webhook-id"), came.json()["id"].as_str().unwrap());
        let text = String::from_utf8(came.body.to_vec()).unwrap();
        let signed = format!("{}.{}.{text}", came.header("webhook-id"), came.header("webhook-timestamp"));
        let signatures: Vec<&str> = came.header("webhook-signature").split(' ').collect();
        assert_eq!(signatures.len(), 2);
        for (key, signature) in keys.iter().zip(signatures) {
            let signature = STANDARD.decode(signature.strip_prefix("v1,").unwrap()).unwrap();
            hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key), signed.as_bytes(), &signature).unwrap();
        }
    }
    wait_until(|| state(&server), |state| state["sent"] == 1 && state["trouble"].is_null());
    server.kill();
    let server = start(directory.path(), &one);
    send(&server, &later(&facts)).await;
    let came = receiver.wait(3);
    let resolved = came[2].json();
    assert_eq!(resolved["type"], "dev.tapio.incident.resolved.v1", "{resolved:#}");
    assert_eq!(came.len(), 3, "nothing twice");
    let metrics = server.get("/metrics");
    assert!(metrics.contains(r#"tapio_notify_sent_total{target="one",event="resolved"} 1"#), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_says_each_thing_in_one_message_also_over_a_kill() {
    let directory = tempdir().unwrap();
    // It is away when the first one is due, and the server is killed then.
    let (receiver, address) = Receiver::start(&[(503, "not yet")], "").await;
    let one = format!("{{webhook: {{url: 'http://{address}'}}, digest: {{every: 10s}}}}");
    let server = start(directory.path(), &one);
    let file = directory.path().join("state/notify/one.json");
    wait_until(|| fs::read_to_string(&file).unwrap_or_default(), |text| text.contains("digested_unix_ns"));
    // Facts are of another day: what opens now began too long ago to be new.
    let facts = failure();
    send(&server, &facts).await;
    let refused = receiver.wait(1)[0].json();
    server.kill();
    let server = start(directory.path(), &one);
    let said = receiver.wait(2)[1].json();
    assert_eq!(said["type"], "dev.tapio.digest.v1", "{said:#}");
    assert_eq!(refused["data"]["from"], said["data"]["from"], "it was not taken before");
    let count = |said: &Value, key: &str| said["data"][key].as_array().unwrap().len();
    assert_eq!(
        (count(&said, "opened"), count(&said, "resolved"), count(&said, "open")),
        (0, 0, 1),
        "{said:#}"
    );
    assert_eq!(said["data"]["open"][0]["root"]["name"], "payments");
    wait_until(|| state(&server), |state| state["sent"].as_u64() >= Some(1));
    send(&server, &later(&facts)).await;
    let over =
        wait_until(|| receiver.all(), |all| all.iter().any(|came| count(&came.json(), "resolved") == 1));
    let periods: Vec<(Value, Value)> = over[1..]
        .iter()
        .map(|came| (came.json()["data"]["from"].clone(), came.json()["data"]["to"].clone()))
        .collect();
    assert!(periods.windows(2).all(|pair| pair[0].1 == pair[1].0), "no gap and nothing twice: {periods:?}");
    // Nothing happens any more.
    let sent = wait_until(|| state(&server), |state| state["sent"] == over.len() - 1)["sent"].clone();
    tokio::time::sleep(std::time::Duration::from_secs(11)).await;
    assert_eq!((state(&server)["sent"].clone(), receiver.all().len()), (sent, over.len()));
    assert!(server.get("/metrics").contains(r#"tapio_notify_sent_total{target="one",event="digest"}"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_has_to_correct_is_said_and_waits() {
    let directory = tempdir().unwrap();
    let (receiver, address) = Receiver::start(&[(403, "who are you?")], "").await;
    let one = format!("{{webhook: {{url: 'http://{address}'}}}}");
    let server = start(directory.path(), &one);
    send(&server, &failure()).await;
    receiver.wait(1);
    let said = wait_until(|| state(&server), |state| !state["trouble"].is_null());
    assert_eq!(said["trouble"], "403 Forbidden: who are you?", "{said}");
    assert!(server.log().contains("who are you?"));
    assert!(server.get("/metrics").contains(r#"tapio_notify_waiting{target="one"} 1"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn slack_has_one_message_that_changes() {
    let directory = tempdir().unwrap();
    let (receiver, address) = Receiver::start(&[], r#"{"ok":true,"ts":"17.42","channel":"C1"}"#).await;
    let token = secret(&directory, "xoxb-1\n");
    let one = format!("{{slack: {{token_file: {token}, channel: C1, api: 'http://{address}/api'}}}}");
    let server = start(directory.path(), &one);
    let facts = failure();
    send(&server, &facts).await;
    let opened = &receiver.wait(1)[0];
    assert_eq!(
        (opened.path.as_str(), opened.header("authorization")),
        ("/api/chat.postMessage", "Bearer xoxb-1")
    );
    let message = opened.json();
    assert_eq!(message["channel"], "C1");
    let text = message["text"].as_str().unwrap();
    assert!(text.contains("payments (shop) is OOM-killed") && text.contains("CONFIRMED"), "{text}");
    let blocks = message["blocks"][0]["text"]["text"].as_str().unwrap();
    assert!(blocks.contains("*Do first:* ") && blocks.contains("*Hits:* Deployment shop/"), "{blocks}");
    send(&server, &later(&facts)).await;
    let came = receiver.wait(3);
    let (changed, said) = (came[1].json(), came[2].json());
    assert_eq!((came[1].path.as_str(), &changed["ts"]), ("/api/chat.update", &"17.42".into()));
    assert!(changed["text"].as_str().unwrap().contains("RESOLVED"), "{changed:#}");
    assert_eq!((&said["thread_ts"], &said["reply_broadcast"]), (&"17.42".into(), &true.into()), "{said:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slack_says_what_is_wrong() {
    let directory = tempdir().unwrap();
    let (receiver, address) = Receiver::start(&[], r#"{"ok":false,"error":"not_in_channel"}"#).await;
    let token = secret(&directory, "xoxb-1");
    let one = format!("{{slack: {{token_file: {token}, channel: C1, api: 'http://{address}'}}}}");
    let server = start(directory.path(), &one);
    send(&server, &failure()).await;
    receiver.wait(1);
    wait_until(|| state(&server), |state| state["trouble"] == "not_in_channel");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_of_slack_gets_what_is_new_and_what_is_over() {
    let directory = tempdir().unwrap();
    let (receiver, address) = Receiver::start(&[], "ok").await;
    let url = secret(&directory, &format!("http://{address}/services/T/B/x"));
    let server = start(directory.path(), &format!("{{slack: {{url_file: {url}}}}}"));
    let facts = failure();
    send(&server, &facts).await;
    receiver.wait(1);
    send(&server, &later(&facts)).await;
    let came = receiver.wait(2);
    assert!(came.iter().all(|came| came.path == "/services/T/B/x"));
    assert!(came[1].json()["text"].as_str().unwrap().contains("RESOLVED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pagerduty_is_triggered_and_resolved_by_the_same_key() {
    let directory = tempdir().unwrap();
    let (receiver, address) = Receiver::start(&[(429, "")], r#"{"status":"success"}"#).await;
    let key = secret(&directory, "R0UT1NG");
    let one = format!("{{pagerduty: {{key_file: {key}, url: 'http://{address}'}}}}");
    let server = start(directory.path(), &one);
    let facts = failure();
    send(&server, &facts).await;
    let came = receiver.wait(2);
    let trigger = came[1].json();
    assert_eq!((came[1].path.as_str(), &trigger["event_action"]), ("/v2/enqueue", &"trigger".into()));
    assert_eq!((&trigger["routing_key"], &trigger["payload"]["source"]), (&"R0UT1NG".into(), &"prod".into()));
    assert_eq!(
        (&trigger["payload"]["severity"], &trigger["payload"]["class"]),
        (&"error".into(), &"rollout".into())
    );
    send(&server, &later(&facts)).await;
    let resolve = receiver.wait(3)[2].json();
    assert_eq!((&resolve["event_action"], &resolve["dedup_key"]), (&"resolve".into(), &trigger["dedup_key"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_only_another_namespace_hears_nothing() {
    let directory = tempdir().unwrap();
    let (receiver, address) = Receiver::start(&[], "").await;
    let one = format!("{{webhook: {{url: 'http://{address}'}}, namespace: 'pay, kube-*'}}");
    let server = start(directory.path(), &one);
    send(&server, &failure()).await;
    wait_until(
        || server.status()["roles"]["ahti"].clone(),
        |ahti| {
            ahti["behind"]["facts"] == 0 && ahti["incidents"].as_array().is_some_and(|all| !all.is_empty())
        },
    );
    // Incidents are looked at each second.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(receiver.all().len(), 0);
}

/// The real one, ended on drop.
pub(crate) struct Alertmanager(Child, SocketAddr);

impl Drop for Alertmanager {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Alertmanager {
    fn start(program: &Path, directory: &Path) -> Self {
        let config = "route: {receiver: none}\nreceivers: [{name: none}]\n";
        Self::start_on(free_address(), program, directory, config)
    }

    pub(crate) fn start_on(address: SocketAddr, program: &Path, directory: &Path, text: &str) -> Self {
        let config = directory.join("alertmanager.yaml");
        fs::write(&config, text).unwrap();
        let child = Command::new(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", directory.join("alertmanager").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--cluster.listen-address=")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child, address)
    }

    /// The alerts that it has, with those that are over.
    pub(crate) fn alerts(&self) -> Value {
        let said = ask(self.1, "/api/v2/alerts").unwrap_or_default();
        let body = said.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_alertmanager_takes_it_and_lets_it_go() {
    let program = match tool("prometheus-alertmanager") {
        Ok(program) => program,
        Err(reason) => return println!("SKIP the_real_alertmanager_takes_it_and_lets_it_go: {reason}"),
    };
    let directory = tempdir().unwrap();
    let alertmanager = Alertmanager::start(&program, directory.path());
    let server = start(directory.path(), &format!("{{alertmanager: {{url: 'http://{}'}}}}", alertmanager.1));
    let facts = failure();
    send(&server, &facts).await;
    let alerts = wait_until(|| alertmanager.alerts(), |alerts| !alerts[0].is_null());
    let alert = &alerts[0];
    assert_eq!(alerts.as_array().map(Vec::len), Some(1), "{alerts:#}");
    let labels = serde_json::json!({
        "alertname": "TapioIncident", "cluster": "prod", "namespace": "shop", "kind": "Deployment",
        "workload": "payments", "cause": "rollout", "severity": "critical",
    });
    assert_eq!((&alert["labels"], &alert["status"]["state"]), (&labels, &"active".into()), "{alert:#}");
    assert!(
        alert["annotations"]["description"].as_str().unwrap().contains("Do first: roll back"),
        "{alert:#}"
    );
    send(&server, &later(&facts)).await;
    // It forgets those that are over.
    wait_until(|| alertmanager.alerts(), |alerts| alerts.as_array().is_some_and(Vec::is_empty));
    wait_until(|| state(&server), |state| state["sent"] == 2);
}
