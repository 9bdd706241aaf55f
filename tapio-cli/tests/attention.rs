//! `ack` and `mute`: what they send, and what they say.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test's helpers fail as its assertions do")]

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    process::Command,
    thread,
};

use serde_json::{Value, json};

/// Serves one request. Returns its path, its body, and what the program printed.
fn asked(arguments: &str) -> (String, Value, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
        (head.split(' ').nth(1).unwrap().to_owned(), serde_json::from_slice(&body).unwrap())
    });
    let mut program = Command::new(env!("CARGO_BIN_EXE_kubectl-tapio"));
    program.args(arguments.split(' ')).arg(format!("--server={url}")).env("KUBECONFIG", "/nothing");
    let output = program.env_remove("TAPIO_TOKEN_FILE").output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let (path, body) = served.join().unwrap();
    (path, body, said)
}

#[test]
fn each_form_says_what_it_is_about() {
    for (arguments, path, body, expected) in [
        (
            "ack tap-142 --reason mine",
            "/api/v1/incidents/tap-142/ack",
            json!({ "reason": "mine", "undo": false }),
            "TAP-142 is acknowledged: ",
        ),
        (
            "ack TAP-142 --undo",
            "/api/v1/incidents/tap-142/ack",
            json!({ "reason": null, "undo": true }),
            "TAP-142 is no longer acknowledged",
        ),
        (
            "mute TAP-142 --until 06:00",
            "/api/v1/incidents/tap-142/mute",
            json!({ "until": "06:00", "for": null, "reason": null, "undo": false }),
            "TAP-142 is muted until 06:00; what is open then is notified once",
        ),
        (
            "mute deploy/checkout -n shop --for 2h --reason maintenance",
            "/api/v1/mutes",
            json!({
                "kind": "Deployment", "namespace": "shop", "name": "checkout", "until": null, "for": "2h",
                "reason": "maintenance", "undo": false,
            }),
            "deploy/checkout in shop is muted for 2h; ",
        ),
        (
            "mute -n shop --undo",
            "/api/v1/mutes",
            json!({ "namespace": "shop", "until": null, "for": null, "reason": null, "undo": true }),
            "everything in shop is no longer muted",
        ),
        (
            "mute node/worker-2 --for 1h",
            "/api/v1/mutes",
            json!({ "kind": "Node", "name": "worker-2", "until": null, "for": "1h", "reason": null, "undo": false }),
            "node/worker-2 is muted for 1h; ",
        ),
    ] {
        let (asked, sent, said) = asked(arguments);
        assert_eq!((&*asked, &sent), (path, &body), "{arguments}");
        assert!(said.starts_with(expected), "{arguments}: {said}");
    }
}

/// Wrong arguments are said before anything is asked.
#[test]
fn ack_and_mute_say_what_is_missing() {
    for (arguments, expected) in [
        ("ack x", "x: give an incident, such as TAP-142"),
        ("mute TAP-1", "--until <TIME>"),
        ("mute --for 2h", "<TAP-n|KIND/NAME>"),
        ("mute TAP-1 --for 2h --until 06:00", "cannot be used with"),
        ("mute checkout -n shop --for 2h", "checkout: give KIND/NAME, such as deploy/checkout"),
        ("mute what/checkout --for 2h", "there is no kind what"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_kubectl-tapio"))
            .args(arguments.split(' '))
            .env("KUBECONFIG", "/nothing")
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(expected), "{arguments}: {said}");
    }
}
