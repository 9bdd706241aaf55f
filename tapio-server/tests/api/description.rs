//! The description of the API (OpenAPI), and a client that is made from it.

use std::{collections::BTreeSet, fs};

use jsonschema::Validator;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::{
    script::{self, python},
    site::Site,
};

const PATH: &str = "/api/v1/openapi.json";
/// It knows no other name for text, and formats nothing.
const SETTINGS: &str = "post_hooks: []\ncontent_type_overrides: {application/jsonl: text/plain, text/event-stream: text/plain}\n";
/// Calls each operation of a client that only reads, and prints which ones there are.
const CALLS: &str = include_str!("calls.py");

fn description(site: &Site) -> Value {
    let (status, body) = site.server.answer(PATH);
    assert!(status.contains("200"), "{status}");
    serde_json::from_str(&body).unwrap()
}

/// A validator for what an operation answers.
fn answers(description: &Value, path: &str) -> Validator {
    let schema =
        &description["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
    let mut schema = schema.clone();
    schema["components"] = description["components"].clone();
    jsonschema::validator_for(&schema).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_has_every_path_and_says_what_each_answers() {
    let site = Site::of("leak").await;
    let description = description(&site);
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1."), "{}", description["openapi"]);
    let described: BTreeSet<&str> =
        description["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let served: BTreeSet<&str> =
        tapio_server::ahti::paths().filter(|path| path.starts_with("/api/")).collect();
    assert_eq!(described, served);
    assert_eq!(description["security"], json!([{ "token": [] }]));
    assert_eq!(description["components"]["securitySchemes"]["token"]["scheme"], "bearer");

    let id = &site.incidents()[0];
    let mut ids = BTreeSet::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for operation in item.as_object().unwrap().values() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id}: twice");
            assert!(!operation["summary"].as_str().unwrap().is_empty(), "{path}");
            for refusal in ["400", "401", "403", "404", "503"] {
                assert!(
                    operation["responses"][refusal]["content"]["text/plain"].is_object(),
                    "{path}: {refusal}"
                );
            }
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert!(
                    !parameter["description"].as_str().unwrap_or_default().is_empty(),
                    "{path}: {parameter}"
                );
            }
        }
    }
    for (path, asked) in [
        ("/api/v1/why", "/api/v1/why?kind=deploy&namespace=shop&name=payments".to_owned()),
        ("/api/v1/why", "/api/v1/why?name=nobody".to_owned()),
        ("/api/v1/correlate", "/api/v1/correlate?trace_id=0af7651916cd43dd8448eb211c80319c".to_owned()),
        ("/api/v1/incidents", "/api/v1/incidents".to_owned()),
        ("/api/v1/incidents/{id}", format!("/api/v1/incidents/{id}")),
        ("/api/v1/findings", "/api/v1/findings".to_owned()),
        ("/api/v1/coverage", "/api/v1/coverage".to_owned()),
        ("/api/v1/changes", "/api/v1/changes".to_owned()),
        ("/api/v1/entity", "/api/v1/entity?kind=deploy&namespace=shop&name=payments".to_owned()),
        ("/api/v1/blast", format!("/api/v1/blast?incident={id}")),
    ] {
        let validator = answers(&description, path);
        let answer: Value = serde_json::from_str(&site.server.answer(&asked).1).unwrap();
        let wrong: Vec<String> = validator.iter_errors(&answer).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "{asked}: {wrong:?}");
        assert!(!validator.is_valid(&json!([])), "{path} allows everything");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_of_an_incident_is_the_published_one() {
    let site = Site::empty();
    let published: Value = serde_json::from_str(include_str!("../../../docs/incident.schema.json")).unwrap();
    let served = &description(&site)["components"]["schemas"];
    let moved = |schema: &Value| schema.to_string().replace("#/components/schemas/", "#/$defs/");
    for (name, schema) in published["$defs"].as_object().unwrap() {
        assert_eq!(moved(&served[name]), schema.to_string(), "{name}");
    }
    for part in ["properties", "required", "description"] {
        assert_eq!(moved(&served["Incident"][part]), published[part].to_string(), "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_of_a_namespace() {
    let site = Site::of("leak").await;
    for (list, path) in
        [("incidents", "/api/v1/incidents"), ("findings", "/api/v1/findings"), ("changes", "/api/v1/changes")]
    {
        let count = |query: &str| {
            let answer: Value =
                serde_json::from_str(&site.server.answer(&format!("{path}{query}")).1).unwrap();
            answer[list].as_array().unwrap().len()
        };
        assert!(count("") > 0 && count("?namespace=shop") > 0, "{path}");
        assert_eq!(count("?namespace=elsewhere"), 0, "{path}");
        let (status, says) = site.server.answer(&format!("{path}?names=shop"));
        assert!(status.contains("400") && says.contains("unknown field `names`"), "{says}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_made_from_it_calls_every_operation() {
    let python = python!("a_client_that_is_made_from_it_calls_every_operation");
    let site = Site::of("leak").await;
    let directory = tempdir().unwrap();
    let description = description(&site);
    fs::write(directory.path().join("openapi.json"), description.to_string()).unwrap();
    fs::write(directory.path().join("settings.yaml"), SETTINGS).unwrap();
    let make = [
        "-m",
        "openapi_python_client",
        "generate",
        "--path=openapi.json",
        "--config=settings.yaml",
        "--output-path=made",
        "--meta=none",
        "--fail-on-warning",
    ];
    script::run(&python, make, directory.path());
    fs::write(directory.path().join("calls.py"), CALLS).unwrap();
    let url = site.url("");
    let id = &site.incidents()[0];
    let said = script::last(&script::run(&python, ["calls.py", &url, id], directory.path()));
    let operations = description["paths"].as_object().unwrap().values();
    let reads: BTreeSet<&str> = operations
        .filter_map(|item| item["get"]["operationId"].as_str())
        .filter(|id| *id != "events")
        .collect();
    let called: BTreeSet<&str> =
        said["called"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(called, reads);
    // What it has read is what the server wrote.
    let incident: Value =
        serde_json::from_str(&site.server.answer(&format!("/api/v1/incidents/{id}")).1).unwrap();
    assert_eq!(said["incident"], incident);
    assert_eq!(said["unknown"], 404);
}
