//! Who takes care of an incident, and what is muted.

use tapio_occurrence::attention::{Act, Attention};

use super::kit::Cluster;
use crate::{
    answer,
    incident::{Coverage, Incident, Name, Status},
};

fn said(act: Act) -> Attention {
    Attention {
        act,
        by: Some("alice".to_owned()),
        incident: None,
        fingerprint: None,
        since_unix_ns: None,
        kind: None,
        namespace: None,
        name: None,
        until_unix_ns: None,
        reason: Some("I look".to_owned()),
    }
}

fn of(incident: &Incident, act: Act) -> Attention {
    Attention {
        incident: Some(incident.id.clone()),
        fingerprint: Some(incident.fingerprint.clone()),
        since_unix_ns: Some(incident.since_unix_ns),
        ..said(act)
    }
}

fn of_object(name: &Name, act: Act) -> Attention {
    let Name { kind, namespace, name } = name.clone();
    Attention { kind: Some(kind), namespace, name: Some(name), ..said(act) }
}

fn failing() -> Cluster {
    let mut cluster = Cluster::shop();
    fail(&mut cluster);
    cluster
}

fn fail(cluster: &mut Cluster) {
    cluster.oom("payments");
    cluster.refused("checkout", "payments", 40);
    cluster.wait(60);
}

#[test]
fn an_acknowledgement_ends_when_the_incident_comes_back() {
    let mut cluster = failing();
    let before = cluster.incident();
    assert_eq!((&before.ack, &before.mute), (&None, &None));
    // After a restart with fewer facts it may have another number.
    let renamed = Attention { incident: Some("TAP-77".to_owned()), ..of(&before, Act::Ack) };
    cluster.portti(&renamed, "");
    let acked = cluster.incident();
    assert_eq!(acked.ack.as_ref().unwrap().by.as_deref(), Some("alice"));
    assert!(acked.revision > before.revision, "streams tell of it");
    let text = answer::text(&acked, &Coverage::default());
    assert!(text.contains("\nACKED     by alice at 2") && text.contains(" UTC: I look\n"), "{text}");
    cluster.wait(30);
    assert_eq!(cluster.incident().ack, acked.ack, "whatever else comes");
    cluster.wait(1_200);
    let over = cluster.incident();
    assert_eq!((over.status, &over.ack), (Status::Resolved, &acked.ack));
    fail(&mut cluster);
    let again = cluster.incident();
    assert_eq!((again.status, again.ack), (Status::Regressed, None));
    let mut cluster = failing();
    cluster.portti(&of(&before, Act::Ack), "");
    cluster.portti(&of(&before, Act::Unack), "");
    assert_eq!(cluster.incident().ack, None);
    let other = Attention { fingerprint: Some("v1:rollout:other".to_owned()), ..of(&before, Act::Ack) };
    cluster.portti(&Attention { since_unix_ns: Some(1), ..other.clone() }, "");
    assert_eq!(cluster.incident().ack, None, "another one that had this number");
    cluster.portti(&other, "");
    assert!(cluster.incident().ack.is_some(), "its cause has become another one");
}

#[test]
fn a_mute_ends_with_its_time() {
    let mut cluster = failing();
    let incident = cluster.incident();
    let until_unix_ns = Some(cluster.run().now_unix_ns() + 120_000_000_000);
    cluster.portti(&Attention { until_unix_ns, ..of(&incident, Act::Mute) }, "");
    let muted = cluster.incident();
    let text = answer::text(&muted, &Coverage::default());
    assert!(text.contains("\nMUTED     until 2") && text.contains(", by alice at 2"), "{text}");
    cluster.wait(60);
    assert_eq!(cluster.incident().mute, muted.mute);
    cluster.wait(60);
    assert_eq!(cluster.incident().mute, None);
}

#[test]
fn a_muted_object_mutes_the_incidents_whose_cause_it_is_and_those_that_hit_nothing_else() {
    let mut cluster = failing();
    let until_unix_ns = Some(cluster.run().now_unix_ns() + 3_600_000_000_000);
    let root = cluster.incident().root.unwrap();
    let [payments, checkout] =
        ["payments", "checkout"].map(|name| Name::new("Deployment", Some("shop"), name));
    let shop = Name::new(crate::attention::NAMESPACE, None, "shop");
    let mut mute = |of: &Name, act| {
        let until_unix_ns = until_unix_ns.filter(|_| act == Act::Mute);
        cluster.portti(&Attention { until_unix_ns, ..of_object(of, act) }, "");
        cluster.incident().mute.and_then(|mute| mute.of)
    };
    assert_eq!(mute(&checkout, Act::Mute), None, "it is hit, and not the cause: {root}");
    assert_eq!(mute(&payments, Act::Mute), Some(payments.clone()), "{root}");
    assert_eq!(mute(&payments, Act::Unmute), None);
    assert_eq!(mute(&shop, Act::Mute), Some(shop.clone()));
    assert_eq!(mute(&Name::new(crate::attention::NAMESPACE, None, "pay"), Act::Unmute), Some(shop.clone()));
    assert_eq!(cluster.run().mutes().len(), 2);
    // One that opens later.
    let mut cluster = Cluster::shop();
    cluster.portti(&Attention { until_unix_ns, ..of_object(&shop, Act::Mute) }, "");
    fail(&mut cluster);
    assert_eq!(cluster.incident().mute.unwrap().of, Some(shop));
}
