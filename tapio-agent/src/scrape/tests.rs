use std::io;

use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::observer::{
    Observer as _,
    scheduler::{Scheduler, Settings},
};

#[path = "../../../tapio-delivery/tests/sinks/certificates.rs"]
#[allow(dead_code, reason = "a part of it is the sinks'")]
mod certificates;

use certificates::Authority;

const BODY: &str =
    "# HELP scheduler_pending_pods [STABLE] x\nscheduler_pending_pods{queue=\"active\"} 3\nup 1\n";
const TOKEN: &str = "abc";

/// What a server does with a request.
#[derive(Clone)]
enum Answer {
    /// Answers with this status and body to those with the token, else with 401.
    Body(u16, String),
    /// Sends the head of an answer of this length, the bytes, and nothing else.
    Broken(usize, Vec<u8>),
    /// As `Broken`, and keeps the connection.
    Slow,
    /// Comments without end.
    Endless,
}

/// An https server at an address of this host.
struct Server {
    url: String,
    directory: TempDir,
    _task: JoinSet<()>,
}

impl Server {
    /// With `clients`, it wants a certificate of the agent.
    async fn start(answer: Answer, clients: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new("a test");
        std::fs::write(directory.path().join("ca.crt"), authority.pem()).unwrap();
        std::fs::write(directory.path().join("token"), TOKEN).unwrap();
        authority.client(&directory.path().join("tls.crt"), &directory.path().join("tls.key"));
        let tls = authority.server("127.0.0.1", &["http/1.1"], clients.then_some(&authority));
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/metrics", listener.local_addr().unwrap());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, answer) = (acceptor.clone(), answer.clone());
                connections.spawn(async move {
                    let mut stream = acceptor.accept(tcp).await?;
                    serve(&mut stream, &answer).await
                });
            }
        });
        Self { url, directory, _task: task }
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// A scraper with the server's CA and token, and these other settings.
    fn scraper(&self, settings: &[(&str, &str)]) -> Scraper {
        let (ca, token) = (self.file("ca.crt"), self.file("token"));
        let own = [("url", self.url.as_str()), ("ca", &ca), ("token_file", &token)];
        scraper(&[&own, settings].concat())
    }
}

async fn serve(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), answer: &Answer) -> io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap();
        assert!(
            head.starts_with("GET /metrics HTTP/1.1\r\n") && head.contains("accept: text/plain"),
            "{head}"
        );
        let start =
            |status: u16, length: usize| format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n\r\n");
        match answer {
            Answer::Body(status, body) => {
                let has_token = head.contains(&format!("authorization: Bearer {TOKEN}\r\n"));
                let (status, body) =
                    if has_token { (*status, body.as_str()) } else { (401, "Unauthorized\n") };
                stream.write_all((start(status, body.len()) + body).as_bytes()).await?;
            }
            Answer::Broken(length, bytes) => {
                stream.write_all(&[start(200, *length).as_bytes(), bytes].concat()).await?;
                return stream.shutdown().await;
            }
            Answer::Slow => {
                stream.write_all((start(200, 100) + "up 1\n").as_bytes()).await?;
                pending::<()>().await;
            }
            Answer::Endless => {
                stream.write_all(b"HTTP/1.1 200 x\r\n\r\n").await?;
                loop {
                    stream.write_all(&b"# not to be kept\n".repeat(1000)).await?;
                }
            }
        }
    }
}

fn scraper(settings: &[(&str, &str)]) -> Scraper {
    use tapio_service::setting::Node as _;
    let mut of = Settings::default();
    settings.iter().for_each(|(key, value)| of.assign(key, value).unwrap());
    Scraper::new(Scheduler::scrapes(&of).unwrap())
}

/// The state after one scrape.
async fn scraped(scraper: &Scraper) -> Result<String, Absent> {
    let scraped = scraper.scrape.once(&mut None, scraper.scrape.target.timeout).await;
    scraper.scrape.set(scraped.map(|(_, series)| series));
    scraper.parts().remove(0).state
}

/// Why there is nothing to be scraped, and the remedy.
async fn refused(scraper: &Scraper) -> (String, &'static str) {
    let absent = scraped(scraper).await.unwrap_err();
    assert_eq!(absent.lack, Lack::Failed, "{absent}");
    (absent.why, absent.remedy.unwrap())
}

fn body(text: impl Into<String>) -> Answer {
    Answer::Body(200, text.into())
}

#[tokio::test]
async fn records_come_one_after_the_other() {
    let server = Server::start(body(BODY), false).await;
    let mut scraper = server.scraper(&[("interval", "1s")]);
    assert_eq!(scraper.parts()[0].state, Ok(format!("at {}", server.url)));
    let mut records = scraper.records().unwrap();
    assert!(scraper.records().is_err(), "they are taken once");
    for _ in 0..2 {
        timeout(PATIENCE, records.ready()).await.unwrap().unwrap();
        let mut taken = Vec::new();
        assert!(records.next(&mut |record| taken.push(record.len())));
        assert!(!records.next(&mut |_| {}));
        assert_eq!(taken, [size_of::<crate::observer::scheduler::scrape::Scrape>()]);
    }
    assert_eq!(scraper.parts()[0].state, Ok(format!("at {}, 2 series", server.url)));
    scraper.close();
    assert!(timeout(Duration::from_secs(2), records.ready()).await.is_err(), "it is closed");
}

#[tokio::test]
async fn what_the_agent_shows_to_be_let_in() {
    let server = Server::start(body(BODY), true).await;
    let (cert, key) = (server.file("tls.crt"), server.file("tls.key"));
    assert!(scraped(&server.scraper(&[("cert", &cert), ("key", &key)])).await.is_ok());
    let (why, remedy) = refused(&server.scraper(&[])).await;
    assert!(why.contains("received fatal alert: CertificateRequired"), "{why}");
    assert!(remedy.contains("keys `cert` and `key`"), "{remedy}");

    let server = Server::start(body(BODY), false).await;
    std::fs::write(server.file("token"), "another").unwrap();
    let (why, remedy) = refused(&server.scraper(&[])).await;
    assert_eq!(why, format!("{} cannot be scraped: it answers with status 401: Unauthorized", server.url));
    assert!(remedy.contains("`token_file`"), "{remedy}");
    let (why, remedy) = refused(&server.scraper(&[("token_file", "/nothing")])).await;
    assert!(why.ends_with("/nothing cannot be read: No such file or directory (os error 2)"), "{why}");
    assert!(remedy.contains("that the agent may read"), "{remedy}");
    std::fs::write(server.file("ca.crt"), "nothing").unwrap();
    let (why, _) = refused(&server.scraper(&[])).await;
    assert!(why.contains("TLS, or the token, cannot be used"), "{why}");

    let status = r#"{"kind":"Status","status":"Failure","message":"forbidden: User \"tapio\" cannot get path \"/metrics\"","code":403}"#;
    let (why, _) =
        refused(&Server::start(Answer::Body(403, status.to_owned()), false).await.scraper(&[])).await;
    assert!(why.ends_with("status 403: forbidden: User \"tapio\" cannot get path \"/metrics\""), "{why}");
    let forbidden = Answer::Body(403, "forbidden: User \"tapio\" cannot get path \"/metrics\"\n".repeat(100));
    let (why, remedy) = refused(&Server::start(forbidden, false).await.scraper(&[])).await;
    assert!(
        why.contains("status 403: forbidden: User \"tapio\" cannot get path \"/metrics\"") && why.len() < 400,
        "{why}"
    );
    assert!(remedy.contains("{nonResourceURLs: [/metrics], verbs: [get]}"), "{remedy}");
}

#[tokio::test]
async fn a_certificate_is_trusted_only_if_it_is_asked_for() {
    let server = Server::start(body(BODY), false).await;
    let other = Server::start(body(BODY), false).await;
    let (why, remedy) = refused(&server.scraper(&[("ca", &other.file("ca.crt"))])).await;
    assert!(why.contains("invalid peer certificate: "), "{why}");
    assert!(remedy.contains("key `ca`") && remedy.contains("`insecure_skip_verify: true`"), "{remedy}");
    // This machine's authorities do not know it either.
    let token = server.file("token");
    let (why, _) = refused(&scraper(&[("url", &server.url), ("token_file", &token)])).await;
    assert!(why.contains("certificate"), "{why}");
    let trusting = [("url", server.url.as_str()), ("token_file", &token), ("insecure_skip_verify", "true")];
    assert_eq!(scraped(&scraper(&trusting)).await, Ok(format!("at {}, 2 series", server.url)));
}

#[tokio::test]
async fn large_slow_and_broken_answers() {
    let limits = [("max_body", "64KiB"), ("max_series", "1000"), ("timeout", "500ms")];
    let long = format!("scheduler_pending_pods{{queue=\"{}\"}} 1\n", "x".repeat(MAX_LINE));
    for (answer, said) in [
        (body("# a comment\n".repeat(10_000)), "the answer is larger than 65536 bytes (key `max_body`)"),
        (Answer::Endless, "the answer is larger than 65536 bytes"),
        (body("up 1\n".repeat(1001)), "there are more than 1000 series (key `max_series`)"),
        (body(long), "a line is longer than 4096 bytes"),
        (Answer::Slow, "no complete answer within 500ms"),
        (Answer::Broken(100, b"up 1\n".to_vec()), "the answer broke off"),
        (Answer::Broken(5, vec![0xff; 5]), "the answer is not text"),
        (Answer::Broken(0, Vec::new()), "it has no metrics of kube-scheduler"),
        (body("<html>\n<body>"), "it has no metrics of kube-scheduler"),
        (body("scheduler_pending_pods{queue=\n"), "it is not in the text format of Prometheus"),
        (Answer::Body(500, String::new()), "it answers with status 500"),
        (Answer::Body(302, String::new()), "it answers with status 302"),
    ] {
        let (why, remedy) = refused(&Server::start(answer, false).await.scraper(&limits)).await;
        assert!(why.contains(said), "{said}: {why}");
        assert_eq!(remedy, "correct `url`, and look at its log");
    }
    // What is within the limits is read, however large.
    let help =
        format!("# HELP x {}\r\n{BODY}scheduler_pending_pods{{queue=\"gated\"}} 1", "y".repeat(9_000_000));
    assert!(scraped(&Server::start(body(help), false).await.scraper(&[])).await.is_ok());
}

#[tokio::test]
async fn a_host_without_a_scheduler_is_not_an_error() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = format!("https://{free}/metrics");
    let (why, remedy) = refused(&scraper(&[("url", &url)])).await;
    assert!(why.contains("Connection refused") && remedy.contains("--bind-address"), "{why}: {remedy}");
    let target = Target { is_given: false, ..scraper(&[("url", &url)]).scrape.target.clone() };
    let local = Scraper::new(target);
    let absent = local.parts().remove(0).state.unwrap_err();
    assert_eq!((absent.lack, absent.remedy), (Lack::Inapplicable, None));
    assert_eq!(absent.why, format!("no scheduler on this host: nothing listens at {free}"));
    assert!(!local.observes());
    // It has started, but is not to be trusted.
    let server = Server::start(body(BODY), false).await;
    let target = Target { is_given: false, ca: None, ..server.scraper(&[]).scrape.target.clone() };
    let local = Scraper::new(target);
    assert!(local.observes());
    assert_eq!(scraped(&local).await.unwrap_err().lack, Lack::Missing);
}

#[test]
fn the_doctor_scrapes_by_itself() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(Server::start(body(BODY), false));
    let scraper = server.scraper(&[]);
    scraper.check();
    assert_eq!(scraper.parts()[0].state, Ok(format!("at {}, 2 series", server.url)));
}

#[test]
fn lines_are_whole_in_whatever_chunks_they_come() {
    let target = scraper(&[]).scrape.target.clone();
    for size in 1..BODY.len() {
        let (mut lines, mut taken) = (Lines::default(), Vec::new());
        let mut line = |line: &str| {
            taken.push(line.to_owned());
            Ok(())
        };
        BODY.as_bytes().chunks(size).for_each(|chunk| lines.take(chunk, &target, &mut line).unwrap());
        lines.end(&target, &mut line).unwrap();
        assert_eq!(
            (taken, lines.series),
            (vec!["scheduler_pending_pods{queue=\"active\"} 3".to_owned(), "up 1".to_owned()], 2)
        );
    }
}
