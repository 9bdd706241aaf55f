//! docs/incident.schema.json, which is made from the types: `BLESS=1` writes it. Every answer conforms to it.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test's helpers fail as its assertions do")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use jsonschema::Validator;
use serde_json::{Value, json};
use tapio_ahti::{Engine, Limits, Rules, incident::Incident, schema};
use tapio_occurrence::Occurrence;

const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/incident.schema.json");

fn schema() -> Value {
    schema::settings().into_generator().into_root_schema_for::<Incident>().to_value()
}

fn validator() -> Validator {
    jsonschema::validator_for(&schema()).unwrap()
}

/// The recordings.
fn recordings() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded");
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// The incidents of one.
fn incidents(recording: &Path) -> Vec<Incident> {
    let mut engine = Engine::new(Rules::embedded().unwrap(), Limits::default());
    for line in fs::read_to_string(recording).unwrap().lines() {
        engine.take(&Occurrence::read_json(line.as_bytes()).unwrap()).unwrap();
    }
    engine.incidents().into_iter().cloned().collect()
}

#[test]
fn the_schema_is_that_of_the_types() {
    let text = format!("{:#}\n", schema());
    if std::env::var_os("BLESS").is_some() {
        fs::write(SCHEMA, &text).unwrap();
    }
    assert_eq!(
        fs::read_to_string(SCHEMA).unwrap_or_default(),
        text,
        "types and schema differ: BLESS=1 cargo test --package tapio-ahti --test schema writes it"
    );
}

#[test]
fn every_incident_conforms_to_it() {
    let validator = validator();
    let mut count = 0;
    for recording in recordings() {
        let name = recording.display();
        for incident in incidents(&recording) {
            count += 1;
            let value = serde_json::to_value(&incident).unwrap();
            let wrong: Vec<String> = validator
                .iter_errors(&value)
                .map(|error| format!("{}: {error}", error.instance_path()))
                .collect();
            assert!(wrong.is_empty(), "{name}: {}: {wrong:?}", incident.id);
            // What is read is what was written.
            let text = serde_json::to_string(&incident).unwrap();
            let read: Incident = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), text, "{name}");
        }
    }
    assert!(count > 30, "{count} incidents");
}

#[test]
fn it_refuses_what_is_no_incident() {
    let validator = validator();
    let limit = recordings().into_iter().find(|path| path.ends_with("limit.jsonl")).unwrap();
    let incident = incidents(&limit).into_iter().find(|incident| incident.has_cause).unwrap();
    let right = serde_json::to_value(incident).unwrap();
    assert!(validator.is_valid(&right));
    for (at, wrong) in [
        ("/status", json!("over")),
        ("/certainty", json!("sure")),
        ("/revision", json!(-1)),
        ("/title", Value::Null),
        ("/root", json!("payments")),
        ("/lines/0/since_unix_ns", json!("yesterday")),
        ("/lines/0/owner", json!("guessed")),
        ("/considered/0/terms/0", json!([1, 2])),
        ("/lead/chance/percent", json!(256)),
    ] {
        let mut value = right.clone();
        *value.pointer_mut(at).unwrap() = wrong;
        assert!(!validator.is_valid(&value), "{at}");
    }
    for required in ["id", "title", "lines", "chain", "ruled_out", "missing", "advice"] {
        let mut value = right.clone();
        value.as_object_mut().unwrap().remove(required);
        assert!(!validator.is_valid(&value), "{required}");
    }
}
