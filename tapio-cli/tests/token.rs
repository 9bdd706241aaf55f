//! The token that `kubectl tapio` sends to a server, and what it says of answers for who may not read everything.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test's helpers fail as its assertions do")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    process::{Command, Output},
    thread,
};

use tapio_ahti::{Engine, Limits, Rules};
use tapio_occurrence::Occurrence;

/// Serves one request with an answer. Returns what the program printed, and the request's head.
fn asked(arguments: &[&str], answer: impl Into<String>) -> (Output, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = answer.into();
    let served = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(head).unwrap().to_ascii_lowercase()
    });
    let mut program = Command::new(env!("CARGO_BIN_EXE_kubectl-tapio"));
    program.args(arguments).arg(format!("--server={url}")).env("KUBECONFIG", "/nothing");
    let output = program.env_remove("TAPIO_TOKEN_FILE").output().unwrap();
    (output, served.join().unwrap())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_token_of_a_file_is_sent_and_what_is_hidden_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    fs::write(&file, "abc.def\n").unwrap();
    let flag = format!("--token-file={}", file.display());
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: tapio-hidden\r\n\r\n3\r\n{}\n\r\n0\r\ntapio-hidden: 12\r\n\r\n";
    let (output, head) = asked(&["export", &flag], answer);
    assert!(head.contains("authorization: bearer abc.def\r\n") && head.contains("te: trailers"), "{head}");
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "{}\n"));
    assert_eq!(text(&output.stderr), "12 facts are left out: they name what you may not read\n");

    fs::write(&file, "\n").unwrap();
    let refused = Command::new(env!("CARGO_BIN_EXE_kubectl-tapio"))
        .args(["doctor", "--server=http://127.0.0.1:1", &flag])
        .output()
        .unwrap();
    assert!(!refused.status.success());
}

#[test]
fn without_a_token_it_says_what_to_do() {
    let answer = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 17\r\n\r\nthere is no token";
    let (output, head) = asked(&["doctor"], answer);
    assert!(!head.contains("authorization"), "{head}");
    assert_eq!(output.status.code(), Some(4));
    let said = text(&output.stderr);
    assert!(said.contains("there is no token\nwith --server give a token by --token-file"), "{said}");
}

#[test]
fn as_json_an_answer_has_the_bytes_of_the_api() {
    let recorded = include_str!("../../tapio-ahti/tests/recorded/limit.jsonl");
    let mut engine = Engine::new(Rules::embedded().unwrap(), Limits::default());
    for line in recorded.lines() {
        engine.take(&Occurrence::read_json(line.as_bytes()).unwrap()).unwrap();
    }
    let body = serde_json::to_string(&engine.why(Some("deploy"), Some("shop"), "payments")).unwrap();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let at = ["--at", "2026-11-29T02:10:00+01:00"];
    let (output, head) =
        asked(&[&["why", "deploy/payments", "-n", "shop", "-o", "json"], &at[..]].concat(), answer);
    assert!(head.contains("&at=2026%2d11%2d29t02%3a10%3a00%2b01%3a00 http/1.1"), "{head}");
    assert_eq!(text(&output.stdout), format!("{body}\n"));
    assert!(body.contains(r#""incident":{"id":"TAP-"#));
}
