//! The dashboard and the alerts, checked by the real `promtool` and against the metrics of a real run of the
//! agent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "prometheus/queries.rs"]
mod queries;
#[path = "../../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "where the cache is")]
mod toolchain;

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use queries::{check_rules, exposed, is_exposed, promtool, read, rules, succeeds};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Time allowed to attach and to report the faults, for a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const RULES: &str = "deploy/prometheus/tapio.rules.yaml";
const RULES_TEST: &str = "deploy/prometheus/tapio.rules.test.yaml";
const DASHBOARD: &str = "deploy/grafana/tapio.json";

/// Each panel's title and queries, with values in place of Grafana's variables.
fn panels() -> Vec<(String, Vec<String>)> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row");
    let queries = |panel: &Value| {
        let targets = panel["targets"].as_array().unwrap().iter();
        let expr = targets.map(|target| target["expr"].as_str().unwrap());
        expr.map(|expr| expr.replace("$__rate_interval", "1m").replace("$instance", ".*")).collect()
    };
    panels.map(|panel| (panel["title"].as_str().unwrap().to_owned(), queries(panel))).collect()
}

#[test]
fn the_rules_are_right_and_fire_when_they_should() {
    if let Err(reason) = check_rules(RULES, RULES_TEST) {
        println!("SKIP the_rules_are_right_and_fire_when_they_should: {reason}");
    }
}

#[test]
fn every_panel_asks_what_can_be_answered() {
    let promtool = match promtool() {
        Ok(promtool) => promtool,
        Err(reason) => return println!("SKIP every_panel_asks_what_can_be_answered: {reason}"),
    };
    let queries = panels().into_iter().flat_map(|(_, queries)| queries).enumerate();
    let rules: Vec<Value> = queries
        .map(|(at, expr)| serde_json::json!({ "record": format!("panel:{at}"), "expr": expr }))
        .collect();
    assert!(rules.len() > 20);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("panels.yaml");
    // JSON is valid YAML.
    let text = serde_json::json!({ "groups": [{ "name": "panels", "rules": rules }] }).to_string();
    std::fs::write(&path, text).unwrap();
    succeeds(Command::new(&promtool).args(["check", "rules"]).arg(&path), "");
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "an id is there twice");
    let mut taken = BTreeSet::new();
    for panel in panels {
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

#[test]
fn no_panel_and_no_alert_names_a_metric_or_label_that_a_real_run_does_not_expose() {
    const NAME: &str = "no_panel_and_no_alert_names_a_metric_or_label_that_a_real_run_does_not_expose";
    if !rustix::process::geteuid().is_root() || !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return println!("SKIP {NAME}: not root, or a kernel without BTF");
    }
    let agent = Agent::start();
    let text = agent.faulted();
    let exposed = exposed(&text);
    let mut asked = panels();
    asked.extend(rules(RULES).into_iter().map(|rule| (rule.alert, vec![rule.expr])));
    asked.iter().for_each(|(what, queries)| is_exposed(what, queries, &exposed));
    match promtool() {
        Ok(promtool) => succeeds(Command::new(promtool).args(["check", "metrics"]), &text),
        Err(reason) => println!("SKIP {NAME}: its last part: {reason}"),
    }
}

/// The agent, with an unreachable gateway and API server.
struct Agent {
    child: Child,
    address: String,
    _state: tempfile::TempDir,
}

impl Agent {
    fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let address = free().to_string();
        let gone = free();
        let kubeconfig = state.path().join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n\
             clusters: [{{name: a, cluster: {{server: \"http://{gone}\"}}}}]\nusers: [{{name: a, user: {{}}}}]\n"
        );
        std::fs::write(&kubeconfig, text).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_tapio"))
            .args(["--output=json", "--node-name=node-a"])
            .args([format!("--listen={address}"), format!("--polku={gone}")])
            .arg(format!("--state-dir={}", state.path().display()))
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("KUBECONFIG", &kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, address, _state: state }
    }

    /// Its metrics once it has reported refused connects, in the default format.
    fn faulted(&self) -> String {
        let closed = free();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.metrics().unwrap_or_default();
            if text.contains("\ntapio_anomalies_total{") {
                return text;
            }
            assert!(Instant::now() < deadline, "no anomaly of a refused connect:\n{text}");
            assert!(TcpStream::connect(closed).is_err());
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn metrics(&self) -> Option<String> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        Some(body.to_owned())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

/// An address without a listener.
fn free() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
