//! Who waits for a CPU, and because of whom.

use tapio_occurrence::{Data, kubernetes::condition};

use super::kit::Cluster;
use crate::{answer::Story, incident::Incident};

const LATENCY: &str = "signal.latency";
/// The chain where nobody is to blame for the waiting.
const ALONE: [&str; 3] = ["signal-delayed", "signal-called-delayed", "signal-slow-callee"];

impl Cluster {
    /// Tasks of a workload's newest pod wait, because those of another one's run.
    fn delayed(&mut self, name: &str, by: Option<&str>) {
        let mut data =
            Data::from([("waited_per_second_us", 620_000_u64.into()), ("since_ms", 6_000_u64.into())]);
        if let Some(by) = by {
            data.push("noisy_neighbour", self.of_pod(by, 0));
        }
        self.agent("cpu.scheduling_delay", name, 0, &format!("{name}: its tasks waited"), data);
    }

    fn slow(&mut self) {
        let all = [
            (LATENCY, "payments", None),
            (LATENCY, "checkout", Some("payments")),
            (LATENCY, "checkout", None),
        ];
        // Latency alone has to last.
        self.signals(&all, 12);
    }
}

#[track_caller]
fn is(incident: &Incident, root: &str, kind: &str, chain: &[&str]) {
    assert_eq!(incident.root.as_ref().map(ToString::to_string).as_deref(), Some(root), "{incident:#?}");
    assert_eq!(incident.root_kind.as_deref(), Some(kind), "{incident:#?}");
    let rules: Vec<_> = incident.chain.iter().map(|step| &*step.rule).collect();
    assert_eq!(rules, chain, "{incident:#?}");
}

#[test]
fn a_neighbour_that_was_rolled_out_makes_others_slow() {
    let mut cluster = Cluster::shop();
    cluster.roll_out("stock", "stock:2");
    cluster.wait(30);
    cluster.delayed("payments", Some("stock"));
    cluster.slow();
    let chain = ["neighbour-changed", "signal-delayed", "signal-called-delayed", "signal-slow-callee"];
    is(&cluster.incident(), "Deployment shop/stock", "rollout", &chain);
}

/// All that wait say the same; what their callers see is part of the story, too.
#[test]
fn a_neighbour_is_said_to_take_what_others_need_and_the_story_is_not_all_of_them() {
    let mut cluster = Cluster::shop();
    cluster.roll_out("stock", "stock:2");
    cluster.wait(30);
    for name in ["payments", "checkout", "gateway", "db"] {
        cluster.delayed(name, Some("stock"));
        cluster.wait(1);
    }
    cluster.connects("network.connection_timeout", "checkout", "payments", 40);
    cluster.wait(60);
    let incident = cluster.why("checkout");
    let title = incident.title.to_string();
    assert!(
        title.contains("because stock (shop) has taken CPU time from its neighbours since it was"),
        "{title}"
    );
    let shown: Vec<_> = Story::of(&incident).then.iter().map(|line| &*line.kind).collect();
    let is_delay = |kind: &&&str| **kind == "cpu.scheduling_delay";
    assert_eq!(shown.iter().position(|kind| *kind == "network.connection_timeout"), Some(4), "{shown:?}");
    assert_eq!(shown.iter().filter(is_delay).count(), 4, "{shown:?}");
}

#[test]
fn a_rollout_of_somebody_who_did_not_run_instead_is_not_blamed() {
    let mut cluster = Cluster::shop();
    cluster.roll_out("db", "db:2");
    cluster.wait(30);
    cluster.delayed("payments", Some("stock"));
    cluster.slow();
    is(&cluster.incident(), "Pod shop/payments-1-9", "cpu", &ALONE);
}

#[test]
fn a_neighbour_without_a_name_is_nobodys_change() {
    let mut cluster = Cluster::shop();
    cluster.roll_out("stock", "stock:2");
    cluster.wait(30);
    cluster.delayed("payments", None);
    cluster.slow();
    is(&cluster.incident(), "Pod shop/payments-1-9", "cpu", &ALONE);
}

#[test]
fn a_pod_that_waits_answers_no_probes() {
    let mut cluster = Cluster::shop();
    cluster.roll_out("stock", "stock:2");
    cluster.wait(30);
    cluster.delayed("payments", Some("stock"));
    cluster.wait(20);
    let pod = cluster.newest("payments");
    cluster.warning_of("Pod", &pod, "Unhealthy", "Readiness probe failed: context deadline exceeded");
    cluster.condition("Pod", &pod, condition::NOT_READY, "ContainersNotReady", "");
    cluster.wait(60);
    let incident = cluster.why("payments");
    assert_eq!(incident.root.as_ref().map(ToString::to_string).as_deref(), Some("Deployment shop/stock"));
    assert!(incident.chain.iter().any(|step| step.rule == "delayed-unhealthy"), "{incident:#?}");
}

#[test]
fn waiting_alone_is_no_incident() {
    let mut cluster = Cluster::shop();
    for _ in 0..5 {
        cluster.delayed("payments", Some("stock"));
        cluster.wait(60);
    }
    cluster.wait(600);
    assert!(cluster.incidents().is_empty(), "{:#?}", cluster.incidents());
}

/// Throttling of a container that is new is reported after a minute, or at the end of the agent's window for what it expects.
#[test]
fn throttling_is_ruled_out_once_it_would_have_been_reported() {
    let is_ruled_out = |seconds| {
        let mut cluster = Cluster::shop();
        // Each takes 40 s.
        for _ in 0..seconds / 40 {
            cluster.connects("network.connection_timeout", "checkout", "payments", 40);
        }
        let ruled_out = cluster.why("checkout").ruled_out;
        ruled_out.iter().any(|text| text.to_string().starts_with("CPU throttling of"))
    };
    assert!(!is_ruled_out(640));
    assert!(is_ruled_out(800));
}
