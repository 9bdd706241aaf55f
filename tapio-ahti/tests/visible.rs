//! What a caller may not read is in no byte of an answer: over every recording, with each namespace hidden in turn.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test's helpers fail as its assertions do")]

#[path = "visible/split.rs"]
mod split;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use serde_json::Value;
use split::{PLAZA, VAULT};
use tapio_ahti::{
    Engine, Limits, Rules, answer,
    incident::Incident,
    visible::{Place, Redact, Sight},
};
use tapio_occurrence::Occurrence;

/// Parsed once: that takes longer than most questions.
static RULES: LazyLock<Rules> = LazyLock::new(|| Rules::embedded().unwrap());

/// Kinds without a namespace.
const OF_THE_CLUSTER: &[&str] =
    &["Node", "PersistentVolume", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];
/// Names of objects that are also words of types and of Tapio's own texts: the Service `default/kubernetes`, a Deployment `old`.
const OWN_WORDS: &[&str] = &["kubernetes", "old"];
/// The same in one recording: a Deployment `gateway`, where the cause is a gateway that does not answer.
const OWN_WORD_OF: (&str, &str) = ("bridge", "gateway");
/// Recordings with objects of `payments` under another name, which are in its namespace and would be in the other one.
const NOT_TO_SPLIT: &[&str] = &["account", "quota"];

/// What is in the facts of agents, and is not the namespace `tapio`.
const SOURCE: &str = r#""source":"tapio""#;
const HEARTBEAT: &str = r#""type":"tapio.heartbeat""#;

/// Names by namespace; those that are in none are under the empty one.
type Names = BTreeMap<String, BTreeSet<String>>;

/// Collects names from the JSON of a fact, without anything of what is tested.
fn collect(value: &Value, around: &str, names: &mut Names) {
    match value {
        Value::Object(fields) => {
            let kind = fields.get("kind").and_then(Value::as_str).unwrap_or_default();
            let own = fields.get("namespace").and_then(Value::as_str).unwrap_or(around);
            let namespace = if OF_THE_CLUSTER.contains(&kind) { "" } else { own };
            let is_object = fields.contains_key("kind") || fields.contains_key("namespace");
            for key in ["name", "pod", "service", "owner"] {
                if let Some(name) = fields.get(key).and_then(Value::as_str).filter(|_| is_object) {
                    names.entry(namespace.to_owned()).or_default().insert(name.to_owned());
                }
            }
            fields.values().for_each(|value| collect(value, own, names));
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, around, names)),
        _ => {}
    }
}

/// Somebody who may read all but one place.
struct Caller<'a> {
    engine: &'a Engine,
    hidden: Place,
    /// Whether the graph has let go of all objects, so that of words only namespaces are known.
    forgets: bool,
    sight: Sight,
}

impl<'a> Caller<'a> {
    fn new(engine: &'a Engine, hidden: Place) -> Self {
        Self { engine, hidden, forgets: false, sight: Sight::default() }
    }

    /// Looks until everything is known that has to be.
    fn look<T>(&mut self, mut look: impl FnMut(&mut Sight) -> T) -> T {
        loop {
            let seen = look(&mut self.sight);
            let unknown = self.sight.unknown();
            if unknown.is_empty() {
                return seen;
            }
            for place in unknown.places {
                let may_read = place != self.hidden;
                self.sight.learn(place, may_read);
            }
            let mut words = self.engine.naming(unknown.words);
            if self.forgets {
                words.values_mut().for_each(|named| named.places.clear());
            }
            self.sight.learn_words(words);
        }
    }

    fn left<T: Redact + Clone>(&mut self, answer: &T) -> T {
        self.look(|sight| {
            let mut left = answer.clone();
            left.redact(sight);
            left
        })
    }

    /// The facts that are exported.
    fn exported(&mut self, facts: &[Occurrence]) -> String {
        let shown = self.look(|sight| facts.iter().filter(|fact| sight.shows_fact(fact)).collect::<Vec<_>>());
        shown.into_iter().map(|fact| serde_json::to_string(fact).unwrap() + "\n").collect()
    }
}

/// The first of some names that occurs in a text, not as a part of another one nor as a key of JSON.
fn found<'a>(names: &HashSet<&'a str>, text: &str) -> Option<&'a str> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let mut start = 0;
    for (at, c) in text.char_indices() {
        if is_of_name(c) {
            continue;
        }
        let name = names.get(&text[start..at]);
        if name.is_some() && !text[at..].starts_with("\":") {
            return name.copied();
        }
        start = at + c.len_utf8();
    }
    names.iter().find(|name| name.contains('.') && text.contains(**name)).copied()
}

/// The names that only a hidden namespace has, and its own.
fn secrets<'a>(names: &'a Names, hidden: &'a String) -> HashSet<&'a str> {
    let others = names.iter().filter(|(namespace, _)| *namespace != hidden);
    let open: BTreeSet<&String> = others.flat_map(|(_, names)| names).collect();
    let all = names[hidden].iter().chain([hidden]);
    all.filter(|name| !open.contains(name) && !OWN_WORDS.contains(&name.as_str()))
        .map(String::as_str)
        .collect()
}

struct Recording {
    name: String,
    engine: Engine,
    names: Names,
    facts: Vec<Occurrence>,
}

/// Every recording, as it is, and with its workloads in two namespaces.
fn recordings() -> impl Iterator<Item = Recording> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded");
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let all = paths.flat_map(|path| [(path.clone(), false), (path, true)]);
    let is_meant = |(path, is_split): &(PathBuf, bool)| {
        !is_split || !NOT_TO_SPLIT.iter().any(|name| path.ends_with(format!("{name}.jsonl")))
    };
    all.filter(is_meant).map(|(path, is_split)| {
        let text = fs::read_to_string(&path).unwrap();
        let text = match is_split {
            true => text.lines().map(|line| split::split(line) + "\n").collect(),
            false => text,
        };
        let mut engine = Engine::new(RULES.clone(), Limits::default());
        let (mut names, mut facts) = (Names::new(), Vec::new());
        for line in text.lines() {
            let fact = Occurrence::read_json(line.as_bytes()).unwrap();
            engine.take(&fact).unwrap();
            collect(&serde_json::from_str(line).unwrap(), "", &mut names);
            facts.push(fact);
        }
        Recording { name: path.file_stem().unwrap().to_str().unwrap().to_owned(), engine, names, facts }
    })
}

#[test]
fn a_hidden_namespace_is_in_no_byte() {
    let (mut searched, mut cut, mut counted) = (0, 0, BTreeSet::new());
    for Recording { name: of, mut engine, names, facts } in recordings() {
        let incidents: Vec<Incident> = engine.incidents().into_iter().cloned().collect();
        let (findings, coverage) = (engine.findings(), engine.coverage());
        let named = |incident: &Incident| {
            let names = incident.hits.iter().chain(&incident.at_risk).chain(&incident.root);
            names.cloned().collect::<Vec<_>>()
        };
        let asked: BTreeSet<_> = incidents.iter().flat_map(named).collect();
        let answers: Vec<_> = asked
            .iter()
            .map(|name| engine.why(Some(&name.kind), name.namespace.as_deref(), &name.name))
            .collect();
        let changes = engine.changes();
        let abouts: Vec<_> = asked.iter().map(|name| engine.about(name)).collect();
        let blasts: Vec<_> = incidents.iter().map(|incident| engine.blast(&incident.id)).collect();
        assert!(abouts.iter().all(Option::is_some) && blasts.iter().all(Option::is_some), "{of}");
        for hidden in names.keys().filter(|name| !name.is_empty()) {
            let mut caller = Caller::new(&engine, Place::Namespace(hidden.clone()));
            let mut texts = vec![
                serde_json::to_string(&caller.left(&findings)).unwrap(),
                serde_json::to_string(&caller.left(&coverage)).unwrap(),
                caller.exported(&facts).replace(SOURCE, "").replace(HEARTBEAT, ""),
            ];
            let of_incidents = caller.left(&incidents);
            counted.extend(
                of_incidents.iter().map(|incident| (incident.hidden.cause, incident.hidden.hits > 0)),
            );
            texts.extend(of_incidents.iter().map(|incident| answer::text(incident, &coverage)));
            texts.push(serde_json::to_string(&of_incidents).unwrap());
            for answer in &answers {
                let answer = caller.left(answer);
                texts.extend([serde_json::to_string(&answer).unwrap(), answer.text()]);
            }
            texts.push(serde_json::to_string(&caller.left(&changes)).unwrap());
            texts.extend(abouts.iter().map(|about| serde_json::to_string(&caller.left(about)).unwrap()));
            texts.extend(blasts.iter().map(|blast| serde_json::to_string(&caller.left(blast)).unwrap()));
            let secrets = secrets(&names, hidden);
            for text in &texts {
                searched += text.len();
                assert_eq!(found(&secrets, text), None, "{of}: {hidden} is hidden: {text:.2000}");
            }
            let whole = serde_json::to_string(&findings).unwrap();
            cut += usize::from(texts[0].len() < whole.len());
        }
        // Who may read all of it gets all of it.
        let mut caller = Caller::new(&engine, Place::Everywhere);
        assert_eq!(caller.left(&incidents), incidents, "{of}");
        assert_eq!(caller.left(&changes), changes, "{of}");
        assert!(abouts.iter().all(|about| caller.left(about) == *about), "{of}");
        assert!(blasts.iter().all(|blast| caller.left(blast) == *blast), "{of}");
        assert_eq!(caller.left(&findings), findings, "{of}");
    }
    assert!(searched > 1 << 20 && cut > 20, "{searched} {cut}");
    // Incidents with all, with a hidden cause, and with hidden effects.
    assert!(counted.is_superset(&[(false, false), (true, true), (false, true)].into()), "{counted:?}");
}

#[test]
fn incidents_hide_names_that_the_graph_has_let_go() {
    let mut cut = 0;
    for Recording { name: of, mut engine, names, .. } in recordings() {
        let incidents: Vec<Incident> = engine.incidents().into_iter().cloned().collect();
        for hidden in [VAULT, PLAZA].map(ToOwned::to_owned).iter().filter(|name| names.contains_key(*name)) {
            let place = Place::Namespace(hidden.clone());
            let mut caller = Caller { forgets: true, ..Caller::new(&engine, place) };
            let left = caller.left(&incidents);
            cut += left.iter().filter(|incident| !incident.hidden.is_nothing()).count();
            let text = serde_json::to_string(&left).unwrap();
            let mut secrets = secrets(&names, hidden);
            secrets.retain(|name| (of.as_str(), *name) != OWN_WORD_OF);
            assert_eq!(found(&secrets, &text), None, "{of}: {hidden} is hidden: {text:.3000}");
        }
    }
    assert!(cut > 10, "{cut}");
}

#[test]
fn who_may_not_read_nodes_hears_nothing_about_them() {
    for Recording { mut engine, .. } in recordings() {
        let incidents: Vec<Incident> = engine.incidents().into_iter().cloned().collect();
        let (findings, coverage) = (engine.findings(), engine.coverage());
        let mut caller = Caller::new(&engine, Place::Cluster);
        let coverage = caller.left(&coverage);
        assert!(coverage.silent.is_empty() && coverage.degraded.is_empty());
        let findings = caller.left(&findings);
        assert!(findings.iter().all(|line| line.entity.namespace.is_some() && line.entity.kind != "Unit"));
        for incident in caller.left(&incidents) {
            assert!(incident.root.is_none_or(|root| root.kind != "Node"));
        }
    }
}
