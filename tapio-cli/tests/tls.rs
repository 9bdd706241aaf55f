//! `kubectl tapio --server=https://...` with a real handshake: whose certificate it accepts, and what it says of others.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test's helpers fail as its assertions do")]

#[path = "../../tapio-delivery/tests/sinks/certificates.rs"]
#[allow(dead_code, reason = "a part of it is the sinks'")]
mod certificates;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    process::{Command, Output},
    sync::Arc,
    thread::{self, JoinHandle},
};

use certificates::Authority;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A server for one connection. Returns its port, and what it was asked if the handshake succeeds.
fn serve(config: ServerConfig) -> (u16, JoinHandle<Option<String>>) {
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = thread::spawn(move || {
        let (tcp, _) = listener.accept().unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), tcp);
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).ok()?;
            head.extend(byte);
        }
        stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 4\r\n\r\nhm.\n").unwrap();
        stream.flush().unwrap();
        Some(String::from_utf8(head).unwrap().to_ascii_lowercase())
    });
    (port, served)
}

fn ask(url: &str, flags: &[&str], token: &Path) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_kubectl-tapio"));
    program.args(["doctor", "--server", url]).args(flags).env("KUBECONFIG", "/nothing");
    program.env("TAPIO_TOKEN_FILE", token).output().unwrap()
}

#[test]
fn a_server_is_asked_whose_certificate_a_trusted_authority_gave() {
    let directory = tempfile::tempdir().unwrap();
    let [ca, token] = ["ca.crt", "token"].map(|name| directory.path().join(name));
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    fs::write(&ca, ours.pem()).unwrap();
    fs::write(&token, "abc.def\n").unwrap();
    let trust = format!("--ca-file={}", ca.display());
    let said = |output: &Output| String::from_utf8(output.stderr.clone()).unwrap();

    let of = |authority: &Authority, name| authority.server(name, &["http/1.1"], None);
    let (port, served) = serve(of(&ours, "localhost"));
    let output = ask(&format!("https://localhost:{port}"), &[&trust], &token);
    let head = served.join().unwrap().unwrap();
    assert!(head.contains("authorization: bearer abc.def\r\n"), "{head}");
    assert!(head.contains(&format!("host: localhost:{port}\r\n")), "{head}");
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));

    // Another authority's, another name's, and one that this machine does not know: nothing was asked.
    let trusting = [trust.as_str()];
    for (config, flags, says) in [
        (of(&theirs, "localhost"), &trusting[..], "its certificate is not accepted"),
        (of(&ours, "other.example"), &trusting[..], "its certificate is not accepted"),
        (of(&ours, "localhost"), &trusting[..0], "--ca-file"),
        (ours.itself(&["http/1.1"]), &trusting[..], "its certificate is an authority's own"),
    ] {
        let (port, served) = serve(config);
        let output = ask(&format!("https://localhost:{port}"), flags, &token);
        let said = said(&output);
        assert_eq!((output.status.code(), served.join().unwrap()), (Some(1), None), "{said}");
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn what_is_no_tls_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let [ca, token] = ["ca.crt", "token"].map(|name| directory.path().join(name));
    fs::write(&ca, Authority::new("ours").pem()).unwrap();
    fs::write(&token, "abc.def\n").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let served = thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let mut first = [0; 64];
        tcp.read_exact(&mut first).unwrap();
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").unwrap();
    });
    let output = ask(&url, &[&format!("--ca-file={}", ca.display())], &token);
    served.join().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("does not speak TLS"), "{said}");

    for (content, says) in [(None, "No such file"), (Some("nothing"), "give a PEM file with certificates")] {
        if let Some(content) = content {
            fs::write(&ca, content).unwrap();
        } else {
            fs::remove_file(&ca).unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let output = ask(&url, &[&format!("--ca-file={}", ca.display())], &token);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(&format!("--ca-file {}", ca.display())) && said.contains(says), "{said}");
    }
}
