//! The tools.

use anyhow::Context as _;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};
use tapio_ahti::{incident::Incident, schema};

use super::message::Wrong;
use crate::ahti::{auth::Viewer, inner::Inner};

/// The operations of the API that are tools. All of them only read.
const TOOLS: [&str; 8] =
    ["why", "incidents", "incident", "changes", "entity", "findings", "coverage", "blast"];
/// The name of a cluster that has none: the setting `cluster` gives it one.
const UNNAMED: &str = "unnamed";

/// The tools, and whom they ask.
pub(super) struct Tools {
    inner: Inner,
    cluster: String,
    /// The path of each in the API.
    paths: Vec<(String, String)>,
    /// As clients get it.
    list: String,
}

impl Tools {
    pub(super) fn of(inner: Inner, description: &Value, cluster: &str) -> anyhow::Result<Self> {
        let cluster = if cluster.is_empty() { UNNAMED } else { cluster };
        let paths = description.get("paths").and_then(Value::as_object).context("there are no paths")?;
        let operation = |name: &str| {
            let mut all = paths.iter().filter_map(|(path, item)| Some((path, item.get("get")?)));
            all.find(|(_, operation)| operation.get("operationId").is_some_and(|id| id == name))
                .with_context(|| format!("the API has no operation {name}"))
        };
        let (mut known, mut list) = (Vec::new(), Vec::new());
        for name in TOOLS {
            let (path, operation) = operation(name)?;
            known.push((name.to_owned(), path.clone()));
            list.push(tool(name, operation, cluster));
        }
        let list = json!({ "resultType": "complete", "tools": list, "ttlMs": 0, "cacheScope": "private" });
        Ok(Self { inner, cluster: cluster.to_owned(), paths: known, list: list.to_string() })
    }

    /// The result of `tools/list`.
    pub(super) fn list(&self) -> String {
        self.list.clone()
    }

    /// The result of `tools/call`.
    pub(super) async fn call(&self, viewer: Viewer, params: &Value) -> Result<String, Wrong> {
        let name = params.get("name").and_then(Value::as_str).unwrap_or_default();
        let Some((_, path)) = self.paths.iter().find(|(known, _)| known == name) else {
            let names = TOOLS.join(", ");
            return Err(Wrong::params(format!("name: there is no tool {name:?}; there are {names}")));
        };
        let none = Map::new();
        let arguments = match params.get("arguments") {
            None | Some(Value::Null) => &none,
            Some(Value::Object(arguments)) => arguments,
            Some(_) => return Err(Wrong::params("arguments: are no object".to_owned())),
        };
        let asked = match self.path(path, arguments) {
            Ok(path) => self.inner.get(viewer, &path).await.map_err(|refused| refused.1),
            Err(wrong) => Err(wrong),
        };
        Ok(match asked {
            Ok(json) => {
                let text = Value::from(json.as_str());
                format!(
                    r#"{{"resultType":"complete","content":[{{"type":"text","text":{text}}}],"structuredContent":{json},"isError":false}}"#
                )
            }
            // The model reads it, and asks otherwise.
            Err(text) => {
                let content = json!([{ "type": "text", "text": text }]);
                json!({ "resultType": "complete", "content": content, "isError": true }).to_string()
            }
        })
    }

    /// What to ask the API.
    fn path(&self, path: &str, arguments: &Map<String, Value>) -> Result<String, String> {
        let (mut path, mut query) = (path.to_owned(), Vec::new());
        let mut cluster = None;
        for (name, value) in arguments {
            let value = match value {
                Value::Null => continue,
                Value::String(value) => value,
                _ => return Err(format!("{name}: give a string")),
            };
            if name == "cluster" {
                cluster = Some(value);
                continue;
            }
            let (place, value) = (format!("{{{name}}}"), utf8_percent_encode(value, NON_ALPHANUMERIC));
            if path.contains(&place) {
                path = path.replace(&place, &value.to_string());
            } else {
                query.push(format!("{}={value}", utf8_percent_encode(name, NON_ALPHANUMERIC)));
            }
        }
        if cluster != Some(&self.cluster) {
            return Err(format!("cluster: this server knows of {} only: give that", self.cluster));
        }
        match path.split_once('{') {
            Some((_, missing)) => Err(format!("{}: is missing", missing.trim_end_matches('}'))),
            None if query.is_empty() => Ok(path),
            None => Ok(format!("{path}?{}", query.join("&"))),
        }
    }
}

/// A tool, as clients get it.
fn tool(name: &str, operation: &Value, cluster: &str) -> Value {
    let of_cluster = json!({ "type": "string", "enum": [cluster], "description": "The cluster." });
    let mut properties = Map::from_iter([("cluster".to_owned(), of_cluster)]);
    let mut required = vec![json!("cluster")];
    for parameter in operation.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        let Some(of) = parameter.get("name").and_then(Value::as_str) else { continue };
        let description = parameter.get("description").cloned().unwrap_or_default();
        properties.insert(of.to_owned(), json!({ "type": "string", "description": description }));
        if parameter.get("required") == Some(&Value::Bool(true)) {
            required.push(json!(of));
        }
    }
    let mut tool = json!({
        "name": name,
        "description": operation.get("summary"),
        "inputSchema": {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        },
        "annotations": { "readOnlyHint": true, "idempotentHint": true, "openWorldHint": false },
    });
    if let (Some(tool), "incident") = (tool.as_object_mut(), name) {
        let schema = schema::settings().into_generator().into_root_schema_for::<Incident>();
        tool.insert("outputSchema".to_owned(), schema.to_value());
    }
    tool
}
