//! Calls that fail or are slow: with known causes, and without.

use tapio_occurrence::{
    Data,
    kubernetes::condition,
    signal::{ERRORS, LATENCY, LOGS},
};

use super::kit::Cluster;
use crate::incident::{Certainty, Incident, Status};

#[track_caller]
fn is(incident: &Incident, root: &str, kind: &str) {
    let found = (
        incident.root.as_ref().map(ToString::to_string).unwrap_or_default(),
        incident.root_kind.clone().unwrap_or_default(),
    );
    assert_eq!(found, (root.to_owned(), kind.to_owned()), "{incident:#?}");
}

/// payments answers with errors, and so do all that call it.
pub(super) const CASCADE: [(&str, &str, Option<&str>); 5] = [
    (ERRORS, "payments", None),
    (ERRORS, "checkout", Some("payments")),
    (ERRORS, "checkout", None),
    (ERRORS, "gateway", Some("checkout")),
    (ERRORS, "gateway", None),
];

#[test]
fn a_rollout_whose_errors_its_callers_pass_on() {
    let mut cluster = Cluster::shop();
    cluster.roll_out("payments", "pay:2");
    cluster.wait(60);
    cluster.signals(&CASCADE, 4);
    let incident = cluster.incident();
    is(&incident, "Deployment shop/payments", "rollout");
    assert_eq!(incident.certainty, Certainty::Likely);
    assert_eq!(
        incident.title,
        "gateway (shop) is failing because payments (shop) answers with errors since it was rolled out"
    );
    let chain: Vec<_> = incident.chain.iter().map(|step| &*step.rule).collect();
    // What a workload gets and what it answers is one line.
    assert_eq!(chain, ["signal-rollout", "signal-callee", "signal-callee"]);
    assert_eq!(incident.lines.len(), 4);
    assert!(incident.lines.iter().all(|line| line.source == "otlp" || line.kind == "kubernetes.change"));
}

#[test]
fn where_only_servers_report_calls_are_the_way() {
    let mut cluster = Cluster::shop();
    // Before: who calls whom is known from the callers' own signals.
    cluster.calls("checkout", &["payments", "stock"]);
    cluster.calls("gateway", &["checkout"]);
    cluster.roll_out("payments", "pay:2");
    cluster.wait(60);
    cluster.signals(&[(ERRORS, "payments", None), (ERRORS, "checkout", None), (ERRORS, "gateway", None)], 4);
    let incident = cluster.incident();
    is(&incident, "Deployment shop/payments", "rollout");
    assert!(incident.hits.iter().any(|name| name.name == "gateway"), "{incident:#?}");
    // The same without the two callers' signals: they are at risk.
    let mut cluster = Cluster::shop();
    cluster.calls("stock", &["payments"]);
    cluster.roll_out("payments", "pay:2");
    cluster.wait(60);
    cluster.signals(&[(ERRORS, "payments", None)], 2);
    assert!(cluster.incident().at_risk.iter().any(|name| name.name == "stock"), "{:#?}", cluster.incident());
}

#[test]
fn an_innocent_rollout_elsewhere_is_not_blamed() {
    let mut cluster = Cluster::shop();
    cluster.roll_out("stock", "stock:2");
    cluster.wait(30);
    cluster.signals(&CASCADE, 4);
    let incident = cluster.incident();
    assert_eq!((incident.has_cause, incident.certainty), (false, Certainty::Inconclusive), "{incident:#?}");
    assert!(incident.ruled_out.iter().any(|text| *text == "a rollout of payments"), "{incident:#?}");
    assert_eq!(incident.title, "payments (shop) answers with errors; the cause is not known");
}

#[test]
fn a_rollout_that_old_pods_failed_before_is_not_blamed() {
    let mut cluster = Cluster::shop();
    cluster.signals(&[(ERRORS, "payments", None)], 3);
    cluster.wait(1_200);
    cluster.roll_out("payments", "pay:2");
    // The old pods still answer, with errors: their signal has them.
    cluster.wait(5);
    cluster.oom("db");
    cluster.signals(&[(ERRORS, "payments", Some("db")), (ERRORS, "payments", None)], 4);
    let incident = cluster.why("payments");
    is(&incident, "Pod shop/db-1-12", "memory");
}

#[test]
fn callers_wait_for_who_is_throttled() {
    let mut cluster = Cluster::shop();
    for _ in 0..3 {
        let data = Data::from([("throttled_percent", 80u64.into())]);
        cluster.agent("node.cpu_throttled", "payments", 0, "payments is throttled", data);
        cluster.wait(20);
    }
    cluster.signals(
        &[(LATENCY, "payments", None), (LATENCY, "checkout", Some("payments")), (LATENCY, "checkout", None)],
        3,
    );
    let incident = cluster.incident();
    is(&incident, "Pod shop/payments-1-9", "cpu");
    let rules: Vec<_> = incident.chain.iter().map(|step| &*step.rule).collect();
    assert_eq!(rules, ["signal-throttled", "signal-slow-callee"]);
    assert!(incident.hits.iter().any(|name| name.name == "checkout"));
}

#[test]
fn an_oom_kill_and_refusals_explain_errors() {
    let mut cluster = Cluster::shop();
    cluster.oom("payments");
    cluster.refused("checkout", "payments", 40);
    cluster.signals(
        &[(ERRORS, "checkout", Some("payments")), (ERRORS, "checkout", None), (LOGS, "checkout", None)],
        3,
    );
    let incident = cluster.incident();
    is(&incident, "Pod shop/payments-1-9", "memory");
    assert!(incident.lines.iter().any(|line| line.kind == LOGS), "{incident:#?}");
}

#[test]
fn nobody_behind_a_service() {
    let mut cluster = Cluster::shop();
    cluster.scale_to_zero("payments");
    cluster.condition("Service", "payments", condition::NO_ENDPOINTS, "NoEndpoints", "");
    cluster.signals(&[(ERRORS, "checkout", Some("payments")), (ERRORS, "checkout", None)], 3);
    is(&cluster.incident(), "Deployment shop/payments", "scaling");
}

#[test]
fn latency_alone_opens_an_incident_only_if_it_is_large_and_lasts() {
    for (p90_us, minutes, incidents) in [(500_000, 12, 1), (500_000, 3, 0), (90_000, 30, 0), (250_000, 30, 0)]
    {
        let mut cluster = Cluster::shop();
        cluster.p90_us = p90_us;
        cluster.signals(&[(LATENCY, "payments", None)], minutes);
        cluster.wait(900);
        assert_eq!(cluster.incidents().len(), incidents, "{p90_us} us for {minutes} min");
    }
}

#[test]
fn logged_errors_alone_are_no_incident() {
    let mut cluster = Cluster::shop();
    cluster.signals(&[(LOGS, "payments", None)], 20);
    assert_eq!(cluster.incidents(), []);
}

#[test]
fn a_signal_ends() {
    let mut cluster = Cluster::shop();
    let since_ns = cluster.now_ns;
    cluster.signals(&CASCADE[..1], 3);
    assert_eq!(cluster.incident().status, Status::Open);
    cluster.signal_ended(ERRORS, "payments", since_ns);
    let ended_ns = cluster.now_ns;
    cluster.wait(400);
    let incident = cluster.incident();
    assert_eq!(
        (incident.status, incident.resolved_unix_ns),
        (Status::Resolved, Some(ended_ns + 300_000_000_000))
    );
}

#[test]
fn a_trace_leads_to_its_signals_and_incidents() {
    let mut cluster = Cluster::shop();
    cluster.roll_out("payments", "pay:2");
    cluster.wait(60);
    let trace_id = format!("{:032x}", cluster.now_ns + 30_000_000_000);
    cluster.signals(&CASCADE, 3);
    let mut engine = cluster.run();
    let found = engine.correlate(&trace_id.to_ascii_uppercase());
    assert_eq!((found.signals.len(), found.incidents.len(), &found.nothing), (5, 1, &None));
    assert_eq!(
        found.passed,
        ["Deployment shop/checkout", "Deployment shop/gateway", "Deployment shop/payments"]
    );
    assert!(found.text().contains("INCIDENT  TAP-1  gateway (shop) is failing"), "{}", found.text());
    let found = engine.correlate(&"1".repeat(32));
    assert_eq!((found.signals.len(), found.incidents.len(), found.passed.len()), (0, 0, 0));
    assert!(found.text().starts_with("no signal kept this trace id: Tapio keeps at most 5 exemplars"));
}
