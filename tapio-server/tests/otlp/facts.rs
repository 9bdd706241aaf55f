//! Occurrences of agents that come by OTLP are facts.

use tapio_occurrence::event::occurrence as of_event;
use tempfile::tempdir;

use crate::{
    agent::{Agent, oom_kill, outlier, spike, timeout, until},
    certificates::Authority,
    sender::Receiver,
    support::{journaled, journaled_ids},
};

fn sink(protocol: &str, endpoint: &str, more: &[(&str, &str)]) -> Agent {
    let keys = [("endpoint", endpoint), ("protocol", protocol), ("compression", "gzip")];
    Agent::new(&[&keys[..], more].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_sends_is_in_the_journal_as_it_was_also_after_a_kill() {
    let directory = tempdir().unwrap();
    let receiver = Receiver::start(directory.path(), &[]);
    let mut ids = Vec::new();
    for (protocol, address) in [("grpc", receiver.grpc), ("http/protobuf", receiver.http)] {
        let mut agent = sink(protocol, &format!("http://{address}"), &[]);
        for occurrence in [spike(), oom_kill(), outlier(), timeout()] {
            agent.give(occurrence);
        }
        agent.send(2_000);
        let ledger = agent.settled().await;
        assert_eq!((ledger.sent, ledger.rejected), (2_004, 0), "{protocol} {ledger:?}");
        ids.extend(agent.given);
    }
    let own = receiver.server.ledger();
    assert_eq!((&own["accepted"], &own["waiting"]), (&4_008.into(), &0.into()), "{own}");
    assert_eq!(receiver.metric(r#"tapio_otlp_received_total{part="records"}"#), 4_008);
    receiver.server.kill();
    let found = journaled(directory.path()).await;
    // A request has them by workload.
    let mut found_ids: Vec<_> = found.iter().map(|(_, event)| event.id.clone()).collect();
    found_ids.sort_unstable();
    ids.sort_unstable();
    assert!(found_ids == ids, "{} are not {}", found_ids.len(), ids.len());
    let killed = found.iter().find(|(_, event)| event.event_type == "container.oom_kill").unwrap();
    let killed = of_event(&killed.1).unwrap();
    let sent = oom_kill();
    assert_eq!(
        (&killed.kind, &killed.message, &killed.workload),
        (&sent.kind, &sent.message, &sent.workload)
    );
    assert_eq!((killed.actor, killed.severity), (sent.actor, sent.severity));
    assert_eq!(killed.data.number("status"), Some(137));
}

#[tokio::test(flavor = "multi_thread")]
async fn repeats_are_dropped() {
    let directory = tempdir().unwrap();
    let receiver = Receiver::start(directory.path(), &[]);
    let all: Vec<_> = (0..50).map(|_| spike()).collect();
    for protocol in ["grpc", "http/protobuf"] {
        let address = if protocol == "grpc" { receiver.grpc } else { receiver.http };
        let mut agent = sink(protocol, &format!("http://{address}"), &[]);
        all.iter().cloned().for_each(|occurrence| drop(agent.give(occurrence)));
        assert_eq!(agent.settled().await.sent, 50);
    }
    let own = receiver.server.ledger();
    assert_eq!((&own["accepted"], &own["repeated"]), (&50.into(), &50.into()), "{own}");
    receiver.server.stop();
    assert_eq!(journaled_ids(directory.path()).await.len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_with_a_token() {
    let directory = tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let authority = Authority::new("ca");
    std::fs::write(path("ca.crt"), authority.pem()).unwrap();
    authority.issue("localhost", path("tls.crt").as_ref(), path("tls.key").as_ref());
    std::fs::write(path("tokens"), "0123456789abcdef\n").unwrap();
    let flags = [("cert", "tls.crt"), ("key", "tls.key"), ("token-file", "tokens")]
        .map(|(flag, file)| format!("--polku-{flag}={}", path(file)));
    let receiver = Receiver::start(directory.path(), &flags.each_ref().map(String::as_str));
    for (protocol, port) in [("grpc", receiver.grpc.port()), ("http/protobuf", receiver.http.port())] {
        let endpoint = format!("https://localhost:{port}");
        let ca = path("ca.crt");
        let with = |token: &str| {
            let headers = format!("authorization=Bearer%20{token}");
            sink(protocol, &endpoint, &[("certificate", &ca), ("headers", &headers)])
        };
        let mut agent = with("0123456789abcdef");
        agent.send(20);
        assert_eq!(agent.settled().await.sent, 20, "{protocol}");
        let mut agent = with("0123456789abcdeX");
        agent.send(1);
        until(|| agent.status().state.to_string(), |state| state.contains("does not let the agent in")).await;
    }
    assert_eq!(receiver.server.ledger()["accepted"], 40);
}
