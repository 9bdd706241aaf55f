//! Scenarios of this repository as they were recorded on a real cluster: `scenarios/` says what is true of them.

use std::{fs, path::Path};

use serde::Deserialize;
use tapio_ahti::{
    answer,
    incident::{Considered, Name},
};
use tapio_occurrence::Occurrence;

use crate::case::{Case, Said};

#[derive(Deserialize)]
struct Scenario {
    ask: Option<String>,
    truth: Truth,
}

#[derive(Deserialize)]
struct Truth {
    root: String,
    kind: Option<String>,
}

/// Those with a cause.
pub(crate) fn cases(directory: &Path) -> Result<Vec<Case>, String> {
    let folder = directory.join("tests/recorded");
    let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(|error| format!("{}: {error}", folder.display()))?.path());
    }
    paths.sort();
    let mut cases = Vec::new();
    for path in paths {
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let name = path.file_stem().and_then(|name| name.to_str()).ok_or_else(|| failed(&"no name"))?;
        let scenario = directory.join("../scenarios").join(format!("{name}.yaml"));
        let scenario = fs::read_to_string(scenario).map_err(|error| failed(&error))?;
        let scenario: Scenario = serde_saphyr::from_str(&scenario).map_err(|error| failed(&error))?;
        let (Some(asked), true) = (&scenario.ask, scenario.truth.root.contains(' ')) else { continue };
        let (kind, object) = asked.split_once('/').ok_or_else(|| failed(&"ask: KIND/NAME"))?;
        let kind = answer::kind(kind).ok_or_else(|| failed(&"ask: no such kind"))?;
        let text = fs::read(&path).map_err(|error| failed(&error))?;
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let facts: Result<Vec<_>, _> = lines.map(Occurrence::read_json).collect();
        let root = scenario.truth.root;
        let (object_of_truth, named) = (root.clone(), scenario.truth.kind.is_some());
        cases.push(Case {
            name: name.to_owned(),
            fault: "scenarios".to_owned(),
            object: root,
            cause: scenario.truth.kind.unwrap_or_default(),
            choices: 0,
            leaves_no_trace: false,
            asked: Some(Name {
                kind: kind.to_owned(),
                namespace: Some("shop".to_owned()),
                name: object.to_owned(),
            }),
            since_unix_ns: 1,
            facts: facts.map_err(|error| failed(&error))?,
            say: Box::new(move |cause, _| say(cause, &object_of_truth, named)),
        });
    }
    Ok(cases)
}

/// The cause in the words of the scenario, whose object may end with a `*`.
fn say(cause: &Considered, root: &str, names_cause: bool) -> Said {
    let object = cause.entity.to_string();
    let is_root = root.strip_suffix('*').map_or(object == root, |start| object.starts_with(start));
    Said {
        object: if is_root { root.to_owned() } else { object },
        cause: if names_cause { cause.kind.clone() } else { String::new() },
    }
}
