//! The agent's sink against the server.

use std::{collections::BTreeSet, fs, time::Duration};

use tapio_delivery::polku::{Health, health};
use tapio_occurrence::event::occurrence as of_event;
use tempfile::tempdir;
use tonic::{Code, Request};

use crate::{
    certificates::Authority,
    client::{Stream, batch, connect, events},
    sending::{Agent, settings, until},
    support::{Server, journaled, journaled_ids},
};

/// Everything that the sink sent is in the journal, once, in order, and the ledger says so.
async fn delivered(agent: &Agent, server: Server, directory: &std::path::Path) {
    let ledger = agent.settled().await;
    let count = agent.ids.len() as u64;
    assert_eq!((ledger.received, ledger.sent), (count, count), "{ledger:?}");
    let own = server.ledger();
    assert_eq!((&own["accepted"], &own["repeated"]), (&count.into(), &0.into()), "{own}");
    let last = server.stop();
    assert!(last.contains("stopped") && last.contains(&format!(r#""accepted":{count}"#)), "{last}");
    assert_eq!(journaled_ids(directory).await, agent.given);
}

#[tokio::test]
async fn all_that_a_sink_sends_is_in_the_journal_once() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut agent = Agent::new(server.address);
    agent.send(5_000);
    agent.settled().await;
    let status = server.status();
    let one = &status["roles"]["polku"]["agents"]["listed"][0];
    assert_eq!((&one["node"], &one["facts"]), (&"node-a".into(), &5_000.into()), "{status:#}");
    assert_eq!(status["roles"]["polku"]["streams"], 1);
    let metrics = server.get("/metrics");
    for line in [
        "tapio_facts_received_total{origin=\"polku\"} 5000\n",
        "tapio_facts_accepted_total{origin=\"polku\"} 5000\n",
        "tapio_facts_refused_total{origin=\"polku\",reason=\"id\"} 0\n",
        "tapio_journal_facts 5000\n",
        "tapio_polku_streams 1\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    delivered(&agent, server, directory.path()).await;
    let found = journaled(directory.path()).await;
    let first = of_event(&found[0].1).unwrap();
    assert_eq!((first.id.to_string(), &*first.kind), (agent.given[0].clone(), "network.rtt_spike"));
}

#[tokio::test]
async fn over_tls_and_mutual_tls_also_with_renewed_files() {
    for mutual in [false, true] {
        let directory = tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
        fs::write(path("ca"), ours.pem()).unwrap();
        ours.issue("localhost", path("tls.crt").as_ref(), path("tls.key").as_ref());
        ours.client(path("cert").as_ref(), path("key").as_ref());
        theirs.client(path("their-cert").as_ref(), path("their-key").as_ref());
        let mut flags =
            vec![format!("--polku-cert={}", path("tls.crt")), format!("--polku-key={}", path("tls.key"))];
        if mutual {
            flags.push(format!("--polku-client-ca={}", path("ca")));
        }
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let server = Server::start(directory.path(), &flags);
        let endpoint = format!("localhost:{}", server.address.port());
        let (ca, cert, key) = (path("ca"), path("cert"), path("key"));
        let trust = [("endpoint", endpoint.as_str()), ("ca", &ca)];
        let own = [trust[0], trust[1], ("cert", &cert), ("key", &key)];
        let keys = if mutual { &own[..] } else { &trust[..] };
        let mut agent = Agent::set(keys);
        agent.send(500);
        agent.settled().await;

        // A certificate of another authority for the same name: only the renewed file admits who trusts that one.
        fs::write(path("their-ca"), theirs.pem()).unwrap();
        theirs.issue("localhost", path("tls.crt").as_ref(), path("tls.key").as_ref());
        let their_ca = path("their-ca");
        let mut renewed = keys.to_vec();
        renewed[1] = ("ca", &their_ca);
        let all = settings(&renewed);
        let asked = health(&all, &all.endpoint.all()[0], Duration::from_secs(10)).await;
        assert_eq!(asked, Ok(Health::Healthy), "{}", server.log());

        if mutual {
            let (cert, key) = (path("their-cert"), path("their-key"));
            for stranger in [&renewed[..2], &[renewed[0], renewed[1], ("cert", &cert), ("key", &key)]] {
                let all = settings(stranger);
                let refused = health(&all, &all.endpoint.all()[0], Duration::from_secs(10)).await;
                assert!(refused.unwrap_err().to_string().contains("certificate"));
            }
        }
        delivered(&agent, server, directory.path()).await;
    }
}

#[tokio::test]
async fn over_tls_with_a_token_also_with_a_renewed_one() {
    let directory = tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let authority = Authority::new("ours");
    fs::write(path("ca"), authority.pem()).unwrap();
    authority.issue("localhost", path("tls.crt").as_ref(), path("tls.key").as_ref());
    fs::write(path("tokens"), "one-of-several-tokens\n").unwrap();
    fs::write(path("token"), "one-of-several-tokens\n").unwrap();
    let flags = [
        format!("--polku-cert={}", path("tls.crt")),
        format!("--polku-key={}", path("tls.key")),
        format!("--polku-token-file={}", path("tokens")),
    ];
    let server = Server::start(directory.path(), &flags.each_ref().map(String::as_str));
    let endpoint = format!("localhost:{}", server.address.port());
    let keys = [("endpoint", endpoint.as_str()), ("ca", &path("ca")), ("token_file", &path("token"))];
    let mut agent = Agent::set(&keys);
    agent.send(500);
    agent.settled().await;
    fs::write(path("tokens"), "another-of-several-tokens\n").unwrap();
    let other = settings(&keys);
    let asked = || health(&other, &other.endpoint.all()[0], Duration::from_secs(10));
    assert!(asked().await.unwrap_err().to_string().contains("unknown bearer token"));
    fs::write(path("token"), "another-of-several-tokens\n").unwrap();
    assert_eq!(asked().await, Ok(Health::Healthy));
    agent.send(500);
    delivered(&agent, server, directory.path()).await;
}

#[tokio::test]
async fn a_token_is_asked_for() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("tokens");
    fs::write(&file, "one-of-several-tokens\nanother-of-several\n").unwrap();
    let server = Server::start(directory.path(), &[&format!("--polku-token-file={}", file.display())]);
    let mut client = connect(server.address).await;
    let given = events(3);
    for (token, admitted) in [
        (None, false),
        (Some("Bearer one-of-several"), false),
        (Some("Bearer one-of-several-tokens"), true),
        (Some("Bearer another-of-several"), true),
    ] {
        let mut request = Request::new(tokio_stream::iter([batch(given.clone())]));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", token.parse().unwrap());
        }
        match client.stream_events(request).await {
            Ok(acks) => {
                let ack = acks.into_inner().message().await.unwrap().unwrap();
                assert!(admitted && ack.event_ids.len() == 3, "{token:?}: {ack:?}");
            }
            Err(status) => {
                assert!(!admitted && status.code() == Code::Unauthenticated, "{token:?}: {status:?}");
                assert!(status.message().contains("polku.token_file"), "{status:?}");
            }
        }
    }
    // Without one the agent's sink says what is missing.
    let agent = Agent::new(server.address);
    let state = until(|| agent.status().state.to_string(), |state| state.starts_with("misconfigured")).await;
    assert!(state.contains("no bearer token") && state.contains("key `polku.token_file`"), "{state}");
    let ledger = server.ledger();
    assert_eq!((&ledger["accepted"], &ledger["repeated"]), (&3.into(), &3.into()), "{ledger}");
}

#[tokio::test]
async fn events_that_are_no_occurrences_are_kept_and_bad_ones_are_refused_alone() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut client = connect(server.address).await;
    let mut stream = Stream::open(&mut client).await.unwrap();
    let mut given = events(6);
    given[0].id = "not a ULID".to_owned();
    given[1].timestamp_unix_ns = -1;
    given[2].payload = b"from another program".to_vec();
    given[5] = given[4].clone();
    stream.send(given.clone()).await;
    let ack = stream.ack().await.unwrap();
    let expected: Vec<_> = given[2..].iter().map(|event| event.id.clone()).collect();
    assert_eq!(ack.event_ids, expected, "repeats are acknowledged, too");
    let errors: Vec<_> = ack.errors.iter().map(|error| (&*error.event_id, &*error.code)).collect();
    assert_eq!(errors, [("not a ULID", "invalid_id"), (&*given[1].id, "invalid_time")]);
    assert!(ack.buffer_capacity == 64 << 20 && ack.buffer_size <= ack.buffer_capacity);
    let stats = ack.middleware_stats.unwrap();
    assert_eq!(
        (stats.total_received, stats.total_forwarded, stats.dedup_count, stats.filtered_count),
        (6, 3, 1, 2)
    );
    // An empty batch has an Ack as well.
    stream.send(Vec::new()).await;
    assert!(stream.ack().await.unwrap().event_ids.is_empty());
    let ledger = server.ledger();
    assert_eq!(ledger["refused"], serde_json::json!({ "id": 1, "time": 1 }));
    assert_eq!(
        (&ledger["opaque"], &ledger["accepted"], &ledger["waiting"]),
        (&1.into(), &3.into(), &0.into())
    );
    server.stop();
    let found = journaled(directory.path()).await;
    assert_eq!(found[0].1, given[2], "as it was sent");
    assert_eq!(found.iter().map(|(_, event)| &event.id).collect::<BTreeSet<_>>().len(), 3);
}
