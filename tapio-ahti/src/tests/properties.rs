//! What holds for any facts.

use proptest::{collection::vec, prelude::*, sample::select};
use tapio_occurrence::{
    Occurrence,
    kubernetes::{Object, Reference, condition},
};

use super::{engine, kit::Cluster, signals::CASCADE};
use crate::incident::{Certainty, Incident, Name};

/// Facts of a failure with its true root.
fn failures() -> Vec<(Cluster, &'static str)> {
    let mut limit = Cluster::shop();
    limit.limit("payments", "512Mi", "128Mi");
    limit.wait(10);
    limit.oom_of("payments", 0, 128 << 20);
    limit.refused("checkout", "payments", 40);
    limit.wait(60);
    let mut scaled = Cluster::shop();
    scaled.scale_to_zero("payments");
    scaled.condition("Service", "payments", condition::NO_ENDPOINTS, "NoEndpoints", "");
    scaled.refused("checkout", "payments", 40);
    scaled.wait(60);
    let mut image = Cluster::shop();
    image.roll_out("payments", "registry/pay:nothing");
    let pod = image.newest("payments");
    image.condition(
        "Pod",
        &pod,
        condition::WAITING,
        "ImagePullBackOff",
        "pulling image \"registry/pay:nothing\"",
    );
    image.wait(60);
    let mut signals = Cluster::shop();
    signals.roll_out("payments", "pay:2");
    signals.wait(60);
    signals.signals(&CASCADE, 3);
    vec![(limit, "payments"), (scaled, "payments"), (image, "payments"), (signals, "payments")]
}

fn answers(facts: &[Occurrence]) -> Vec<Incident> {
    let mut engine = engine();
    for fact in facts {
        let _ = engine.take(fact);
    }
    let mut incidents: Vec<_> = engine.incidents().into_iter().cloned().collect();
    for incident in &mut incidents {
        // Which was noticed first, and how often it changed, is a matter of the order.
        (incident.id, incident.revision) = (String::new(), 0);
    }
    incidents.sort_by(|a, b| a.title.cmp(&b.title));
    incidents
}

#[test]
fn the_same_facts_give_the_same_bytes() {
    for (cluster, _) in failures() {
        let bytes = || serde_json::to_string(&cluster.incidents()).unwrap();
        assert_eq!(bytes(), bytes());
    }
}

#[test]
fn without_a_fact_no_other_cause_is_proved() {
    for (cluster, root) in failures() {
        let first = cluster.facts.len() - 60.min(cluster.facts.len());
        for left_out in (0..cluster.facts.len()).filter(|nth| *nth < 60 || *nth >= first) {
            let mut facts = cluster.facts.clone();
            facts.remove(left_out);
            for incident in answers(&facts) {
                let is_right = incident.root.as_ref().is_some_and(|name| name.name == root);
                assert!(incident.certainty != Certainty::Confirmed || is_right, "{incident:#?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_order_of_arrival_does_not_matter(moves in vec((any::<prop::sample::Index>(), 0u64..120), 1..60)) {
        for (cluster, _) in failures() {
            let mut facts: Vec<(u64, Occurrence)> =
                cluster.facts.iter().map(|fact| (fact.time_unix_ns, fact.clone())).collect();
            for (index, seconds) in &moves {
                let late = index.get_mut(&mut facts);
                late.0 += seconds * 1_000_000_000;
            }
            facts.sort_by_key(|(arrival, _)| *arrival);
            let facts: Vec<_> = facts.into_iter().map(|(_, fact)| fact).collect();
            prop_assert_eq!(answers(&facts), answers(&cluster.facts));
        }
    }

    #[test]
    fn any_facts_are_taken(
        parts in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u64>(), any::<bool>()), 1..80)
    ) {
        // Types, data, times and owners of real facts, thrown together.
        let facts: Vec<Occurrence> = failures().into_iter().flat_map(|(cluster, _)| cluster.facts).collect();
        let mut engine = engine();
        for (nth, (one, other, time, is_near)) in parts.iter().enumerate() {
            let (mut fact, other) = (one.get(&facts).clone(), other.get(&facts));
            fact.id = ulid::Ulid::from_parts(1, nth as u128);
            fact.data = other.data.clone();
            fact.workload = other.workload.clone();
            fact.time_unix_ns = if *is_near { fact.time_unix_ns.wrapping_add(time % 10_000_000_000) } else { *time };
            let _ = engine.take(&fact);
        }
        for incident in engine.incidents() {
            // Chains have no circles.
            prop_assert!(incident.chain.iter().all(|step| step.cause != step.effect));
        }
    }

    #[test]
    fn owners_may_go_round_in_circles(kinds in vec(select(vec!["Pod", "ReplicaSet", "Deployment"]), 1..20)) {
        let mut engine = engine();
        let mut cluster = Cluster::shop();
        let reference = |nth: usize| Reference {
            kind: kinds[nth % kinds.len()].to_owned(),
            namespace: Some("shop".to_owned()),
            name: format!("ring-{}", nth % kinds.len()),
            uid: None,
        };
        for nth in 0..kinds.len() {
            let object = Object { object: reference(nth), owners: vec![reference(nth + 1)], ..Object::default() };
            cluster.portti(&object, "");
            cluster.condition(&reference(nth).kind, &reference(nth).name, condition::NOT_READY, "x", "");
        }
        cluster.wait(60);
        for fact in &cluster.facts {
            engine.take(fact).unwrap();
        }
        prop_assert!(engine.incidents().len() <= kinds.len());
        let name = Name::new(kinds[0], Some("shop"), "ring-0");
        engine.why(Some(&name.kind), name.namespace.as_deref(), &name.name);
    }
}
