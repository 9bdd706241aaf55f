//! How the JSON Schemas of answers are made.

use schemars::{Schema, generate::SchemaSettings, transform::transform_subschemas};
use serde_json::Value;

/// Schemas of what is answered, in JSON Schema 2020-12.
#[must_use]
pub fn settings() -> SchemaSettings {
    SchemaSettings::draft2020_12().for_serialize().with_transform(words)
}

/// One of some words is an `enum`, which generators of clients know, with what each word means in the description.
fn words(schema: &mut Schema) {
    transform_subschemas(&mut words, schema);
    let word = |choice: &Value| {
        let word = choice.get("const")?.as_str()?.to_owned();
        let means = choice.get("description").and_then(Value::as_str).unwrap_or_default();
        Some((format!("`{word}`: {means}"), word))
    };
    let choices = schema.get("oneOf").and_then(Value::as_array);
    let Some(words) = choices.and_then(|all| all.iter().map(word).collect::<Option<Vec<_>>>()) else {
        return;
    };
    let (means, words): (Vec<String>, Vec<String>) = words.into_iter().unzip();
    let what = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    let description = format!("{what} {}", means.join(" "));
    schema.remove("oneOf");
    schema.insert("type".to_owned(), "string".into());
    schema.insert("enum".to_owned(), words.into());
    schema.insert("description".to_owned(), description.trim().into());
}
