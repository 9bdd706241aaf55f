//! The dashboard and the alerts, checked by the real `promtool` and against the metrics of a real run of the
//! agent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "where the cache is")]
mod toolchain;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::Value;

/// Time allowed to attach and to report the faults, for a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const RULES: &str = "deploy/prometheus/tapio.rules.yaml";
const RULES_TEST: &str = "deploy/prometheus/tapio.rules.test.yaml";
const DASHBOARD: &str = "deploy/grafana/tapio.json";

#[derive(Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    alert: String,
    expr: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap()
}

fn rules() -> Vec<Rule> {
    let rules: Rules = serde_saphyr::from_str(&read(RULES)).unwrap();
    rules.groups.into_iter().flat_map(|group| group.rules).collect()
}

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

/// `promtool`, or why it is missing.
fn promtool() -> Result<PathBuf, String> {
    let kept = toolchain::cache()?.join("promtool/promtool");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).map(|directory| directory.join("promtool"));
    let found = places.chain([kept]).find(|place| place.is_file());
    found.ok_or_else(|| "there is no promtool: cargo xtask setup --ci".to_owned())
}

#[track_caller]
fn succeeds(command: &mut Command, input: &str) {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
}

#[test]
fn the_rules_are_right_and_fire_when_they_should() {
    let promtool = match promtool() {
        Ok(promtool) => promtool,
        Err(reason) => return println!("SKIP the_rules_are_right_and_fire_when_they_should: {reason}"),
    };
    succeeds(Command::new(&promtool).args(["check", "rules"]).arg(file(RULES)), "");
    succeeds(Command::new(&promtool).args(["test", "rules"]).arg(file(RULES_TEST)), "");
    let tested = read(RULES_TEST);
    for Rule { alert, labels, annotations, .. } in rules() {
        assert!(["critical", "warning", "info"].contains(&labels["severity"].as_str()), "{alert}");
        assert!(annotations["description"].len() > 80 && annotations.contains_key("summary"), "{alert}");
        assert!(tested.contains(&alert), "{alert} is not in {RULES_TEST}");
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
    asked.extend(rules().into_iter().map(|rule| (rule.alert, vec![rule.expr])));
    for (what, queries) in asked {
        for (metric, labels) in queries.iter().flat_map(|query| selectors(query)) {
            let Some(known) = exposed.get(metric) else { panic!("{what}: there is no {metric} in\n{text}") };
            // Prometheus adds the instance label when it scrapes.
            let odd = labels.iter().find(|label| **label != "instance" && !known.contains(*label));
            assert_eq!(odd, None, "{what}: {metric} has {known:?}");
        }
    }
    match promtool() {
        Ok(promtool) => succeeds(Command::new(promtool).args(["check", "metrics"]), &text),
        Err(reason) => println!("SKIP {NAME}: its last part: {reason}"),
    }
}

/// Each metric that has a sample, with the labels of all its samples.
fn exposed(text: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        found.entry(name).or_default().extend(names(labels));
    }
    found
}

/// Tapio's metrics in a query, with the labels of their selectors.
fn selectors(query: &str) -> Vec<(&str, Vec<&str>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = query.match_indices("tapio_").map(|(at, _)| at);
    let mut found = Vec::new();
    for start in starts.filter(|&at| !query[..at].ends_with(is_name)) {
        let rest = &query[start..];
        let (name, rest) = rest.split_at(rest.find(|c| !is_name(c)).unwrap_or(rest.len()));
        let labels =
            rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(inner, _)| inner);
        found.push((name, names(labels)));
    }
    found
}

/// The label names of `a="x",b=~"y"`: a, b.
fn names(labels: &str) -> Vec<&str> {
    let pairs = labels.trim_end_matches('}').split("\",").filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split(['=', '!']).next().unwrap().trim_matches([' ', ','])).collect()
}

#[test]
fn queries_are_read() {
    let query = r#"sum(rate(tapio_a_total{x=~"$i",y!="b"}[5m])) / (tapio_b > 0)"#;
    assert_eq!(selectors(query), [("tapio_a_total", vec!["x", "y"]), ("tapio_b", vec![])]);
    let text = "# TYPE tapio_a counter\ntapio_a_total{x=\"1\",y=\"2\"} 3\ntapio_b 1\n";
    assert_eq!(exposed(text)["tapio_a_total"], BTreeSet::from(["x", "y"]));
    assert!(exposed(text)["tapio_b"].is_empty());
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
