//! What pages and the API ask for beside incidents: changes, everything about an entity, how far an incident reaches.

use tapio_occurrence::kubernetes::Aspect;

use super::kit::Cluster;
use crate::{blast::Part, graph::Name};

/// payments is rolled out and OOM-killed, checkout is refused, and somebody edited stock's configuration before.
fn failing() -> Cluster {
    let mut cluster = Cluster::shop();
    cluster.edit("ConfigMap", "stock", Aspect::Data, "a", "b");
    cluster.wait(7_200);
    cluster.roll_out("payments", "pay:2");
    cluster.wait(60);
    for _ in 0..4 {
        cluster.oom("payments");
        cluster.refused("checkout", "payments", 40);
        cluster.wait(20);
    }
    cluster
}

fn of_shop(kind: &str, name: &str) -> Name {
    Name::new(kind, Some("shop"), name)
}

#[test]
fn a_change_says_of_which_incident_it_is_the_cause() {
    let mut engine = failing().run();
    let changes = engine.changes();
    let ours: Vec<_> =
        changes.iter().filter(|change| change.line.entity.namespace.as_deref() == Some("shop")).collect();
    let names: Vec<_> = ours.iter().map(|change| &*change.line.entity.name).collect();
    assert_eq!(names, ["payments", "stock"]);
    assert_eq!(ours[0].cause_of, ["TAP-1"]);
    assert_eq!(
        (&*ours[0].verb, &*ours[0].aspects, ours[0].manager.as_deref()),
        ("updated", &["image".to_owned()][..], Some("kubectl"))
    );
    assert!(ours[1].cause_of.is_empty());
    let json = serde_json::to_string(&changes).unwrap();
    assert_eq!(serde_json::from_str::<Vec<crate::changes::Changed>>(&json).unwrap(), changes);
}

#[test]
fn of_a_workload_everything_is_known_also_of_pods_that_are_gone() {
    let cluster = failing();
    let newest = cluster.newest("payments");
    let mut engine = cluster.run();
    let about = engine.about(&of_shop("Deployment", "payments")).unwrap();
    let gone = about.pods.iter().filter(|pod| pod.deleted_unix_ns.is_some()).count();
    assert_eq!((about.pods.len(), gone), (6, 3), "{:#?}", about.pods);
    assert_eq!(about.callers, [of_shop("Deployment", "checkout")]);
    assert!(about.calls.contains(&of_shop("Deployment", "db")), "{:?}", about.calls);
    assert_eq!(about.incidents.iter().map(|of| &*of.id).collect::<Vec<_>>(), ["TAP-1"]);
    assert_eq!(about.changes.len(), 1);
    assert!(about.findings.iter().all(|line| line.kind != "kubernetes.change"));
    assert!(about.findings.iter().any(|line| line.entity.name == newest));

    let mut cluster = cluster;
    cluster.delete("Pod", &newest);
    cluster.wait(5);
    let mut engine = cluster.run();
    let pod = engine.about(&of_shop("Pod", &newest)).unwrap();
    assert!(pod.deleted_unix_ns.is_some());
    assert_eq!(pod.owners.last(), Some(&of_shop("Deployment", "payments")));
    assert_eq!((pod.incidents.len(), pod.changes.len()), (1, 1));
    assert!(!pod.findings.is_empty());
    let after = engine.about(&of_shop("Deployment", "payments")).unwrap();
    assert!(after.findings.iter().any(|line| line.entity.name == newest), "its findings went with the pod");

    let stock = engine.about(&of_shop("Deployment", "stock")).unwrap();
    assert!(stock.incidents.is_empty() && stock.findings.is_empty());
    assert_eq!(engine.about(&of_shop("Deployment", "nobody")), None);
}

#[test]
fn an_incident_reaches_from_its_cause_to_who_depends_on_it() {
    let mut engine = failing().run();
    assert_eq!(engine.blast("TAP-9"), None);
    let blast = engine.blast("tap-1").unwrap();
    let part = |name: &str| {
        let at = blast.members.iter().position(|member| member.name == of_shop("Deployment", name));
        at.map(|at| (at, blast.members[at].part))
    };
    let (payments, checkout, gateway) = (part("payments"), part("checkout"), part("gateway"));
    assert_eq!(payments.map(|(_, part)| part), Some(Part::Cause), "{blast:#?}");
    assert_eq!(checkout.map(|(_, part)| part), Some(Part::Hit));
    assert_eq!(gateway.map(|(_, part)| part), Some(Part::AtRisk));
    assert_eq!(part("stock"), None);
    let reach = |from: Option<(usize, Part)>, to: Option<(usize, Part)>| {
        let (from, to) = (from.unwrap().0, to.unwrap().0);
        blast.reaches.iter().find(|reach| (reach.from, reach.to) == (from, to))
    };
    assert!(reach(payments, checkout).unwrap().because.is_some());
    assert!(reach(checkout, gateway).unwrap().because.is_none());
    assert!(reach(gateway, checkout).is_none());
}

#[test]
fn revisions_are_those_of_the_incidents() {
    let engine = failing().run();
    let revisions: Vec<_> = engine.revisions().map(|(id, revision, _)| (id.to_owned(), revision)).collect();
    assert_eq!(revisions.len(), 1);
    assert!(revisions[0].0 == "TAP-1" && revisions[0].1 > 1, "{revisions:?}");
}
