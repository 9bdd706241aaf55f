//! After a restart, and after the API server was away: nothing twice, nothing missed.

use std::time::Duration;

use tapio_occurrence::{
    Occurrence,
    kubernetes::{Aspect, Change, Condition, Deleted, Fact as _, Object, Synced, Verb},
};
use tapio_server::portti::Settings;

use crate::support::{Cluster, Portti, Told, cluster_or_skip};

fn map(cluster: &Cluster, name: &str, value: &str) {
    let text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: shop}}\ndata: {{a: \"{value}\"}}\n"
    );
    cluster.apply("map.yaml", &text, &[]);
}

fn without_synced(told: &Told) -> Vec<String> {
    let own = |message: &String| message.contains(OWN);
    told.messages()
        .into_iter()
        .filter(|message| !message.starts_with(Synced::TYPE) && !own(message))
        .collect()
}

/// The API server's own Service is another one as it comes and goes.
const OWN: &str = "Service default/kubernetes ";

#[tokio::test(flavor = "multi_thread")]
async fn restarts() {
    let cluster = cluster_or_skip!("restarts");
    for name in ["same", "changed", "deleted", "replaced"] {
        map(&cluster, name, "1");
    }
    let portti = Portti::synced(&cluster).await;
    let told = std::sync::Arc::clone(&portti.told);
    told.until(|object: &Object| object.object.name == "replaced").await;
    portti.stop().await;

    let known = told.all();
    told.forget();
    let portti = Portti::start(&cluster, &told, Settings::default()).await;
    portti.settled().await;
    told.until(|object: &Object| object.object.name == "replaced").await;
    // Each run says once what there is, with the same ids; nothing else was not told yet.
    let new = told.all().into_iter().filter(|fact| fact.kind != Synced::TYPE);
    let new: Vec<_> = new.filter(|fact| !fact.message.contains(OWN)).collect();
    let (objects, others): (Vec<_>, Vec<_>) = new.into_iter().partition(|fact| fact.kind == Object::TYPE);
    assert!(objects.iter().all(|fact| known.contains(fact)), "{:#?}", told.messages());
    let lasts = |fact: &Occurrence| {
        let said =
            known.iter().find(|before| before.data == fact.data && before.time_unix_ns == fact.time_unix_ns);
        fact.kind == Condition::TYPE && said.is_some()
    };
    assert!(others.iter().all(lasts), "{:#?}", told.messages());
    portti.stop().await;

    // While it is away.
    map(&cluster, "changed", "2");
    map(&cluster, "created", "1");
    cluster.kubectl(&["delete", "configmap", "deleted", "replaced", "-n", "shop"]);
    map(&cluster, "replaced", "2");
    tokio::time::sleep(Duration::from_secs(2)).await;
    // It is received, and PORTTI ends before it knows that. What the run before could not send may come first.
    told.hold(Some("shop/replaced: created"));
    let portti = Portti::start(&cluster, &told, Settings::default()).await;
    told.change("ConfigMap", "replaced", |change| change.verb == Verb::Created).await;
    portti.stop().await;
    let first = told.all();
    told.forget();
    told.hold(None);
    let portti = Portti::start(&cluster, &told, Settings::default()).await;
    portti.settled().await;

    let (occurrence, change) = told.change("ConfigMap", "changed", |_| true).await;
    let (from, to) = (change.fields[0].from.clone(), change.fields[0].to.clone());
    assert!(change.fields[0].aspect == Aspect::Data && from.is_some() && from != to, "{change:?}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    assert!(now - occurrence.time_unix_ns > 1_000_000_000, "it has the time at which it was made");
    told.change("ConfigMap", "created", |change| change.verb == Verb::Created).await;
    told.until(|deleted: &Deleted| deleted.object.name == "deleted").await;
    told.change("ConfigMap", "deleted", |change| change.verb == Verb::Deleted).await;
    let replaced: Vec<_> = told
        .of::<Change>()
        .into_iter()
        .filter(|(_, change)| change.object.name == "replaced")
        .map(|(_, change)| (change.verb, change.object.uid))
        .collect();
    assert_eq!((replaced[0].0, replaced[1].0, replaced.len()), (Verb::Deleted, Verb::Created, 2));
    assert_ne!(replaced[0].1, replaced[1].1);
    let is_same = |fact: &Occurrence| fact.message.contains("shop/same") && fact.kind != Object::TYPE;
    assert!(!told.all().iter().any(is_same), "{:#?}", told.messages());
    told.assert_distinct();
    // What was sent before is sent again with the same ids.
    let again: Vec<_> = told.all();
    for fact in first.iter().filter(|fact| fact.kind != Synced::TYPE && !known.contains(fact)) {
        assert!(again.iter().any(|other| other == fact), "{fact:?} in {:#?}", told.messages());
    }
    portti.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_goes_and_comes() {
    let cluster = cluster_or_skip!("the_api_server_goes_and_comes");
    map(&cluster, "changed", "1");
    let portti = Portti::synced(&cluster).await;
    let told = &portti.told;
    told.until(|object: &Object| object.object.name == "changed").await;
    told.forget();
    tokio::task::block_in_place(|| {
        cluster.server.program("kube-apiserver").stop().unwrap();
        cluster.server.resume().unwrap();
    });
    map(&cluster, "changed", "2");
    told.change("ConfigMap", "changed", |_| true).await;
    // The relist told nothing but that it is complete.
    let said = without_synced(told);
    assert_eq!(said.len(), 1, "{said:#?}");
    told.assert_distinct();
    portti.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_facts_are_not_accepted_nothing_is_read() {
    let cluster = cluster_or_skip!("while_facts_are_not_accepted_nothing_is_read");
    let portti = Portti::synced(&cluster).await;
    let told = &portti.told;
    told.hold(Some("shop/changed"));
    for nth in 0..5 {
        map(&cluster, "changed", &nth.to_string());
    }
    told.until(|object: &Object| object.object.name == "changed").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = told.all().len();
    map(&cluster, "other", "1");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(told.all().len(), before);
    told.hold(None);
    told.until(|object: &Object| object.object.name == "other").await;
    // The last change was told, too.
    let changes = told.changes().into_iter().filter(|change| change.verb == Verb::Updated);
    assert_eq!(changes.count(), 4, "{:#?}", told.messages());
    told.assert_distinct();
    portti.stop().await;
}
