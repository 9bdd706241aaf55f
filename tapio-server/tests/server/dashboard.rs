//! The server's dashboard: whole, and what its panels ask for is there.

use std::collections::BTreeSet;

use serde_json::Value;
use tempfile::tempdir;

use crate::{
    answers::{recorded, send},
    queries::read,
    support::{Server, wait_until},
};

const DASHBOARD: &str = "deploy/grafana/tapio-server.json";
const INFINITY: &str = "yesoreyeram-infinity-datasource";

fn panels() -> Vec<Value> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    dashboard["panels"].as_array().unwrap().clone()
}

/// The targets of all panels with a data source, by the panel's title.
fn targets(source: &str) -> Vec<(String, Value)> {
    let is_of = |target: &&Value| target["datasource"]["type"] == source;
    let of = |panel: &Value| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.iter().filter(is_of).map(|target| (title.clone(), target.clone())).collect::<Vec<_>>()
    };
    panels().iter().flat_map(of).collect()
}

/// Each panel's query for Prometheus, with a value in place of Grafana's variable.
pub(crate) fn queries() -> Vec<(String, String)> {
    let expr = |target: &Value| target["expr"].as_str().unwrap().replace("$__rate_interval", "1m");
    let all: Vec<_> =
        targets("prometheus").iter().map(|(title, target)| (title.clone(), expr(target))).collect();
    assert!(all.len() > 20);
    all
}

#[test]
fn the_dashboard_is_whole() {
    let panels = panels();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "an id is there twice");
    let mut taken = BTreeSet::new();
    for panel in &panels {
        let of = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(of("x") + of("w") <= 24, "{panel}");
        for x in of("x")..of("x") + of("w") {
            for y in of("y")..of("y") + of("h") {
                assert!(taken.insert((x, y)), "{} lies over another panel", panel["title"]);
            }
        }
        let described = panel["description"].as_str().is_some_and(|text| text.len() > 20);
        assert!(described || panel["type"] == "row", "{}", panel["title"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_tables_ask_for_is_in_the_answers() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path(), &["--roles=polku,ahti"]);
    let facts = recorded();
    send(&server, &facts).await;
    wait_until(
        || server.status()["roles"]["ahti"].clone(),
        |ahti| ahti["behind"]["facts"] == 0 && ahti["restored"] == true,
    );
    let mute = r#"{"kind": "deploy", "namespace": "shop", "name": "cart", "for": "1h", "reason": "x"}"#;
    assert!(server.post("/api/v1/mutes", mute).0.contains(" 200 "));
    wait_until(|| server.answer("/api/v1/mutes").1, |list| list.contains("cart"));
    let tables = targets(INFINITY);
    assert!(tables.len() > 2);
    for (title, target) in tables {
        let url = target["url"].as_str().unwrap();
        assert!(tapio_server::ahti::paths().any(|path| path == url), "{title}: there is no {url}");
        let (_, body) = server.answer(url);
        let answer: Value = serde_json::from_str(&body).unwrap();
        let rows = answer[target["root_selector"].as_str().unwrap()].as_array().unwrap();
        assert!(!rows.is_empty(), "{title}: {body}");
        let columns = target["columns"].as_array().unwrap();
        for selector in columns.iter().map(|column| column["selector"].as_str().unwrap()) {
            let pointer = format!("/{}", selector.replace('.', "/"));
            // Without users nobody's name is known.
            let is_there = selector == "by" || rows.iter().any(|row| row.pointer(&pointer).is_some());
            assert!(is_there, "{title}: no {selector} in {body}");
        }
        let names: BTreeSet<&str> = columns.iter().map(|column| column["text"].as_str().unwrap()).collect();
        for computed in target["computed_columns"].as_array().into_iter().flatten() {
            let selector = computed["selector"].as_str().unwrap();
            assert!(names.contains(selector.split(' ').next().unwrap()), "{title}: {selector}");
        }
    }
}
