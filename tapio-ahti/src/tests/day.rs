//! A day of a healthy cluster in which everything changes, with one failure in it.

use tapio_occurrence::{
    Data,
    kubernetes::{Aspect, condition},
};

use super::kit::Cluster;
use crate::{
    Without,
    incident::{Certainty, Incident, Status},
};

/// What is normal around a rollout: a probe that fails once, pods that end and refuse the last connections, a warm-up that
/// is throttled, a job that fails once.
fn churn(cluster: &mut Cluster, hour: u64) {
    let names = ["payments", "checkout", "stock", "gateway"];
    for (nth, name) in (0..).zip(names) {
        let (client, server) =
            if name == "gateway" { ("checkout", "payments") } else { ("gateway", "checkout") };
        cluster.roll_out(name, &format!("{name}:{hour}"));
        cluster.warning("Pod", &cluster.newest(name), "Unhealthy");
        cluster.connects("network.connection_refused", client, server, 4);
        cluster.agent("node.cpu_throttled", name, 0, "throttled while it starts", Data::default());
        cluster.agent("network.rtt_spike", name, 1, "slower for a moment", Data::default());
        if nth == 2 {
            cluster.agent(
                "container.exit_error",
                name,
                0,
                "exited with 1",
                Data::from([("status", 1u64.into())]),
            );
            let more = hour % 3 + 3;
            cluster.edit("Deployment", name, Aspect::Replicas, "3", &more.to_string());
        }
        cluster.wait(780);
    }
}

#[test]
fn of_a_day_of_changes_there_is_the_one_incident_that_there_was() {
    let mut cluster = Cluster::shop();
    (0..18).for_each(|hour| churn(&mut cluster, hour));
    assert_eq!(cluster.incidents(), []);
    cluster.roll_out("stock", "registry/stock:nothing");
    let pod = cluster.newest("stock");
    let text = "Back-off pulling image \"registry/stock:nothing\"";
    cluster.condition("Pod", &pod, condition::WAITING, "ImagePullBackOff", text);
    cluster.wait(300);
    let incident = cluster.incident();
    assert_eq!(incident.root.as_ref().map(|root| &*root.name), Some("stock"), "{incident:#?}");
    assert!(incident.certainty >= Certainty::Likely, "{incident:#?}");
    cluster.delete("Pod", &pod);
    (18..24).for_each(|hour| churn(&mut cluster, hour));
    let over = cluster.incident();
    assert_eq!((&over.id, over.status), (&incident.id, Status::Resolved));
}

/// Numbers without a pattern, the same in each run.
fn draw(state: &mut u64, of: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % of
}

/// Two hundred rollouts a day, and a worker that is OOM-killed thirty times a day whenever it likes: rollouts are not blamed for
/// it, and one that breaks something else still is.
#[test]
fn of_what_is_usual_many_rollouts_are_not_blamed() {
    const ROLLOUTS: u64 = 200;
    const EACH_S: u64 = 86_400 / ROLLOUTS;
    let mut cluster = Cluster::shop();
    cluster.beat_s = 80;
    let mut state = 7;
    for _ in 0..ROLLOUTS {
        let end_ns = cluster.now_ns + EACH_S * 1_000_000_000;
        let name = ["payments", "checkout", "stock", "gateway"][draw(&mut state, 4) as usize];
        cluster.roll_out(name, "another");
        if draw(&mut state, ROLLOUTS) < 30 {
            cluster.wait(draw(&mut state, 350));
            cluster.oom("payments");
            cluster.wait(60);
        }
        cluster.wait(end_ns.saturating_sub(cluster.now_ns) / 1_000_000_000);
    }
    let mut blamed = [0, 0];
    for (blamed, learning) in blamed.iter_mut().zip([true, false]) {
        let mut engine = super::engine().without(Without { learning, ..Without::default() });
        cluster.facts.iter().for_each(|fact| engine.take(fact).unwrap());
        let is_blamed = |incident: &&&Incident| incident.root_kind.as_deref() == Some("rollout");
        // What comes back within a day is the same incident.
        let times = |incident: &&Incident| 1 + incident.seen_before;
        *blamed = engine.incidents().iter().filter(is_blamed).map(times).sum::<u64>();
    }
    let [without, with] = blamed;
    assert!(without > 20 && with < 5, "{without} without learning, {with} with it");
    cluster.roll_out("payments", "payments:exits");
    cluster.wait(20);
    for _ in 0..4 {
        let data = Data::from([("status", 1u64.into())]);
        cluster.agent("container.exit_error", "payments", 0, "exited with 1", data);
        cluster.wait(20);
    }
    let answer = cluster.why("payments");
    let root = answer.root.as_ref().map(|root| &*root.name);
    assert_eq!((root, answer.root_kind.as_deref()), (Some("payments"), Some("rollout")), "{answer:#?}");
    assert!(answer.certainty >= Certainty::Likely, "{answer:#?}");
}

/// What has more causes than are weighed together is explained by the likeliest.
#[test]
fn of_three_hundred_edits_a_day_it_is_the_last_one() {
    let mut cluster = Cluster::shop();
    cluster.beat_s = 80;
    for _ in 0..300 {
        cluster.edit("ConfigMap", "payments-config", Aspect::Data, "a", "b");
        cluster.wait(240);
    }
    cluster.edit("ConfigMap", "payments-config", Aspect::Data, "b", "wrong");
    let edited_ns = cluster.now_ns;
    cluster.beat_s = 20;
    cluster.wait(60);
    exit(&mut cluster, 1);
    let incident = cluster.why("payments");
    assert_eq!(incident.root.as_ref().map(|root| &*root.name), Some("payments-config"), "{incident:#?}");
    assert_eq!(incident.lines[0].since_unix_ns, edited_ns, "{incident:#?}");
    let left_out: Vec<String> = incident.missing.iter().map(ToString::to_string).collect();
    let is_said =
        |text: &&String| text.ends_with("findings that matter least were left out: 256 are weighed together");
    let count = left_out.iter().find(is_said).and_then(|text| text.split_once(' ')?.0.parse::<usize>().ok());
    let mut engine = cluster.run();
    engine.incidents();
    assert!(count.is_some_and(|count| count >= 45 && count == engine.stock().left_out), "{left_out:?}");
}

/// And what has more effects keeps its cause, and each kind of effect.
#[test]
fn of_three_hundred_pods_that_fail_the_cause_is_found() {
    let mut cluster = Cluster::shop();
    cluster.roll_out("payments", "payments:exits");
    (0..300).for_each(|_| drop(cluster.pod("payments")));
    cluster.beat_s = 20;
    exit(&mut cluster, 300);
    let incident = cluster.why("payments");
    let root = incident.root.as_ref().map(|root| &*root.name);
    assert_eq!((root, incident.root_kind.as_deref()), (Some("payments"), Some("rollout")), "{incident:#?}");
    assert!(incident.certainty >= Certainty::Likely, "{incident:#?}");
}

/// So many pods exit, again and again.
fn exit(cluster: &mut Cluster, pods: usize) {
    for _ in 0..4 {
        for nth in 0..pods {
            let data = Data::from([("status", 1u64.into())]);
            cluster.agent("container.exit_error", "payments", nth, "exited with 1", data);
        }
        cluster.wait(cluster.beat_s);
    }
}

/// Where memory takes an hour to run out, an hour is no reason to doubt.
#[test]
fn lags_that_were_proved_fit_afterwards() {
    let mut cluster = Cluster::shop();
    cluster.beat_s = 80;
    for _ in 0..12 {
        cluster.limit("payments", "512Mi", "128Mi");
        cluster.wait(3_600);
        cluster.oom_of("payments", 0, 128 << 20);
        cluster.wait(3_600);
    }
    cluster.roll_out("stock", "stock:2");
    cluster.wait(3_600);
    cluster.oom("stock");
    cluster.wait(160);
    let score = |learning| {
        let mut engine = super::engine().without(Without { learning, ..Without::default() });
        cluster.facts.iter().for_each(|fact| engine.take(fact).unwrap());
        let incident = engine.why(Some("deploy"), Some("shop"), "stock").incident.unwrap();
        assert_eq!(incident.root_kind.as_deref(), Some("rollout"), "{incident:#?}");
        incident.considered[0].score
    };
    let (with, without) = (score(false), score(true));
    assert!(with > without + 0.2, "{without} without learning, {with} with it");
}
