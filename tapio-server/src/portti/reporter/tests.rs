mod again;

use std::{path::Path, sync::Arc};

use kube::api::DynamicObject;
use proptest::prelude::*;
use serde_json::{Value, json};
use tapio_occurrence::kubernetes::{Change, Condition, Deleted, Fact, Object, Synced, Verb, Warning};
use tempfile::TempDir;

use super::*;
use crate::portti::{event::Event, kinds::kind, read::SECOND_NS};

/// 2026-11-20T01:46:40Z
const CREATED: u64 = 1_795_139_200 * SECOND_NS;

/// A reporter with its state in a directory.
struct Run {
    reporter: Reporter,
    now_unix_ns: u64,
}

impl Run {
    fn start(directory: &Path, second: u64) -> Self {
        let store = Store::open(directory).unwrap();
        let reporter = Reporter::new(store, None, Arc::default()).unwrap();
        Self { reporter, now_unix_ns: CREATED + second * SECOND_NS }
    }

    /// What is said of these, without what is synced.
    fn facts(&mut self, kind_name: &str, whats: Vec<What>) -> Vec<Occurrence> {
        let (kind, at_unix_ns) = (kind(kind_name).unwrap(), self.now_unix_ns);
        let items = whats.into_iter().map(|what| Item { kind, at_unix_ns, what }).collect();
        let mut facts = self.reporter.compare(items, self.now_unix_ns).unwrap();
        facts.retain(|fact| fact.kind != Synced::TYPE);
        facts
    }

    fn messages(&mut self, kind_name: &str, whats: Vec<What>) -> Vec<String> {
        let facts = self.facts(kind_name, whats);
        self.delivered();
        facts.into_iter().filter(|fact| fact.kind != Object::TYPE).map(|fact| fact.message).collect()
    }

    fn list(&mut self, kind_name: &str, objects: Vec<What>) -> Vec<String> {
        let whats = [What::Listing].into_iter().chain(objects).chain([What::Listed]);
        self.messages(kind_name, whats.collect())
    }

    /// The facts have arrived, and that is written down.
    fn delivered(&mut self) {
        self.reporter.delivered();
        self.reporter.close().unwrap();
    }

    /// What an earlier run did not deliver, without what is synced.
    fn undelivered(&self) -> Vec<Occurrence> {
        let mut facts = self.reporter.undelivered().unwrap();
        facts.retain(|fact| fact.kind != Synced::TYPE);
        facts
    }

    fn later(&mut self, seconds: u64) {
        self.now_unix_ns += seconds * SECOND_NS;
    }
}

fn dynamic(name: &str, uid: &str, version: u64, metadata: &Value, content: &Value) -> DynamicObject {
    let mut object = content.clone();
    object["metadata"] = json!({
        "name": name, "namespace": "shop", "uid": uid, "resourceVersion": version.to_string(),
        "creationTimestamp": "2026-11-20T01:46:40Z",
    });
    for (key, value) in metadata.as_object().unwrap() {
        object["metadata"][key] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

fn what(kind_name: &str, object: DynamicObject) -> What {
    What::Object(Box::new(Arrived::read(kind(kind_name).unwrap(), object, &Salt::of(b"s")).unwrap()))
}

fn map(name: &str, version: u64, value: &str) -> What {
    what("ConfigMap", dynamic(name, name, version, &json!({}), &json!({ "data": { "a": value } })))
}

fn pod(version: u64, content: &Value) -> What {
    what("Pod", dynamic("pay", "p", version, &json!({}), content))
}

#[test]
fn the_first_list_says_what_is_and_later_ones_what_changed() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = Run::start(directory.path(), 100);
    assert!(run.list("ConfigMap", vec![map("a", 1, "1"), map("b", 2, "1")]).is_empty());
    assert_eq!(run.messages("ConfigMap", vec![map("a", 3, "2")]), ["ConfigMap shop/a: key a changed"]);
    assert_eq!(run.messages("ConfigMap", vec![map("c", 4, "1")]), ["ConfigMap shop/c: created"]);
    drop(run);
    let mut run = Run::start(directory.path(), 200);
    assert!(run.list("ConfigMap", vec![map("a", 3, "2"), map("b", 2, "1"), map("c", 4, "1")]).is_empty());
    let said = run.list("ConfigMap", vec![map("a", 5, "3"), map("b", 2, "1")]);
    assert_eq!(
        said,
        ["ConfigMap shop/a: key a changed", "ConfigMap shop/c: deleted", "ConfigMap shop/c is gone"]
    );
}

#[test]
fn what_is_sent_again_has_the_same_id_and_time() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = Run::start(directory.path(), 100);
    run.list("ConfigMap", vec![map("a", 1, "1"), map("b", 2, "1")]);
    // No writers are noted, so nothing but the arrival says when it was.
    let list = || vec![What::Listing, map("a", 3, "2"), What::Listed];
    run.later(10);
    let first = run.facts("ConfigMap", list());
    assert_eq!(first.len(), 3, "{first:?}");
    drop(run);
    // The run ended before it knew that they had arrived.
    let mut run = Run::start(directory.path(), 500);
    assert_eq!(run.undelivered(), first);
    run.delivered();
    // A new run says once more what there is; the receiver drops it as a repeat.
    let again = run.facts("ConfigMap", list());
    assert_eq!(again.iter().map(|fact| &*fact.kind).collect::<Vec<_>>(), [Object::TYPE]);
    run.delivered();
    drop(run);
    assert!(Run::start(directory.path(), 900).undelivered().is_empty());
}

#[test]
fn a_deletion_that_has_to_wait_is_said_when_it_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = Run::start(directory.path(), 100);
    run.list("ConfigMap", vec![map("a", 1, "1")]);
    let metadata = json!({ "deletionTimestamp": "2026-11-20T01:48:20Z", "finalizers": ["x"] });
    let held = || what("ConfigMap", dynamic("a", "a", 2, &metadata, &json!({ "data": { "a": "1" } })));
    let asked = run.facts("ConfigMap", vec![held()]);
    run.delivered();
    assert_eq!((asked[0].message.as_str(), asked.len()), ("ConfigMap shop/a: deleted", 1));
    assert_eq!(asked[0].time_unix_ns, CREATED + 100 * SECOND_NS);
    assert!(run.list("ConfigMap", vec![held()]).is_empty());
    let gone = run.messages("ConfigMap", vec![What::Gone("ConfigMap/shop/a".to_owned())]);
    assert_eq!(gone, ["ConfigMap shop/a is gone"]);
}

#[test]
fn a_pod_that_does_not_get_ready_has_a_minute() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = Run::start(directory.path(), 1);
    let ready = |status: &str, second: u32| {
        json!({ "spec": { "nodeName": "node-a" }, "status": {
            "phase": "Running", "startTime": "2026-11-20T01:46:40Z", "conditions": [{
                "type": "Ready", "status": status, "lastTransitionTime": format!("2026-11-20T01:46:{second}Z"),
            }],
        } })
    };
    assert!(run.list("Pod", vec![pod(1, &ready("False", 40))]).is_empty());
    assert_eq!(run.reporter.due_unix_ns(), Some(CREATED + 60 * SECOND_NS));
    run.later(30);
    assert!(run.messages("Pod", vec![]).is_empty());
    // A restart does not forget it.
    drop(run);
    let mut run = Run::start(directory.path(), 40);
    assert!(run.list("Pod", vec![pod(1, &ready("False", 40))]).is_empty());
    run.later(20);
    assert_eq!(run.messages("Pod", vec![]), ["Pod shop/pay: NotReady"]);
    run.later(20);
    assert!(run.messages("Pod", vec![pod(2, &ready("False", 40))]).is_empty());
    assert_eq!(run.messages("Pod", vec![pod(3, &ready("True", 58))]), ["Pod shop/pay: no longer NotReady"]);
    // One that gets ready in time has no state.
    drop(run);
    let other = tempfile::tempdir().unwrap();
    let mut run = Run::start(other.path(), 1);
    run.list("Pod", vec![pod(1, &ready("False", 40))]);
    run.messages("Pod", vec![pod(2, &ready("True", 45))]);
    run.later(100);
    assert!(run.messages("Pod", vec![]).is_empty());
    // Only the next sign of life.
    assert!(run.reporter.due_unix_ns() > Some(CREATED + 101 * SECOND_NS));
}

#[test]
fn a_state_does_not_end_because_the_pod_is_deleted_or_has_failed() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = Run::start(directory.path(), 100);
    let content = |phase: &str| {
        json!({ "spec": { "nodeName": "node-a" }, "status": {
            "phase": phase, "startTime": "2026-11-20T01:46:40Z", "conditions": [{
                "type": "Ready", "status": "False", "lastTransitionTime": "2026-11-20T01:47:50Z",
            }],
        } })
    };
    assert_eq!(run.list("Pod", vec![pod(1, &content("Running"))]), ["Pod shop/pay: NotReady"]);
    assert!(run.messages("Pod", vec![pod(2, &content("Failed"))]).is_empty());
    let metadata = json!({ "deletionTimestamp": "2026-11-20T01:48:20Z", "deletionGracePeriodSeconds": 30 });
    let deleting = what("Pod", dynamic("pay", "p", 3, &metadata, &content("Running")));
    let facts = run.facts("Pod", vec![deleting]);
    assert_eq!((facts.len(), facts[0].message.as_str()), (1, "Pod shop/pay: deleted"));
    assert_eq!(facts[0].time_unix_ns, CREATED + 70 * SECOND_NS, "when it was asked for");
}

#[test]
fn a_service_keeps_its_state_while_slices_are_listed_anew() {
    let directory = tempfile::tempdir().unwrap();
    let service = || {
        let content = json!({ "spec": { "selector": { "app": "pay" }, "ports": [{ "port": 80 }] } });
        what("Service", dynamic("pay", "s", 1, &json!({}), &content))
    };
    let slice = |version: u64, ready: bool| {
        let labels = json!({ "labels": { "kubernetes.io/service-name": "pay" } });
        let content =
            json!({ "endpoints": [{ "addresses": ["10.0.0.1"], "conditions": { "ready": ready } }] });
        what("EndpointSlice", dynamic("pay-1", "e", version, &labels, &content))
    };
    let mut run = Run::start(directory.path(), 100);
    assert!(run.list("Service", vec![service()]).is_empty(), "no slice is known yet");
    let begins = ["Service shop/pay: NoEndpoints (the only endpoint is not ready)"];
    assert_eq!(run.list("EndpointSlice", vec![slice(1, false)]), begins);
    for kind_name in ["EndpointSlice", "Service", "EndpointSlice"] {
        let object = if kind_name == "Service" { service() } else { slice(1, false) };
        assert!(run.list(kind_name, vec![object]).is_empty(), "{kind_name}");
    }
    // Also over a restart, whichever is listed first.
    drop(run);
    let mut run = Run::start(directory.path(), 200);
    assert_eq!(run.list("Service", vec![service()]), begins, "as far as is known it lasts");
    let ends = ["Service shop/pay: no longer NoEndpoints"];
    assert_eq!(run.list("EndpointSlice", vec![slice(2, true)]), ends);
    let facts = run.facts("EndpointSlice", vec![What::Listing, What::Listed]);
    let messages: Vec<_> = facts.iter().map(|fact| fact.message.as_str()).collect();
    let expected = ["EndpointSlice shop/pay-1 is gone", "Service shop/pay: NoEndpoints (no endpoints)"];
    assert_eq!((messages.as_slice(), facts[1].time_unix_ns), (&expected[..], run.now_unix_ns));
}

#[test]
fn a_node_that_went_silent_did_so_at_its_last_sign_of_life() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = Run::start(directory.path(), 100);
    let node = |version: u64, status: &str, reason: &str| {
        let content = json!({ "status": { "conditions": [{
            "type": "Ready", "status": status, "reason": reason, "lastTransitionTime": "2026-11-20T01:47:40Z",
        }] } });
        what("Node", dynamic("node-a", "n", version, &json!({}), &content))
    };
    run.list("Node", vec![node(1, "True", "KubeletReady")]);
    run.list("Lease", vec![What::Sign("node-a".to_owned(), CREATED + 20 * SECOND_NS)]);
    let facts = run.facts("Node", vec![node(2, "Unknown", "NodeStatusUnknown")]);
    let state = facts.iter().find(|fact| fact.kind == Condition::TYPE).unwrap();
    assert_eq!(state.time_unix_ns, CREATED + 20 * SECOND_NS);
}

#[test]
fn events_are_not_said_again_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let event = |version: u64, count: u64| {
        let content = json!({
            "involvedObject": { "kind": "Pod", "namespace": "shop", "name": "pay", "uid": "p" },
            "reason": "BackOff", "message": "restarting", "count": count, "lastTimestamp": "2026-11-20T01:46:50Z",
        });
        let event = Event::read(&dynamic("pay.1", "e", version, &json!({}), &content)).unwrap();
        What::Event(Box::new(event))
    };
    let counts = |facts: Vec<Occurrence>| {
        facts.iter().filter(|fact| fact.kind == Warning::TYPE).map(|fact| fact.count).collect::<Vec<_>>()
    };
    let mut run = Run::start(directory.path(), 100);
    assert_eq!(counts(run.facts("Event", vec![What::Listing, event(1, 3), What::Listed])), [3]);
    run.later(10);
    assert_eq!(counts(run.facts("Event", vec![event(2, 5)])), [0; 0]);
    run.delivered();
    // The two that were not said yet are said by the next run.
    drop(run);
    let mut run = Run::start(directory.path(), 200);
    assert_eq!(counts(run.facts("Event", vec![What::Listing, event(2, 5), What::Listed])), [2]);
    run.later(10);
    assert_eq!(counts(run.facts("Event", vec![event(3, 9)])), [0; 0]);
    run.later(60);
    assert_eq!(counts(run.facts("Event", vec![])), [4]);
    run.delivered();
    // An Event that expires is no fact.
    assert!(run.facts("Event", vec![What::Gone("Event/shop/pay.1".to_owned())]).is_empty());
}

/// What happens to one of three objects, and to the reporter.
#[derive(Clone, Debug)]
enum Step {
    Write(usize, u8),
    Delete(usize),
    /// The reporter hears of what happened since.
    Batch(End),
    /// The reporter ends, and lists anew.
    Restart,
}

/// What becomes of the facts of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Delivered,
    /// They arrive, and the reporter ends before it knows that.
    Unknown,
    /// The reporter ends before they arrive.
    Unsent,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3_usize, 0..3_u8).prop_map(|(which, value)| Step::Write(which, value)),
        1 => (0..3_usize).prop_map(Step::Delete),
        2 => Just(Step::Batch(End::Delivered)),
        1 => Just(Step::Batch(End::Unknown)),
        1 => Just(Step::Batch(End::Unsent)),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..40)
}

/// The world as the API server has it.
#[derive(Default)]
struct World {
    version: u64,
    objects: [Option<(String, u64, u8)>; 3],
    /// What a watch has not delivered yet.
    news: Vec<What>,
}

impl World {
    fn what(&self, which: usize) -> Option<What> {
        let (uid, version, value) = self.objects[which].as_ref()?;
        let content = json!({ "data": { "a": value.to_string() } });
        let name = format!("m{which}");
        Some(what("ConfigMap", dynamic(&name, uid, *version, &json!({}), &content)))
    }

    fn write(&mut self, which: usize, value: u8) {
        self.version += 1;
        let uid = self.objects[which].take().map_or_else(|| format!("u{}", self.version), |(uid, ..)| uid);
        self.objects[which] = Some((uid, self.version, value));
        self.news.extend(self.what(which));
    }

    fn delete(&mut self, which: usize) {
        if self.objects[which].take().is_some() {
            self.news.push(What::Gone(format!("ConfigMap/shop/m{which}")));
        }
    }

    fn list(&mut self) -> Vec<What> {
        self.news.clear();
        let objects = (0..3).filter_map(|which| self.what(which));
        [What::Listing].into_iter().chain(objects).chain([What::Listed]).collect()
    }
}

/// What the receiver has, which drops repeats by id.
#[derive(Default)]
struct Received(Vec<Occurrence>);

impl Received {
    fn take(&mut self, facts: Vec<Occurrence>) {
        for fact in facts {
            match self.0.iter().find(|before| before.id == fact.id) {
                Some(before) => assert_eq!(*before, fact, "it is the same fact"),
                None => self.0.push(fact),
            }
        }
    }
}

fn replay(directory: &TempDir, steps: &[Step]) -> (World, Vec<Occurrence>) {
    let (mut world, mut received, mut second) = (World::default(), Received::default(), 100);
    let mut run = Run::start(directory.path(), second);
    let mut next = Some(world.list());
    for step in steps.iter().cloned().chain([Step::Restart, Step::Batch(End::Delivered)]) {
        second += 1;
        run.now_unix_ns = CREATED + second * SECOND_NS;
        let end = match step {
            Step::Write(which, value) => {
                world.write(which, value);
                continue;
            }
            Step::Delete(which) => {
                world.delete(which);
                continue;
            }
            Step::Batch(end) => {
                let batch = next.take().unwrap_or_else(|| std::mem::take(&mut world.news));
                let facts = run.facts("ConfigMap", batch);
                if end != End::Unsent {
                    received.take(facts);
                }
                end
            }
            Step::Restart => End::Unknown,
        };
        if end == End::Delivered {
            run.reporter.delivered();
        } else {
            drop(run);
            run = Run::start(directory.path(), second);
            received.take(run.undelivered());
            run.reporter.delivered();
            next = Some(world.list());
        }
    }
    (world, received.0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whenever_it_ends_the_receiver_knows_the_world(steps in steps()) {
        let directory = tempfile::tempdir().unwrap();
        let (world, received) = replay(&directory, &steps);
        let deleted: Vec<_> = received.iter().filter_map(Deleted::of).map(|fact| fact.unwrap().object.uid).collect();
        let known: Vec<_> = received.iter().filter_map(Object::of).map(|fact| fact.unwrap().object).collect();
        let alive: Vec<_> = world.objects.iter().flatten().map(|(uid, ..)| Some(uid.clone())).collect();
        for object in &known {
            let times = deleted.iter().filter(|uid| **uid == object.uid).count();
            prop_assert_eq!(times, usize::from(!alive.contains(&object.uid)), "{:?}", object);
        }
        let salt = Salt::of(b"s");
        for (uid, _, value) in world.objects.iter().flatten() {
            prop_assert!(known.iter().any(|object| object.uid.as_ref() == Some(uid)));
            let changes = received.iter().filter_map(Change::of).map(Result::unwrap);
            let is_update = |change: &Change| change.object.uid.as_ref() == Some(uid) && change.verb == Verb::Updated;
            let updates: Vec<_> = changes.filter(is_update).collect();
            for pair in updates.windows(2) {
                prop_assert_eq!(&pair[0].fields[0].to, &pair[1].fields[0].from, "a change is missing");
            }
            if let Some(change) = updates.last() {
                prop_assert_eq!(change.fields[0].to.clone(), Some(salt.hash(&value.to_string())));
            }
        }
    }
}

#[test]
fn each_run_says_once_what_is_as_it_was_with_the_same_ids() {
    let directory = tempfile::tempdir().unwrap();
    let objects = |run: &mut Run, version| {
        let whats =
            vec![What::Listing, pod(version, &json!({ "spec": { "nodeName": "node-a" } })), What::Listed];
        let facts = run.facts("Pod", whats);
        run.delivered();
        facts.into_iter().map(|fact| (fact.id, fact.time_unix_ns, fact.kind)).collect::<Vec<_>>()
    };
    let mut run = Run::start(directory.path(), 1);
    let first = objects(&mut run, 1);
    assert_eq!(first.len(), 1);
    // The same run lists again: it is known.
    assert_eq!(objects(&mut run, 1), []);
    drop(run);
    // Its status has changed, and nothing that is reported.
    let mut run = Run::start(directory.path(), 100);
    assert_eq!(objects(&mut run, 9), first);
    assert_eq!(objects(&mut run, 9), []);
}
