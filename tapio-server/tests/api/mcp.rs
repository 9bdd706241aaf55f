//! MCP: tools for language models.

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::{
    script::{self, python},
    site::Site,
};

const CLIENT: &str = include_str!("mcp.py");

/// The status and the body of what is answered to a message.
fn post(site: &Site, headers: &str, body: &str) -> (u16, Value) {
    let (head, body) = exchange(site, headers, body);
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

fn exchange(site: &Site, headers: &str, body: &str) -> (String, String) {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(site.server.api).unwrap();
    let length = body.len();
    write!(stream, "POST /mcp HTTP/1.0\r\nhost: x\r\n{headers}content-length: {length}\r\n\r\n{body}")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn request(method: &str, params: &Value) -> String {
    json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params }).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_answers_with_the_bytes_of_the_api() {
    let site = Site::of("leak").await;
    let id = &site.incidents()[0];
    for (tool, arguments, path) in [
        (
            "why",
            json!({ "kind": "deploy", "namespace": "shop", "name": "payments" }),
            "/api/v1/why?kind=deploy&namespace=shop&name=payments".to_owned(),
        ),
        ("incidents", json!({ "namespace": "shop" }), "/api/v1/incidents?namespace=shop".to_owned()),
        ("incident", json!({ "id": id }), format!("/api/v1/incidents/{id}")),
        ("changes", json!({}), "/api/v1/changes".to_owned()),
        (
            "entity",
            json!({ "kind": "deploy", "namespace": "shop", "name": "payments" }),
            "/api/v1/entity?kind=deploy&namespace=shop&name=payments".to_owned(),
        ),
        ("findings", json!({ "namespace": Value::Null }), "/api/v1/findings".to_owned()),
        ("coverage", json!({}), "/api/v1/coverage".to_owned()),
        ("blast", json!({ "incident": id }), format!("/api/v1/blast?incident={id}")),
    ] {
        let mut arguments = arguments;
        arguments["cluster"] = "unnamed".into();
        let (head, said) =
            exchange(&site, "", &request("tools/call", &json!({ "name": tool, "arguments": arguments })));
        assert!(head.contains(" 200 ") && head.contains("application/json"), "{tool}: {head}");
        let (_, body) = site.server.answer(&path);
        assert!(said.contains(&format!(r#""structuredContent":{body},"isError":false"#)), "{tool}: {said}");
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["result"]["content"][0]["text"], body, "{tool}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_with_what_would_be_right() {
    let site = Site::of("limit").await;
    let call = |name: &str, arguments: Value| json!({ "name": name, "arguments": arguments });
    for (name, arguments, says) in [
        ("why", json!({ "name": "payments" }), "cluster: this server knows of unnamed only"),
        (
            "why",
            json!({ "cluster": "prod", "name": "payments" }),
            "cluster: this server knows of unnamed only",
        ),
        (
            "why",
            json!({ "cluster": "unnamed" }),
            "give name, with kind and namespace where they are known, or incident",
        ),
        ("why", json!({ "cluster": "unnamed", "name": "a", "since": "now" }), "unknown field `since`"),
        ("why", json!({ "cluster": "unnamed", "name": 1 }), "name: give a string"),
        ("incident", json!({ "cluster": "unnamed" }), "id: is missing"),
        ("incident", json!({ "cluster": "unnamed", "id": "TAP-1", "name": "a" }), "unknown field `name`"),
        (
            "incident",
            json!({ "cluster": "unnamed", "id": "TAP-9/../../coverage?" }),
            "there is no such incident",
        ),
        ("blast", json!({ "cluster": "unnamed", "incident": "TAP-99" }), "TAP-99: there is no such incident"),
    ] {
        let (status, said) = post(&site, "", &request("tools/call", &call(name, arguments)));
        let text = said["result"]["content"][0]["text"].as_str().unwrap_or_default();
        assert!(status == 200 && said["result"]["isError"] == true && text.contains(says), "{says}: {said}");
        assert!(said["result"].get("structuredContent").is_none());
    }
    let of = |version: &str, method: &str, name: &str| {
        format!("mcp-protocol-version: {version}\r\nmcp-method: {method}\r\nmcp-name: {name}\r\n")
    };
    let meta = json!({ "_meta": { "io.modelcontextprotocol/protocolVersion": "2026-07-28" } });
    let named = json!({ "name": "coverage", "arguments": { "cluster": "unnamed" }, "_meta": meta["_meta"] });
    for (headers, body, status, code) in [
        (String::new(), "{".to_owned(), 400, -32_700),
        (String::new(), "[]".to_owned(), 400, -32_600),
        (String::new(), r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#.to_owned(), 400, -32_600),
        (String::new(), request("tools/call", &call("restart", json!({}))), 200, -32_602),
        (String::new(), request("resources/list", &json!({})), 200, -32_601),
        (of("2026-07-28", "prompts/list", ""), request("prompts/list", &meta), 404, -32_601),
        (of("1999-01-01", "ping", ""), request("ping", &json!({})), 400, -32_022),
        (of("2026-07-28", "tools/list", ""), request("tools/call", &named), 400, -32_020),
        (of("2026-07-28", "tools/call", "why"), request("tools/call", &named), 400, -32_020),
        (of("2025-11-25", "tools/call", "coverage"), request("tools/call", &named), 200, -32_020),
        (of("2026-07-28", "tools/list", ""), request("tools/list", &json!({})), 400, -32_602),
    ] {
        let (got, said) = post(&site, &headers, &body);
        assert!(got == status && said["error"]["code"] == code, "{body}: {got} {said}");
        assert!(said["error"]["message"].as_str().unwrap().len() > 10, "{said}");
    }
    let (status, said) = post(&site, "", r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    assert_eq!((status, said), (202, Value::String(String::new())));
    let (status, said) =
        post(&site, &of("2026-07-28", "tools/call", "coverage"), &request("tools/call", &named));
    assert!(status == 200 && said["result"]["isError"] == false, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_host_may_not_ask() {
    let site = Site::empty();
    let ping = request("ping", &json!({}));
    for (origin, status) in [
        ("", 200),
        ("origin: http://localhost:1234\r\n", 200),
        ("origin: http://127.0.0.1\r\n", 200),
        ("origin: http://[::1]:8080\r\n", 200),
        ("origin: http://evil.example\r\n", 403),
        ("origin: http://127.0.0.1.evil.example\r\n", 403),
        ("origin: null\r\n", 403),
        ("origin: http://localhost\r\norigin: http://evil.example\r\n", 403),
    ] {
        let (got, said) = post(&site, origin, &ping);
        assert_eq!(got, status, "{origin}: {said}");
    }
    // It is stateless: there is nothing to listen to, and no session to end.
    for method in ["GET", "DELETE"] {
        assert!(site.server.request(method, "/mcp", None, "").0.contains(" 405 "), "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_of_each_revision_uses_every_tool() {
    let python = python!("the_official_client_of_each_revision_uses_every_tool");
    let site = Site::of("leak").await;
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("client.py"), CLIENT).unwrap();
    let (url, id) = (site.url("/mcp"), &site.incidents()[0]);
    for (mode, revision) in [("legacy", "2025-11-25"), ("auto", "2026-07-28")] {
        let said = script::last(&script::run(&python, ["client.py", &url, id, mode], directory.path()));
        assert_eq!(said["revision"], revision, "{said}");
        let tools = said["tools"].as_object().unwrap();
        assert!((1..=8).contains(&tools.len()), "{said}");
        assert!(tools.values().all(|is_read_only| *is_read_only == true), "{said}");
        let (_, incident) = site.server.answer(&format!("/api/v1/incidents/{id}"));
        assert_eq!(said["answers"]["incident"], serde_json::from_str::<Value>(&incident).unwrap());
        for tool in tools.keys() {
            assert!(said["answers"][tool].is_object(), "{tool}: {said}");
        }
        assert_eq!(said["refused"], "TAP-999: there is no such incident");
    }
}
