//! Who has used up what it may have.

use tapio_occurrence::{Data, kubernetes::condition};

use super::kit::Cluster;

impl Cluster {
    /// System calls of a workload's newest pod fail, since it has used up this.
    fn exhausted(&mut self, name: &str, resource: &'static str, error: &'static str) {
        let data = Data::from([
            ("error", error.into()),
            ("system_call", "accept4".into()),
            ("resource", resource.into()),
            ("rate_failures", 600_u64.into()),
            ("failures", 20_u64.into()),
            ("since_ms", 12_000_u64.into()),
        ]);
        self.agent("health.resource_exhausted", name, 0, &format!("{name}: calls fail"), data);
    }

    fn not_ready(&mut self, name: &str) {
        let pod = self.newest(name);
        self.condition("Pod", &pod, condition::NOT_READY, "ContainersNotReady", "");
    }
}

#[track_caller]
fn is(cluster: &Cluster, root: &str, kind: &str, chain: &[&str]) {
    let incident = cluster.why("payments");
    assert_eq!(incident.root.as_ref().map(ToString::to_string).as_deref(), Some(root), "{incident:#?}");
    assert_eq!(incident.root_kind.as_deref(), Some(kind), "{incident:#?}");
    let rules: Vec<_> = incident.chain.iter().map(|step| &*step.rule).collect();
    assert_eq!(rules, chain, "{incident:#?}");
}

#[test]
fn a_rollout_that_leaks_files_is_the_cause() {
    let mut cluster = Cluster::shop();
    cluster.roll_out("payments", "payments:2");
    cluster.wait(60);
    cluster.exhausted("payments", "open_files", "EMFILE");
    cluster.wait(20);
    cluster.not_ready("payments");
    cluster.wait(60);
    is(&cluster, "Deployment shop/payments", "rollout", &["rollout-exhausts", "rollout-not-ready"]);
}

#[test]
fn without_a_rollout_it_is_the_pod_itself() {
    let mut cluster = Cluster::shop();
    cluster.exhausted("payments", "open_files", "EMFILE");
    cluster.wait(20);
    cluster.not_ready("payments");
    cluster.wait(60);
    is(&cluster, "Pod shop/payments-1-9", "files", &["exhausted-ends"]);
}

#[test]
fn a_volume_that_is_full_is_why_writes_fail() {
    let mut cluster = Cluster::shop();
    let data = Data::from([("state", "full".into()), ("resource", "bytes".into())]);
    cluster.agent("storage.filesystem_full", "payments", 0, "payments: its volume is full", data);
    cluster.wait(20);
    cluster.exhausted("payments", "file_system", "ENOSPC");
    cluster.wait(20);
    cluster.not_ready("payments");
    cluster.wait(60);
    let incident = cluster.why("payments");
    assert_eq!(incident.root_kind.as_deref(), Some("storage"), "{incident:#?}");
    assert_eq!(cluster.incidents().len(), 1);
}

#[test]
fn calls_that_fail_alone_are_no_incident() {
    let mut cluster = Cluster::shop();
    for _ in 0..5 {
        cluster.exhausted("payments", "read_only_file_system", "EROFS");
        cluster.wait(60);
    }
    cluster.wait(600);
    assert!(cluster.incidents().is_empty(), "{:#?}", cluster.incidents());
}
