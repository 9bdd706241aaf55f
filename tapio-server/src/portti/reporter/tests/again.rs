//! What exists and what lasts is said again before the receiver has let it go.

use std::collections::BTreeSet;

use super::*;

const MINUTE: u64 = 60;
/// How long the receiver retains facts, in seconds.
const RETAINED: u64 = 512 * MINUTE;

/// A receiver that lets go of what it received too long ago, and drops repeats by id.
#[derive(Default)]
struct Journal(Vec<(u64, Occurrence)>);

impl Journal {
    fn take(&mut self, now_unix_ns: u64, facts: Vec<Occurrence>) {
        self.0.retain(|(received, _)| received + RETAINED * SECOND_NS > now_unix_ns);
        for fact in facts {
            if !self.0.iter().any(|(_, known)| known.id == fact.id) {
                self.0.push((now_unix_ns, fact));
            }
        }
    }

    /// What it knows of: the names of objects, and of those in a state.
    fn known<F: Fact>(&self, name: impl Fn(F) -> String) -> BTreeSet<String> {
        self.0.iter().filter_map(|(_, fact)| F::of(fact)).map(|fact| name(fact.unwrap())).collect()
    }
}

fn start(directory: &Path, second: u64) -> Run {
    let mut run = Run::start(directory, second);
    run.reporter = run.reporter.telling_again(RETAINED / 2 * SECOND_NS);
    run
}

fn node() -> What {
    let content = json!({ "status": { "conditions": [
        { "type": "MemoryPressure", "status": "True", "lastTransitionTime": "2026-11-20T01:46:40Z" }
    ] } });
    what("Node", dynamic("node-a", "n", 1, &json!({ "namespace": null }), &content))
}

#[test]
fn what_exists_and_lasts_is_never_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(directory.path(), 100);
    let mut journal = Journal::default();
    let maps: Vec<What> = (0..40).map(|nth| map(&format!("m{nth}"), nth + 1, "1")).collect();
    let whats = [What::Listing].into_iter().chain(maps).chain([What::Listed]).collect();
    let now = run.now_unix_ns;
    journal.take(now, run.facts("ConfigMap", whats));
    run.delivered();
    journal.take(now, run.facts("Node", vec![What::Listing, node(), What::Listed]));
    run.delivered();
    let (mut most, mut said) = (0, 0);
    for minute in 1..=3 * RETAINED / MINUTE {
        run.later(MINUTE);
        let mut whats = Vec::new();
        if minute == 700 {
            whats.push(What::Gone("ConfigMap/shop/m7".to_owned()));
        }
        // It is restarted, which says what there is; the ids are the same.
        if minute == 900 {
            drop(run);
            run = start(directory.path(), 100 + minute * MINUTE);
            whats = vec![What::Listing];
            whats.extend((0..40).filter(|nth| *nth != 7).map(|nth| map(&format!("m{nth}"), nth + 1, "1")));
            whats.push(What::Listed);
        }
        let mut facts = run.facts("ConfigMap", whats);
        run.delivered();
        if minute == 900 {
            facts.extend(run.facts("Node", vec![What::Listing, node(), What::Listed]));
            run.delivered();
        } else {
            most = most.max(facts.len());
        }
        said += facts.len();
        journal.take(run.now_unix_ns, facts);
        let objects = journal.known(|object: Object| object.object.name);
        let expected = if minute < 700 { 41 } else { 40 };
        // Until it is let go, what was deleted is known, too.
        assert!(objects.len() == expected || minute >= 700 && objects.len() == 41, "{minute}: {objects:?}");
        let states = journal.known(|state: Condition| format!("{} {}", state.condition, state.object.name));
        assert!(states.contains("MemoryPressure node-a"), "{minute}: {states:?}");
    }
    assert!(!journal.known(|object: Object| object.object.name).contains("m7"), "it is gone");
    // 41 objects and a state, twice in the time that facts are retained, and once for the restart.
    assert!((5 * 41..=8 * 43).contains(&said), "{said}");
    assert!(most < 8, "{most} at once of 42 in 256 slots");
}

#[test]
fn what_nobody_watches_is_not_said_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(directory.path(), 100);
    run.list("ConfigMap", vec![map("a", 1, "1")]);
    let lost = What::Lost(tapio_kube::Fault { why: "gone".to_owned(), code: None });
    run.messages("ConfigMap", vec![lost]);
    run.later(2 * RETAINED);
    assert_eq!(run.facts("ConfigMap", Vec::new()), []);
    // Nor without an interval.
    let mut run = Run::start(tempfile::tempdir().unwrap().path(), 100);
    run.list("ConfigMap", vec![map("a", 1, "1")]);
    run.later(2 * RETAINED);
    assert_eq!(run.facts("ConfigMap", Vec::new()), []);
}

#[test]
fn everything_is_said_in_parts() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(directory.path(), 100);
    let maps: Vec<What> = (0..600).map(|nth| map(&format!("m{nth}"), nth + 1, "1")).collect();
    let whats = [What::Listing].into_iter().chain(maps).chain([What::Listed]).collect();
    let first: BTreeSet<_> = run.facts("ConfigMap", whats).into_iter().map(|fact| fact.id).collect();
    run.facts("Node", vec![What::Listing, node(), What::Listed]);
    run.delivered();
    run.reporter.tell_all();
    let mut all = Vec::new();
    for _ in 0..3 {
        assert_eq!(run.reporter.due_unix_ns(), Some(0));
        let part = run.facts("ConfigMap", Vec::new());
        assert!(part.len() <= 257, "{}", part.len());
        run.delivered();
        all.extend(part);
    }
    assert_ne!(run.reporter.due_unix_ns(), Some(0));
    assert_eq!(run.facts("ConfigMap", Vec::new()), []);
    // 600 and a node, with its state.
    assert_eq!(all.len(), 602);
    let again: BTreeSet<_> = all.iter().map(|fact| fact.id).collect();
    assert!(first.is_subset(&again), "with the same ids");
}

#[test]
fn replicas_that_hear_of_it_at_other_times_say_the_same() {
    // As the API server notes who wrote what.
    let map = |version: u64, value: &str| {
        let managed = json!({ "managedFields": [{
            "manager": "kubectl", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "time": format!("2026-11-20T02:00:0{version}Z"), "fieldsV1": { "f:data": { "f:a": {} } },
        }] });
        what("ConfigMap", dynamic("a", "a", version, &managed, &json!({ "data": { "a": value } })))
    };
    let ids = |second: u64| {
        let directory = tempfile::tempdir().unwrap();
        let mut run = start(directory.path(), second);
        run.list("ConfigMap", vec![map(1, "1")]);
        run.later(second);
        let mut facts = run.facts("ConfigMap", vec![map(2, "2")]);
        run.later(second);
        facts.extend(run.facts("ConfigMap", vec![What::Gone("ConfigMap/shop/a".to_owned())]));
        facts.into_iter().map(|fact| (fact.kind, fact.id)).collect::<Vec<_>>()
    };
    let (one, other) = (ids(100), ids(137));
    assert_eq!(one.len(), 3, "{one:?}");
    assert_eq!(one, other);
}
