//! `kubectl tapio` as a program: what it prints, and its exit status.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test's helpers fail as its assertions do")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const RECORDED: &str = "../tapio-ahti/tests/recorded/limit.jsonl";

fn tapio(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-tapio"));
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.env_remove("TAPIO_SERVER").env("KUBECONFIG", "/nothing").output().unwrap()
}

#[track_caller]
fn says(output: &Output, code: i32) -> String {
    let text = String::from_utf8([&*output.stdout, &*output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

#[test]
fn recorded_facts_are_explained_without_a_server() {
    let text = says(&tapio(&["replay", RECORDED, "--why", "deploy/payments", "-n", "shop", "-o", "text"]), 0);
    for expected in [
        "payments (shop) is OOM-killed since it was rolled out",
        "CAUSE",
        "memory limit of app changed from 48Mi to 20Mi",
        "DO FIRST  roll back: kubectl rollout undo deployment/payments -n shop",
        "COVERAGE",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
    let wide = says(&tapio(&["replay", RECORDED, "--why", "deploy/payments", "-n", "shop", "-o", "wide"]), 0);
    assert!(wide.starts_with(&text) && wide.contains("prior of rollout"), "{wide}");
    let json = says(&tapio(&["replay", RECORDED]), 0);
    let incidents: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(incidents[0]["root"]["name"], "payments", "{json}");
    assert_eq!(json, says(&tapio(&["replay", RECORDED]), 0), "the same facts, the same bytes");
}

#[test]
fn bad_input_is_refused_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        fs::write(directory.path().join(name), text).unwrap();
        directory.path().join(name).display().to_string()
    };
    let first = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(RECORDED)).unwrap();
    let first = first.lines().next().unwrap();
    let facts = put("facts.jsonl", &format!("{first}\n\n{{\"id\":1}}\n"));
    let text = says(&tapio(&["replay", &facts]), 2);
    assert!(text.contains("facts.jsonl:3: is no fact"), "{text}");
    let text = says(&tapio(&["replay", "/nothing"]), 1);
    assert!(text.contains("/nothing cannot be read"), "{text}");
    let rules = put("mine.yaml", "rules:\n  - rule: mine\n    efect: {}\n");
    let text = says(&tapio(&["replay", RECORDED, "--rules", &rules]), 2);
    assert!(text.contains("mine.yaml:3:") && text.contains("efect"), "{text}");
    let hostile = put("hostile.jsonl", &first.replace("exists", "\\u001b[2Jexists"));
    let text = says(&tapio(&["replay", &hostile, "--output", "text"]), 0);
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn without_a_server_it_says_what_to_do() {
    let text = says(&tapio(&["why", "deploy/pay"]), 1);
    assert!(text.contains("kubeconfig") && text.contains("--server=https://HOST"), "{text}");
    let text = says(&tapio(&["why", "deploy/pay", "--server=http://127.0.0.1:9"]), 1);
    assert!(text.contains("http://127.0.0.1:9 cannot be reached"), "{text}");
    let text = says(&tapio(&["why", "deplo/pay"]), 2);
    assert!(text.contains("there is no kind deplo"), "{text}");
    let text = says(&tapio(&["why", "pay", "--server=127.0.0.1:9"]), 2);
    assert!(text.contains("give https://HOST or http://HOST:PORT"), "{text}");
    assert_eq!(tapio(&["nothing"]).status.code(), Some(2));
}
