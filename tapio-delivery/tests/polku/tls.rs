//! With TLS, without, and with disagreement between the two sides: each case has a distinct message, reported
//! once.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use tapio_delivery::{
    State,
    polku::{Polku, Timings, health},
};

use crate::log::Log;
use http::Response;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tonic::{Status, body::Body};
use tracing::Level;

use crate::{
    ANY,
    agent::{Agent, settings, until},
    all_sent,
    certificates::Authority,
    serve::{Shown, Version},
    server::{Server, Shared},
};

const ANY_V6: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), 0);

/// Two CAs and the certificates they issued for the agent, as files.
struct Files {
    ours: Authority,
    theirs: Authority,
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
        let files = Self { ours, theirs, directory: tempfile::tempdir().unwrap() };
        fs::write(files.path("ca"), files.ours.pem()).unwrap();
        files.ours.client(files.path("cert").as_ref(), files.path("key").as_ref());
        files.theirs.client(files.path("their-cert").as_ref(), files.path("their-key").as_ref());
        files
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// A gateway for a name; with `mutual`, it admits only our clients.
    fn gateway(&self, shared: &Shared, name: &str, mutual: bool) -> Server {
        Server::start_with(ANY, shared, Some(self.tls(name, mutual)))
    }

    fn tls(&self, name: &str, mutual: bool) -> ServerConfig {
        self.ours.server(name, &["h2"], mutual.then_some(&self.ours))
    }
}

fn forbidden() -> Response<Body> {
    Response::builder().status(401).body(Body::empty()).unwrap()
}

fn not_found() -> Response<Body> {
    Response::builder().status(404).body(Body::empty()).unwrap()
}

fn unauthenticated() -> Response<Body> {
    Status::unauthenticated("who are you").into_http()
}

fn welcome() -> Response<Body> {
    Response::builder().header("content-type", "text/html").body(Body::empty()).unwrap()
}

#[tokio::test]
async fn tls_and_mutual_tls_with_a_private_authority() {
    let files = Files::new();
    let (ca, cert, key) = (files.path("ca"), files.path("cert"), files.path("key"));
    for (mutual, own) in [
        (false, vec![]),
        (false, vec![("cert", &*cert), ("key", &*key)]),
        (true, vec![("cert", &*cert), ("key", &*key)]),
    ] {
        let shared = Shared::default();
        let server = files.gateway(&shared, "localhost", mutual);
        // TLS requested, and implied.
        for scheme in ["https://", ""] {
            let endpoint = format!("{scheme}localhost:{}", server.address.port());
            let mut agent = Agent::set(&[&[("endpoint", endpoint.as_str()), ("ca", &ca)], &own[..]].concat());
            agent.send(300);
            let ledger = agent.settled().await;
            assert_eq!((ledger.received, ledger.sent), (300, 300), "{ledger:?}");
            assert!(agent.ids.iter().all(|id| shared.seen().events.contains_key(id)));
        }
        let shown = if mutual { CertificateDer::from_pem_file(&cert).ok() } else { None };
        let seen = shared.seen();
        assert!(seen.shown.len() >= 2 && seen.shown.iter().all(|it| it.0 == shown), "{:?}", seen.shown);
    }
}

/// Waits until the sink has retried a few times, and returns how often it reported a connect error with these
/// words.
async fn reported(log: &Log, agent: &Agent, endpoint: &str, words: [&str; 2]) -> usize {
    let is_away = |state: &String| state.starts_with("retrying") || state.starts_with("misconfigured");
    let why = until(|| agent.status().state.to_string(), is_away).await;
    assert!(words.iter().all(|word| why.contains(word)) && why.contains(endpoint), "{why}: not {words:?}");
    until(|| log.lines(&["DEBUG", why.split('(').next().unwrap(), endpoint]), |lines| *lines >= 2).await;
    assert_eq!(agent.status().ledger.rejected, 0);
    log.lines(&["WARN", endpoint])
}

#[tokio::test]
async fn both_sides_of_every_disagreement_are_reported_once() {
    let (log, _guard) = Log::start(Level::DEBUG);
    let files = Files::new();
    let (ca, cert, key) = (files.path("ca"), files.path("cert"), files.path("key"));
    let (their_cert, their_key) = (files.path("their-cert"), files.path("their-key"));
    let trust = ("ca", ca.as_str());
    let foreign = [trust, ("cert", &their_cert), ("key", &their_key)];
    let own = [trust, ("cert", &cert), ("key", &key)];
    let shared = Shared::default();
    let name = "localhost";
    let plain = || Server::start(ANY, &shared);
    let good = || files.gateway(&shared, name, false);
    let mutual = || files.gateway(&shared, name, true);
    let strange = files.theirs.server(name, &["h2"], None);
    let authority = files.ours.itself(&["h2"]);
    let h1 = |alpn: &[&str]| Some(files.ours.server(name, alpn, None));
    // Some servers just close a connection of the other HTTP version.
    let other = |answer| Server::answering(Version::Http2, None, answer);
    let cases = [
        (
            "https",
            Server::start_with(ANY, &shared, Some(strange)),
            &[trust][..],
            ["authority that is not trusted", "key `polku.ca`"],
        ),
        ("https", good(), &[], ["authority that is not trusted", "--polku-ca=FILE"]),
        (
            "https",
            Server::start_with(ANY, &shared, Some(authority)),
            &[trust],
            ["its certificate is an authority's own", "CA:FALSE"],
        ),
        (
            "https",
            files.gateway(&shared, "gateway.example", false),
            &[trust],
            ["is not for `localhost`, but for", "write a name"],
        ),
        ("https", plain(), &[trust], ["does not speak TLS", "write http://localhost:"]),
        ("http", good(), &[], ["wants TLS", "write https://localhost:"]),
        (
            "https",
            mutual(),
            &[trust],
            ["wants a certificate of the agent", "keys `polku.cert` and `polku.key`"],
        ),
        ("https", mutual(), &foreign, ["refuses the agent's certificate", "of an authority that it trusts"]),
        ("http", Server::answering(Version::Http1, None, welcome), &[], ["HTTP/2", "port of gRPC"]),
        (
            "https",
            Server::answering(Version::Http1, h1(&["http/1.1"]), welcome),
            &[trust],
            ["speaks HTTP/1 only", "let the proxy pass HTTP/2"],
        ),
        ("https", Server::answering(Version::Http1, h1(&[]), welcome), &own, ["HTTP/2", "port of gRPC"]),
        ("http", other(forbidden), &[], ["does not let the agent in: status 401", "`polku.cert`"]),
        (
            "http",
            other(unauthenticated),
            &[],
            ["does not let the agent in: Unauthenticated (who are you)", "`polku.cert`"],
        ),
        ("http", other(not_found), &[], ["has nothing at /polku.v1.Gateway", "correct the endpoint"]),
        ("http", other(welcome), &[], ["not as gRPC does", "something else answers there"]),
    ];
    let started: Vec<_> = cases
        .iter()
        .flat_map(|(scheme, server, keys, words)| {
            let endpoint = format!("{scheme}://localhost:{}", server.address.port());
            // Also with nothing to send.
            [0, 3].map(|count| {
                let mut agent = Agent::set(&[&[("endpoint", endpoint.as_str())], *keys].concat());
                agent.send(count);
                (endpoint.clone(), agent, *words, *keys)
            })
        })
        .collect();
    for (endpoint, agent, words, keys) in &started {
        assert_eq!(
            reported(&log, agent, endpoint, *words).await,
            2,
            "two agents, each once: {endpoint} {words:?}"
        );
        let all = settings(&[&[("endpoint", endpoint.as_str())], *keys].concat());
        let asked = health(&all, &all.endpoint.all()[0], Duration::from_secs(10)).await;
        let why = asked.unwrap_err().to_string();
        assert!(words.iter().all(|word| why.contains(word)), "the doctor says {why}: not {words:?}");
    }
}

#[tokio::test]
async fn an_address_of_ipv6_and_its_certificate() {
    if std::net::TcpListener::bind(ANY_V6).is_err() {
        println!("SKIP an_address_of_ipv6_and_its_certificate: there is no ::1");
        return;
    }
    let files = Files::new();
    for tls in [None, Some(files.tls("::1", false))] {
        let shared = Shared::default();
        let ca = files.path("ca");
        let keys = [("ca", ca.as_str())];
        let keys = if tls.is_some() { &keys[..] } else { &[] };
        let server = Server::start_with(ANY_V6, &shared, tls);
        let endpoint = format!("[::1]:{}", server.address.port());
        let mut agent = Agent::set(&[&[("endpoint", endpoint.as_str())], keys].concat());
        agent.send(5);
        let ledger = agent.settled().await;
        all_sent(&agent, &shared, &ledger);
    }
}

/// A name may have addresses without a listener.
#[tokio::test]
async fn all_addresses_of_a_name_are_tried() {
    let shared = Shared::default();
    for any in [ANY, ANY_V6] {
        if std::net::TcpListener::bind(any).is_err() {
            println!("SKIP all_addresses_of_a_name_are_tried: there is no {any}");
            continue;
        }
        if !std::net::ToSocketAddrs::to_socket_addrs("localhost:1").unwrap().any(|at| at.ip() == any.ip()) {
            println!("SKIP all_addresses_of_a_name_are_tried: localhost is not {any}");
            continue;
        }
        let server = Server::start(any, &shared);
        let mut agent = Agent::to(&format!("localhost:{}", server.address.port()));
        agent.send(1);
        assert_eq!(agent.settled().await.sent, 1);
    }
}

#[tokio::test]
async fn renewed_files_are_used_while_idle() {
    files_are_renewed(false).await;
}

#[tokio::test]
async fn renewed_files_are_used_while_busy() {
    files_are_renewed(true).await;
}

/// The sink uses renewed files while the agent runs, without an interruption.
async fn files_are_renewed(busy: bool) {
    let (log, _guard) = Log::start(Level::INFO);
    let files = Files::new();
    let shared = Shared::default();
    let server = files.gateway(&shared, "localhost", true);
    let endpoint = format!("localhost:{}", server.address.port());
    let (ca, cert, key) = (files.path("ca"), files.path("cert"), files.path("key"));
    let mut agent = Agent::set(&[("endpoint", &endpoint), ("ca", &ca), ("cert", &cert), ("key", &key)]);
    let before = CertificateDer::from_pem_file(&cert).unwrap();
    agent.send(10);
    agent.settled().await;

    // Half of a renewed pair is useless: the connection stays, and the sink reports this once.
    let next = Files::new();
    files.ours.client(next.path("cert").as_ref(), next.path("key").as_ref());
    fs::copy(next.path("cert"), &cert).unwrap();
    let kept = "files for TLS changed and do not work";
    load_until(&mut agent, busy, || log.lines(&[kept]) == 1).await;
    assert_eq!(shared.seen().streams, 1);

    fs::copy(next.path("key"), &key).unwrap();
    load_until(&mut agent, busy, || shared.seen().streams == 2).await;
    let after = CertificateDer::from_pem_file(next.path("cert")).unwrap();
    assert_eq!(shared.seen().shown, [Shown(Some(before)), Shown(Some(after))]);

    agent.send(10);
    let ledger = agent.settled().await;
    all_sent(&agent, &shared, &ledger);
    assert!(shared.seen().times.values().all(|times| *times == 1), "sent twice: {log}");
    assert_eq!((log.lines(&[kept]), log.lines(&["WARN"]), agent.status().state), (1, 1, State::Ok), "{log}");
}

/// Waits for a condition, with or without occurrences to deliver meanwhile.
async fn load_until(agent: &mut Agent, busy: bool, done: impl Fn() -> bool) {
    let end = tokio::time::Instant::now() + Duration::from_secs(90);
    while !done() {
        assert!(tokio::time::Instant::now() < end, "{:?}", agent.status());
        if busy {
            agent.send(20);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The CA file is corrected while the agent rejects the gateway's certificate.
#[tokio::test]
async fn a_corrected_file_is_used_at_the_next_attempt() {
    let files = Files::new();
    let shared = Shared::default();
    let server = files.gateway(&shared, "localhost", false);
    fs::write(files.path("ca"), files.theirs.pem()).unwrap();
    let endpoint = format!("localhost:{}", server.address.port());
    let mut agent = Agent::set(&[("endpoint", &endpoint), ("ca", &files.path("ca"))]);
    agent.send(3);
    let state = |agent: &Agent| agent.status().state.to_string();
    until(|| state(&agent), |state| state.contains("authority that is not trusted here")).await;
    fs::write(files.path("ca"), "no certificate").unwrap();
    until(
        || state(&agent),
        |state| state.contains("polku.ca: ") && state.contains("there is no certificate in it"),
    )
    .await;
    fs::write(files.path("ca"), files.ours.pem()).unwrap();
    let ledger = agent.settled().await;
    all_sent(&agent, &shared, &ledger);
}

#[test]
fn files_that_cannot_be_used_are_refused_at_the_start() {
    let files = Files::new();
    let garbage = files.path("garbage");
    fs::write(&garbage, "-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n").unwrap();
    let (absent, cert, other) = (files.path("absent"), files.path("cert"), files.path("their-key"));
    for (keys, why, file) in [
        (vec![("ca", &absent)], "polku.ca: ", &absent),
        (vec![("ca", &garbage)], "polku.ca: ", &garbage),
        (vec![("cert", &absent), ("key", &absent)], "polku.cert: ", &absent),
        (vec![("cert", &cert), ("key", &other)], "polku.key: ", &other),
    ] {
        assert!(Path::new(file) == Path::new(&absent) || Path::new(file).exists());
        let mut all = vec![("endpoint", "gateway:50051")];
        all.extend(keys.iter().map(|(key, text)| (*key, text.as_str())));
        let error = Polku::new(&settings(&all), None, Timings::default()).unwrap_err().to_string();
        assert!(error.starts_with(why) && error.contains(file), "{error}");
    }
}
