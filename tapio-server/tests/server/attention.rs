//! Who takes care of an incident, and what is muted: kept, shown, and minded by notifications.

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::{
    answers::send,
    notify::{failure, start},
    receiver::Receiver,
    support::{Server, wait_until},
};

fn incident(server: &Server) -> Value {
    let (_, body) = server.answer("/api/v1/incidents");
    serde_json::from_str::<Value>(&body).unwrap_or_default()["incidents"][0].clone()
}

fn say(server: &Server, path: &str, body: &Value) -> (String, String) {
    server.post(path, &body.to_string())
}

/// As somebody who may.
fn done(server: &Server, path: &str, body: &Value) {
    let (head, said) = say(server, path, body);
    assert!(head.contains(" 200 "), "{path} {body}: {head}: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_say_outlives_a_kill_and_is_shown_everywhere() {
    let directory = tempdir().unwrap();
    let flags = ["--roles=polku,ahti"];
    let server = Server::start(directory.path(), &flags);
    send(&server, &failure()).await;
    let id = wait_until(|| incident(&server), |incident| incident["id"].is_string())["id"].clone();
    let id = id.as_str().unwrap();
    let (ack, mute) = (format!("/api/v1/incidents/{id}/ack"), format!("/api/v1/incidents/{id}/mute"));
    done(&server, &ack, &json!({ "reason": "it is the cache" }));
    done(&server, &mute, &json!({ "for": "2h" }));
    let is_said = |incident: &Value| incident["ack"].is_object() && incident["mute"].is_object();
    wait_until(|| incident(&server), is_said);
    server.kill();

    let server = Server::start(directory.path(), &flags);
    let kept = wait_until(|| incident(&server), is_said);
    assert_eq!(kept["ack"]["reason"], "it is the cache", "{kept:#}");
    let lasts_ns =
        kept["mute"]["until_unix_ns"].as_u64().unwrap() - kept["mute"]["at_unix_ns"].as_u64().unwrap();
    assert_eq!(lasts_ns / 1_000_000_000, 7_199, "{kept:#}");
    let (_, page) = server.answer(&format!("/incidents/{id}"));
    assert!(page.contains("Acknowledged at ") && page.contains(": it is the cache"), "{page}");
    assert!(page.contains("Muted until "), "{page}");
    let (_, page) = server.answer("/");
    assert!(page.contains("<span>muted</span>"), "{page}");

    done(&server, &ack, &json!({ "undo": true }));
    done(&server, &mute, &json!({ "undo": true }));
    wait_until(|| incident(&server), |incident| incident["ack"].is_null() && incident["mute"].is_null());
    // All that is in a namespace.
    let list = || server.answer("/api/v1/mutes").1;
    done(&server, "/api/v1/mutes", &json!({ "namespace": "shop", "for": "1h", "reason": "maintenance" }));
    let muted = wait_until(|| incident(&server), |incident| incident["mute"].is_object());
    assert_eq!(muted["mute"]["of"], json!({ "kind": "Namespace", "name": "shop" }));
    assert!(list().contains("maintenance"), "{}", list());
    done(&server, "/api/v1/mutes", &json!({ "namespace": "shop", "undo": true }));
    wait_until(|| incident(&server), |incident| incident["mute"].is_null());
    // The workload that is the cause, and another one.
    done(
        &server,
        "/api/v1/mutes",
        &json!({ "kind": "deploy", "namespace": "shop", "name": "gateway", "for": "1h" }),
    );
    wait_until(list, |list| list.contains("gateway"));
    assert!(incident(&server)["mute"].is_null());
    done(
        &server,
        "/api/v1/mutes",
        &json!({ "kind": "deploy", "namespace": "shop", "name": "payments", "for": "1h" }),
    );
    wait_until(|| incident(&server), |incident| incident["mute"]["of"]["name"] == "payments");

    for (path, body, status, expected) in [
        (&*ack, json!({ "note": "x" }), 400, "unknown field `note`"),
        (&ack, json!({ "reason": "x".repeat(513) }), 400, "reason: longer than 512 characters"),
        (&mute, json!({}), 400, "give until"),
        (&mute, json!({ "until": "2020-01-01T00:00:00Z" }), 400, "is past: it is "),
        ("/api/v1/incidents/TAP-99/ack", json!({}), 404, "TAP-99: there is no such incident"),
        ("/api/v1/incidents/TAP-99/mute", json!({ "for": "1h" }), 404, "TAP-99: there is no such incident"),
        ("/api/v1/mutes", json!({ "for": "1h" }), 400, "give kind, namespace and name"),
        ("/api/v1/mutes", json!({ "kind": "what", "name": "x", "for": "1h" }), 400, "kind: there is no what"),
        (
            "/api/v1/mutes",
            json!({ "kind": "deploy", "name": "x", "for": "1h" }),
            400,
            "give that of the Deployment",
        ),
    ] {
        let (head, said) = say(&server, path, &body);
        assert!(
            head.contains(&format!(" {status} ")) && said.contains(expected),
            "{path} {body}: {head}: {said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_maintenance_is_quiet_and_then_it_is_told_how_it_stands() {
    let directory = tempdir().unwrap();
    let (receiver, address) = Receiver::start(&[], "").await;
    let server = start(directory.path(), &format!("{{webhook: {{url: 'http://{address}'}}}}"));
    // Facts are of another day, and the first one says which.
    let facts = failure();
    let (first, rest) = facts.split_at(1);
    send(&server, first).await;
    wait_until(|| server.status()["roles"]["ahti"]["taken"].clone(), |taken| taken.as_u64() > Some(0));
    let began = Instant::now();
    done(&server, "/api/v1/mutes", &json!({ "namespace": "shop", "for": "6s" }));
    send(&server, rest).await;
    wait_until(|| incident(&server), |incident| incident["mute"].is_object());
    sleep(Duration::from_secs(2));
    assert_eq!(receiver.all().len(), 0);
    let came = receiver.wait(1);
    assert!(began.elapsed() >= Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!(came[0].json()["type"], "dev.tapio.incident.opened.v1");
    let told = directory.path().join("state/notify/one.json");
    wait_until(|| fs::read_to_string(&told).unwrap_or_default(), |text| text.contains("TAP-"));
}
