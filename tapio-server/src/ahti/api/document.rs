//! `GET /api/v1/openapi.json`: the API's description (OpenAPI 3.1), which is made from its routes and from the types of what they take
//! and answer.

use axum::{
    Extension,
    body::Bytes,
    http::header::CONTENT_TYPE,
    response::{IntoResponse as _, Response},
    routing::get,
};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};
use tapio_ahti::schema;

use super::{
    Route,
    question::{Nothing, One},
};

/// The description, as it is served.
#[derive(Clone)]
pub(super) struct Document(Bytes);

const JSON: &str = "application/json";
const SCHEMAS: &str = "/components/schemas";
/// Why there is no answer, by status.
const REFUSALS: [(&str, &str); 5] = [
    ("400", "What is asked is wrong: what would be right"),
    ("401", "No token, or one that the API server does not accept"),
    ("403", "Which right is missing, and how it is granted"),
    ("404", "There is no such thing, or the caller may not read any of it"),
    ("503", "There is no answer now: why, and to try again"),
];

type Schema = fn(&mut SchemaGenerator) -> schemars::Schema;

/// What one path does.
pub(super) struct Operation {
    id: &'static str,
    what: &'static str,
    takes: Takes,
    content: &'static str,
    answers: Schema,
}

enum Takes {
    /// Parameters in the path and in the query.
    Parameters(Schema),
    /// JSON that is sent.
    Body(Schema),
}

impl Operation {
    /// One that reads.
    pub(super) fn reads<Q: JsonSchema, A: JsonSchema>(id: &'static str, what: &'static str) -> Self {
        let takes = Takes::Parameters(SchemaGenerator::subschema_for::<Q>);
        Self { id, what, takes, content: JSON, answers: SchemaGenerator::subschema_for::<A> }
    }

    /// One that reads text.
    pub(super) fn streams<Q: JsonSchema>(
        id: &'static str,
        what: &'static str,
        content: &'static str,
    ) -> Self {
        let takes = Takes::Parameters(SchemaGenerator::subschema_for::<Q>);
        Self { id, what, takes, content, answers: SchemaGenerator::subschema_for::<String> }
    }

    /// One that takes JSON.
    pub(super) fn posts<B: JsonSchema, A: JsonSchema>(id: &'static str, what: &'static str) -> Self {
        let takes = Takes::Body(SchemaGenerator::subschema_for::<B>);
        Self { id, what, takes, content: JSON, answers: SchemaGenerator::subschema_for::<A> }
    }

    fn described(&self, path: &str, schemas: &mut SchemaGenerator) -> Value {
        let content = json!({ self.content: { "schema": (self.answers)(schemas) } });
        let answer = ("200".to_owned(), json!({ "description": self.what, "content": content }));
        let refusal = |(status, why): (&str, &str)| {
            let text = json!({ "text/plain": { "schema": { "type": "string" } } });
            (status.to_owned(), json!({ "description": why, "content": text }))
        };
        let responses: Map<_, _> = REFUSALS.into_iter().map(refusal).chain([answer]).collect();
        let mut described = json!({ "operationId": self.id, "summary": self.what, "responses": responses });
        let (parameters, body) = match self.takes {
            Takes::Parameters(schema) => (parameters(path, schema), None),
            Takes::Body(schema) => {
                let content = json!({ JSON: { "schema": asked(schema) } });
                let of_path = if path.contains("{id}") {
                    parameters(path, SchemaGenerator::subschema_for::<One>)
                } else {
                    json!([])
                };
                (of_path, Some(json!({ "required": true, "content": content })))
            }
        };
        if let Some(described) = described.as_object_mut() {
            described.insert("parameters".to_owned(), parameters);
            described.extend(body.map(|body| ("requestBody".to_owned(), body)));
        }
        described
    }
}

/// The schema of what is asked, in itself.
fn asked(of: Schema) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    of(&mut settings.into_generator()).to_value()
}

/// The fields of a type as parameters.
fn parameters(path: &str, of: Schema) -> Value {
    let schema = asked(of);
    let required = schema.get("required").and_then(Value::as_array);
    let fields = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    let parameter = |(name, field): (&String, &Value)| {
        let in_path = path.contains(&format!("{{{name}}}"));
        json!({
            "name": name,
            "in": if in_path { "path" } else { "query" },
            "required": required.is_some_and(|names| names.iter().any(|known| known == name)),
            "description": field.get("description"),
            // What is absent is left out, and never null.
            "schema": { "type": "string" },
        })
    };
    fields.map(parameter).collect()
}

/// The description of some routes.
pub(super) fn description(routes: &[Route]) -> Value {
    let settings = schema::settings().with(|settings| settings.definitions_path = SCHEMAS.into());
    let mut schemas = settings.into_generator();
    let described = |route: &Route| {
        let described = route.operations.iter().map(|operation| {
            let method = if matches!(operation.takes, Takes::Body(_)) { "post" } else { "get" };
            (method.to_owned(), operation.described(route.path, &mut schemas))
        });
        (route.path.to_owned(), Value::Object(described.collect()))
    };
    let paths: Map<String, Value> = routes.iter().map(described).collect();
    let token = json!({ "type": "http", "scheme": "bearer", "description": "A token of a user of the cluster, as kubectl has it." });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tapio",
            "summary": "Why something in a Kubernetes cluster failed",
            "description": "Each answer has what the caller may read, and nothing else.",
            "version": "v1",
        },
        "security": [{ "token": [] }],
        "paths": paths,
        "components": { "schemas": schemas.take_definitions(true), "securitySchemes": { "token": token } },
    })
}

/// Where it is served.
pub(super) fn route() -> Route {
    let operation =
        Operation::reads::<Nothing, Map<String, Value>>("openapi", "This description: OpenAPI 3.1");
    Route { path: "/api/v1/openapi.json", serves: get(openapi), operations: vec![operation] }
}

impl Document {
    pub(super) fn new(description: &Value) -> Self {
        Self(description.to_string().into())
    }
}

async fn openapi(Extension(Document(document)): Extension<Document>) -> Response {
    ([(CONTENT_TYPE, JSON)], document).into_response()
}
