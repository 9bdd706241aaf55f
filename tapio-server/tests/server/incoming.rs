//! Alerts that a real Alertmanager sends: each gets our why.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tapio_occurrence::timestamp;
use tapio_service::clock;
use tempfile::tempdir;

use crate::{
    answers::send,
    notify::{Alertmanager, failure, start},
    queries::tool,
    support::{Server, exchange, free_address, wait_until},
};

/// Raises an alert, as Prometheus does; it is over at this time.
fn raise(address: SocketAddr, labels: &Value, summary: &str, ends_ns: u64) {
    let alert = json!([{
        "labels": labels, "annotations": { "summary": summary }, "endsAt": timestamp(ends_ns).to_string(),
    }]);
    let body = alert.to_string();
    let head = format!(
        "POST /api/v2/alerts HTTP/1.0\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let said = exchange(address, &(head + &body)).unwrap();
    assert!(said.contains(" 200 "), "{said}");
}

fn named(alerts: &Value, name: &str) -> Vec<Value> {
    let all = alerts.as_array().cloned().unwrap_or_default();
    all.into_iter().filter(|alert| alert["labels"]["alertname"] == name).collect()
}

/// How many alerts had an outcome.
fn count(server: &Server, outcome: &str) -> u64 {
    let series = format!("tapio_alerts_received_total{{outcome=\"{outcome}\"}} ");
    let metrics = server.get("/metrics");
    metrics.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_that_comes_gets_its_why_beside_it() {
    let program = match tool("prometheus-alertmanager") {
        Ok(program) => program,
        Err(reason) => return println!("SKIP an_alert_that_comes_gets_its_why_beside_it: {reason}"),
    };
    let directory = tempdir().unwrap();
    let address = free_address();
    let one = format!("{{alertmanager: {{url: 'http://{address}'}}}}");
    let server = start(directory.path(), &one);
    send(&server, &failure()).await;
    let config = format!(
        "route: {{receiver: tapio, group_by: ['...'], group_wait: 1s, group_interval: 1s, repeat_interval: 1h}}\n\
         receivers: [{{name: tapio, webhook_configs: [{{url: 'http://{}/api/v1/alerts'}}]}}]\n",
        server.api
    );
    let alertmanager = Alertmanager::start_on(address, &program, directory.path(), &config);
    // Ours comes back, and is nobody's question.
    wait_until(|| count(&server, "own"), |own| *own > 0);

    let hour = 3_600_000_000_000;
    let now_ns = clock::unix_ns(clock::boot_ns());
    let crash = json!({ "alertname": "KubePodCrashLooping", "namespace": "shop", "deployment": "payments", "team": "pay" });
    let other = json!({ "alertname": "Strange", "namespace": "shop", "pod": "nobody" });
    raise(address, &crash, "first", now_ns + hour);
    raise(address, &other, "", now_ns + hour);
    wait_until(|| (count(&server, "explained"), count(&server, "unknown")), |counts| *counts == (1, 1));
    let why = wait_until(|| named(&alertmanager.alerts(), "TapioWhy"), |why| why.len() == 1).remove(0);
    let labels = json!({
        "alertname": "TapioWhy", "tapio_alert": "KubePodCrashLooping", "namespace": "shop", "deployment": "payments",
        "team": "pay",
    });
    assert_eq!((&why["labels"], &why["status"]["state"]), (&labels, &"active".into()), "{why:#}");
    let said = &why["annotations"];
    let text = |key: &str| said[key].as_str().unwrap();
    assert!(text("summary").contains("payments (shop) is OOM-killed"), "{why:#}");
    assert!(text("cause").contains("Deployment shop/payments"), "{why:#}");
    assert!(text("description").contains("Do first: roll back"), "{why:#}");
    assert!(text("description").contains(&format!("kubectl tapio why {}", text("incident"))), "{why:#}");
    // Why it is no annotation of the same alert: who raises it takes that away.
    raise(address, &crash, "second", now_ns + hour);
    let same = wait_until(
        || named(&alertmanager.alerts(), "KubePodCrashLooping"),
        |same| same[0]["annotations"]["summary"] == "second",
    );
    assert_eq!(same[0]["annotations"], json!({ "summary": "second" }));
    let own = wait_until(|| count(&server, "own"), |own| *own > 1);
    assert!(own < 10, "no loop: {own}");
    assert_eq!(count(&server, "explained"), 1);

    // Over a kill; it listens elsewhere then, so that what it knows is what it had on disk.
    server.kill();
    let server = start(directory.path(), &one);
    wait_until(
        || server.get("/metrics"),
        |metrics| metrics.contains(r#"tapio_alerts_answered_total{target="one"} 1"#),
    );
    let end = |status: &str| {
        let alert = json!({ "status": status, "labels": crash, "fingerprint": same[0]["fingerprint"] });
        server.post("/api/v1/alerts", &json!({ "version": "4", "alerts": [alert] }).to_string())
    };
    let (head, said) = end("resolved");
    assert!(head.contains(" 200 ") && said.contains(r#""ended":1"#), "{head}: {said}");
    wait_until(|| named(&alertmanager.alerts(), "TapioWhy"), Vec::is_empty);

    for (body, status, expected) in [
        (json!({ "version": "5", "alerts": [] }), 400, "version: Alertmanager's webhook has 4"),
        (json!({ "alerts": [] }), 422, "this is not what Alertmanager's webhook sends: "),
    ] {
        let (head, said) = server.post("/api/v1/alerts", &body.to_string());
        assert!(head.contains(&format!(" {status} ")) && said.contains(expected), "{body}: {head}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_alertmanager_to_answer_it_says_so() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path(), &["--roles=polku,ahti"]);
    let (head, said) = server.post("/api/v1/alerts", &json!({ "version": "4", "alerts": [] }).to_string());
    assert!(head.contains(" 409 ") && said.contains("add `notify.NAME.alertmanager.url`"), "{head}: {said}");
}
