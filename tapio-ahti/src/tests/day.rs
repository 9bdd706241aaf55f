//! A day of a healthy cluster in which everything changes, with one failure in it.

use tapio_occurrence::{
    Data,
    kubernetes::{Aspect, condition},
};

use super::kit::Cluster;
use crate::incident::{Certainty, Status};

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
