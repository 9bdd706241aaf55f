//! Tests with a real server and real clients over the loopback interface.

use serde_json::{Value, json};
use tapio_occurrence::samples::{HOSTILE, is_harmless};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
    task::JoinHandle,
};

use super::*;

struct Fixed {
    waits_for: Option<String>,
}

impl State for Fixed {
    fn ready(&self) -> Result<(), String> {
        self.waits_for.clone().map_or(Ok(()), Err)
    }

    fn alive(&self) -> Result<(), String> {
        Ok(())
    }

    fn status(&self) -> Value {
        json!({"observers": {"network": "running"}, "kubernetes": self.waits_for})
    }

    fn metrics(&self) -> String {
        "# EOF\n".to_owned()
    }
}

struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Server {
    fn start(waits_for: Option<&str>) -> Self {
        let admin = Admin::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = admin.local_addr();
        let (stop, stopped) = oneshot::channel();
        let state = Arc::new(Fixed { waits_for: waits_for.map(str::to_owned) });
        let task = tokio::spawn(admin.serve(state, async { stopped.await.unwrap_or_default() }));
        Self { address, stop, task }
    }

    /// Sends bytes and reads until the server closes the connection.
    async fn say(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = connect(self.address).await;
        // The server may close before it has received everything.
        let _ = stream.write_all(request.as_ref()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn get(&self, path: &str) -> String {
        self.say(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
    }
}

/// The server's task may not listen yet, so this retries.
async fn connect(address: SocketAddr) -> TcpStream {
    for _ in 0..200 {
        if let Ok(stream) = TcpStream::connect(address).await {
            return stream;
        }
        time::sleep(Duration::from_millis(5)).await;
    }
    panic!("no server on {address}");
}

#[tokio::test]
async fn nothing_that_others_said_reaches_the_terminal_as_it_is() {
    let server = Server::start(Some(HOSTILE));
    for path in ["/readyz", "/status"] {
        let body = server.get(path).await.split_once("\r\n\r\n").unwrap().1.to_owned();
        assert!(is_harmless(&body), "{path}: {body:?}");
    }
}

#[tokio::test]
async fn it_tells_what_there_is() {
    let server = Server::start(Some("observer network is starting"));
    let live = server.get("/livez").await;
    assert!(live.starts_with("HTTP/1.1 200 ") && live.ends_with("\r\n\r\nok\n"), "{live}");
    let ready = server.get("/readyz?verbose").await;
    assert!(
        ready.starts_with("HTTP/1.1 503 ") && ready.ends_with("observer network is starting\n"),
        "{ready}"
    );
    let classic = server.get("/metrics").await;
    let kind = "content-type: text/plain; version=0.0.4; charset=utf-8\r\n";
    assert!(classic.contains(kind) && classic.ends_with("\r\n\r\n"), "{classic}");
    let asked = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                 accept: application/openmetrics-text;version=1.0.0;q=0.75,text/plain;q=0.5\r\n\r\n";
    let metrics = server.say(asked).await;
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
    assert!(metrics.contains(kind) && metrics.ends_with("# EOF\n"), "{metrics}");
    let status = server.get("/status").await;
    let body = status.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(serde_json::from_str::<Value>(body).unwrap()["observers"]["network"], "running");
    assert!(Server::start(None).get("/readyz").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn it_refuses_the_rest() {
    let server = Server::start(None);
    let absent = server.get("/").await;
    assert!(absent.starts_with("HTTP/1.1 404 "), "{absent}");
    assert!(absent.ends_with("not found; there are /livez /readyz /metrics /status\n"), "{absent}");
    let posted =
        server.say("POST /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    assert!(posted.starts_with("HTTP/1.1 405 ") && posted.contains("allow: GET, HEAD\r\n"), "{posted}");
    let head = server.say("HEAD /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(server.say("nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    let long =
        server.say(format!("GET /livez HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(2 * MAX_HEAD_BYTES))).await;
    assert!(!long.contains(" 200 "), "{long}");
    assert!(server.get("/livez").await.contains(" 200 "), "it goes on");
}

#[tokio::test]
async fn an_address_that_is_taken_names_the_setting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = format!("{:#}", Admin::bind(address).unwrap_err());
    assert!(
        error.contains(&format!("cannot serve on {address}: give another address with --listen=ADDR")),
        "{error}"
    );
    // The C library words this; glibc's text is one word longer than musl's.
    assert!(error.contains("in use"), "{error}");
}

#[tokio::test]
async fn it_does_not_listen_before_it_serves() {
    let admin = Admin::bind(([127, 0, 0, 1], 0).into()).unwrap();
    assert!(TcpStream::connect(admin.local_addr()).await.is_err());
    let second = Admin::bind(admin.local_addr());
    let never = || std::future::pending::<()>();
    let first = tokio::spawn(admin.serve(Arc::new(Fixed { waits_for: None }), never()));
    if let Ok(second) = second {
        connect(second.local_addr()).await;
        let error = second.serve(Arc::new(Fixed { waits_for: None }), never()).await.unwrap_err();
        assert!(format!("{error:#}").contains("--listen=ADDR"), "{error:#}");
    }
    first.abort();
}

#[tokio::test]
async fn silent_clients_keep_nobody_out_nor_the_agent_from_stopping() {
    let server = Server::start(None);
    let mut silent = Vec::new();
    for _ in 0..2 * MAX_CONNECTIONS {
        silent.push(connect(server.address).await);
    }
    let answer = time::timeout(HEAD_TIMEOUT / 2, server.get("/livez")).await.unwrap();
    assert!(answer.contains(" 200 "));
    // The oldest connection made room; the newest ones are still open.
    assert_eq!(silent[0].read(&mut [0]).await.unwrap_or(0), 0);
    let newest = silent.last_mut().unwrap();
    newest.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(newest.read(&mut [0]).await.unwrap() > 0);
    server.stop.send(()).unwrap();
    time::timeout(GRACE + Duration::from_secs(3), server.task).await.unwrap().unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_ends_the_connection() {
    let server = Server::start(None);
    let mut stream = connect(server.address).await;
    stream.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    let mut answer = Vec::new();
    time::timeout(HEAD_TIMEOUT * 3, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
}
