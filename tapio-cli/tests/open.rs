//! `kubectl tapio open`: whom it lets in, and what it passes on.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test's helpers fail as its assertions do")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

/// A server that notes what it is asked, and answers with its path.
fn server() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, all) = (stream.unwrap(), Arc::clone(&all));
            thread::spawn(move || {
                loop {
                    let mut head = Vec::new();
                    let mut byte = [0];
                    while !head.ends_with(b"\r\n\r\n") {
                        if stream.read(&mut byte).unwrap() == 0 {
                            return;
                        }
                        head.extend(byte);
                    }
                    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
                    let path = head.split(' ').nth(1).unwrap().to_owned();
                    all.lock().unwrap().push(head);
                    let length = path.len();
                    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{path}").unwrap();
                }
            });
        }
    });
    (url, asked)
}

/// Ended on drop.
struct Opened(Child, String);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Opened {
    fn start(arguments: &[&str]) -> Self {
        let mut program = Command::new(env!("CARGO_BIN_EXE_kubectl-tapio"));
        program.args(["open", "--no-browser"]).args(arguments).env("KUBECONFIG", "/nothing");
        let mut child = program.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self(child, line.trim().to_owned())
    }

    fn address(&self) -> &str {
        self.1.strip_prefix("http://").unwrap().split('/').next().unwrap()
    }

    fn ask(&self, method: &str, path: &str, headers: &str) -> String {
        self.ask_as(self.address(), method, path, headers)
    }

    fn ask_as(&self, host: &str, method: &str, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}");
        write!(stream, "{head}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

#[test]
fn who_has_the_address_is_let_in_once_and_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    fs::write(&file, "abc.def\n").unwrap();
    let (url, asked) = server();
    let (server, token) = (format!("--server={url}"), format!("--token-file={}", file.display()));
    let opened = Opened::start(&["deploy/pay", "--namespace=shop", &server, &token]);
    let path = opened.1.split_once(opened.address()).unwrap().1.to_owned();
    assert!(path.starts_with("/workloads/shop/Deployment/pay?code="), "{path}");
    let forbidden = "HTTP/1.1 403";
    assert!(opened.ask("GET", "/", "").starts_with(forbidden));
    assert!(opened.ask("GET", "/?code=0", "").starts_with(forbidden));
    // A name that leads here, as a page elsewhere may have one.
    assert!(opened.ask_as("evil.example:80", "GET", &path, "").starts_with(forbidden));

    let let_in = opened.ask("GET", &path, "");
    assert!(let_in.starts_with("HTTP/1.1 303"), "{let_in}");
    assert!(let_in.contains("location: /workloads/shop/Deployment/pay\r\n"), "{let_in}");
    let cookie = let_in.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    assert!(opened.ask("GET", &path, "").starts_with(forbidden), "good once");

    let cookie = format!("cookie: theme=dark; {}\r\n", cookie.split(';').next().unwrap());
    let answer = opened.ask("GET", "/incidents/TAP-1?a=b", &cookie);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("/incidents/tap-1?a=b"), "{answer}");
    let head = asked.lock().unwrap().last().unwrap().clone();
    assert!(head.contains("authorization: bearer abc.def\r\n") && head.contains("theme=dark"), "{head}");
    assert!(!let_in.contains("abc.def") && !answer.contains("abc.def"), "the browser never has it");

    // Only its own pages may send something.
    let before = asked.lock().unwrap().len();
    for origin in ["", "origin: http://evil.example\r\n", "origin: null\r\n"] {
        assert!(opened.ask("POST", "/preferences", &(cookie.clone() + origin)).starts_with(forbidden));
    }
    assert_eq!(asked.lock().unwrap().len(), before);
    let own = format!("{cookie}origin: http://{}\r\ncontent-length: 0\r\n", opened.address());
    assert!(opened.ask("POST", "/preferences", &own).starts_with("HTTP/1.1 200"));
}

#[test]
fn what_is_wrong_is_said_before_a_browser_opens() {
    for (object, says) in [("pay", "pay: give KIND/NAME, such as deploy/pay"), ("x/y", "there is no kind x")]
    {
        let (url, _) = server();
        let output = Command::new(env!("CARGO_BIN_EXE_kubectl-tapio"))
            .args(["open", "--no-browser", object, &format!("--server={url}")])
            .env("KUBECONFIG", "/nothing")
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(says), "{said}");
    }
}
