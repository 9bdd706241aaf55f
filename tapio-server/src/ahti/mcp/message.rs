//! Messages of JSON-RPC 2.0.

use axum::{
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tapio_occurrence::printable::printable;

/// A request, if it has an id and a method.
#[derive(Debug, Deserialize)]
pub(super) struct Message {
    jsonrpc: String,
    pub(super) id: Option<Value>,
    pub(super) method: Option<String>,
    #[serde(default)]
    pub(super) params: Value,
}

/// Why there is no result.
#[derive(Debug)]
pub(super) struct Wrong {
    code: i32,
    status: StatusCode,
    text: String,
    data: Option<Value>,
}

impl Message {
    /// Reads one.
    pub(super) fn read(body: &[u8]) -> Result<Self, Wrong> {
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| Wrong::new(-32_700, format!("the body is no JSON: {error}")))?;
        let read = serde_json::from_value::<Self>(value).ok().filter(|message| message.jsonrpc == "2.0");
        read.ok_or_else(|| Wrong::new(-32_600, "the body is not one message of JSON-RPC 2.0".to_owned()))
    }
}

impl Wrong {
    fn new(code: i32, text: String) -> Self {
        Self { code, status: StatusCode::BAD_REQUEST, text, data: None }
    }

    pub(super) fn params(text: String) -> Self {
        Self::new(-32_602, text)
    }

    pub(super) fn no_method(method: &str) -> Self {
        let text = format!("{method}: there is no such method; there are tools/list and tools/call");
        Self { status: StatusCode::NOT_FOUND, ..Self::new(-32_601, text) }
    }

    /// What a header says is not what the body says.
    pub(super) fn differs(header: &str) -> Self {
        Self::new(-32_020, format!("{header}: the header is not what the body says"))
    }

    pub(super) fn no_revision(asked: &str, known: &[&str]) -> Self {
        let text = format!(
            "{asked}: there is no such revision of the protocol here; there are {}",
            known.join(", ")
        );
        let data = json!({ "supported": known, "requested": asked });
        Self { data: Some(data), ..Self::new(-32_022, text) }
    }

    /// The answer. `by_status`: whether the HTTP status says it, too, which clients of earlier revisions do not expect.
    pub(super) fn response(self, id: &Value, by_status: bool) -> Response {
        let is_seen = by_status || self.data.is_some();
        let status = if is_seen { self.status } else { StatusCode::OK };
        let mut error = json!({ "code": self.code, "message": printable(&self.text) });
        if let (Some(data), Some(error)) = (self.data, error.as_object_mut()) {
            error.insert("data".to_owned(), data);
        }
        let body = json!({ "jsonrpc": "2.0", "id": id, "error": error }).to_string();
        (status, [(CONTENT_TYPE, "application/json")], body).into_response()
    }
}

/// The answer with a result, which is JSON.
pub(super) fn result(id: &Value, result: &str) -> Response {
    let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}
