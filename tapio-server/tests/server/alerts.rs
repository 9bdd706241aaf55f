//! The alerts, checked by the real `promtool` and against the metrics of a real run; and what these metrics say.

use std::process::Command;

use tempfile::tempdir;

use crate::{
    answers::{recorded, send},
    dashboard,
    queries::{check_rules, exposed, is_exposed, promtool, rules, succeeds},
    support::{PROGRAM, Server, free_address, wait_until},
};

const RULES: &str = "deploy/prometheus/tapio-server.rules.yaml";
const RULES_TEST: &str = "deploy/prometheus/tapio-server.rules.test.yaml";

#[test]
fn the_rules_are_right_and_fire_when_they_should() {
    if let Err(reason) = check_rules(RULES, RULES_TEST) {
        println!("SKIP the_rules_are_right_and_fire_when_they_should: {reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_explained_is_counted() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path(), &["--roles=polku,ahti"]);
    let facts = recorded();
    send(&server, &facts).await;
    let taken = facts.len() as f64;
    let text = wait_until(
        || server.get("/metrics"),
        |text| {
            number(text, "tapio_ahti_facts_total{outcome=\"taken\"}") == Some(taken)
                && number(text, "tapio_ahti_behind_facts") == Some(0.0)
        },
    );
    let of = |series: &str| number(&text, series).unwrap_or_else(|| panic!("there is no {series}: {text}"));
    assert!(of("tapio_ahti_entities") > 10.0 && of("tapio_ahti_versions") > 10.0, "{text}");
    assert!(of("tapio_ahti_rules") > 10.0 && of("tapio_ahti_findings") > 0.0, "{text}");
    let incidents: f64 = text
        .lines()
        .filter(|line| line.starts_with("tapio_ahti_incidents{"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
        .sum();
    assert_eq!(incidents, 1.0, "{text}");
    assert_eq!(of("tapio_ahti_incident_delay_seconds_count"), 1.0, "{text}");
    assert_eq!((of("tapio_ahti_behind_seconds"), of("tapio_ahti_restored")), (0.0, 1.0), "{text}");
    assert!(!text.contains("tapio_portti_"), "only who has the role: {text}");
    let status = server.status();
    assert_eq!(status["roles"]["ahti"]["incidents"][0]["count"], 1, "{status:#}");
}

/// The number of a series.
fn number(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_alert_and_no_panel_names_a_metric_or_label_that_a_real_run_does_not_expose() {
    let directory = tempdir().unwrap();
    // With an API server that is away.
    let kubeconfig = directory.path().join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n\
         clusters: [{{name: a, cluster: {{server: \"http://{}\"}}}}]\nusers: [{{name: a, user: {{}}}}]\n",
        free_address()
    );
    std::fs::write(&kubeconfig, text).unwrap();
    let mut command = Command::new(PROGRAM);
    command.env("KUBECONFIG", &kubeconfig);
    let config = directory.path().join("server.yaml");
    std::fs::write(&config, "routes: [{to: out}]\nsinks: {out: {stdout: true}}\nnotify: {all: {webhook: {url: 'http://127.0.0.1:9'}}}\n").unwrap();
    let config = format!("--config={}", config.display());
    let server = Server::start_as(command, free_address(), directory.path(), &[&config]);
    let text = wait_until(
        || server.get("/metrics"),
        |text| number(text, "tapio_portti_facts_total{type=\"kubernetes.synced\"}") >= Some(1.0),
    );
    for (series, expected) in [
        ("tapio_portti_delivery_failures_total", 0.0),
        ("tapio_portti_watch_state{kind=\"Pod\",state=\"failed\"}", 1.0),
        ("tapio_portti_watch_state{kind=\"Pod\",state=\"listing\"}", 0.0),
        ("tapio_portti_watch_state{kind=\"Secret\",state=\"off\"}", 1.0),
        ("tapio_portti_objects{kind=\"Pod\"}", 0.0),
    ] {
        assert_eq!(number(&text, series), Some(expected), "{series}: {text}");
    }
    let exposed = exposed(&text);
    rules(RULES).iter().for_each(|rule| is_exposed(&rule.alert, std::slice::from_ref(&rule.expr), &exposed));
    for (title, query) in dashboard::queries() {
        is_exposed(&title, &[query], &exposed);
    }
    match promtool() {
        Ok(promtool) => succeeds(Command::new(promtool).args(["check", "metrics"]), &text),
        Err(reason) => {
            println!("SKIP no_alert_and_no_panel_names_a_metric_or_label: its last part: {reason}")
        }
    }
}
