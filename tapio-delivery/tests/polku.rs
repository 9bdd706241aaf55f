//! The POLKU sink against a gateway that misbehaves: every id arrives, and the counters balance.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "polku/agent.rs"]
mod agent;
#[path = "sinks/certificates.rs"]
mod certificates;
#[path = "sinks/log.rs"]
mod log;
#[path = "polku/refusals.rs"]
mod refusals;
#[path = "sinks/serve.rs"]
mod serve;
#[path = "polku/server.rs"]
mod server;
#[path = "polku/several.rs"]
mod several;
#[path = "polku/silent.rs"]
mod silent;
#[path = "sinks/agent.rs"]
mod sinks;
#[path = "polku/tls.rs"]
mod tls;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use tapio_delivery::{
    Ledger, State, Trouble,
    polku::{
        BATCH_EVENTS, Health, Settings, WINDOW, health,
        proto::v1::{IngestBatch, RawPayload, gateway_client::GatewayClient, ingest_batch::Payload},
    },
    stdout::Stdout,
};
use tapio_occurrence::{Data, Occurrence, Outcome, Peer, Severity, Value, event::v1 as event};

use agent::{Agent, occurrence, until};
use server::{Manners, Server, Shared};

const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// All were sent and arrived, and nothing was lost.
fn all_sent(agent: &Agent, shared: &Shared, ledger: &Ledger) {
    let count = agent.ids.len() as u64;
    assert_eq!((ledger.received, ledger.sent), (count, count), "{ledger:?}");
    assert!(shared.seen().events.keys().eq(&agent.ids), "an id did not arrive");
    assert!(shared.seen().acknowledged.is_superset(&agent.ids));
}

#[tokio::test]
async fn a_gateway_is_asked_how_it_is() {
    let server = Server::start(ANY, &Shared::default());
    let settings = Settings::default();
    let endpoint = server.address.to_string().parse().unwrap();
    assert_eq!(health(&settings, &endpoint, Duration::from_secs(5)).await, Ok(Health::Healthy));

    // A listener that accepts the connection and stays silent.
    let silent = std::net::TcpListener::bind(ANY).unwrap();
    let endpoint = silent.local_addr().unwrap().to_string().parse().unwrap();
    let asked = health(&settings, &endpoint, Duration::from_millis(300)).await;
    assert_eq!(asked, Err(Trouble::bare("gave no answer within 300ms")));
}

#[tokio::test]
async fn typed_data_payload_and_metadata_say_the_same() {
    let shared = Shared::default();
    let server = Server::start(ANY, &shared);
    let mut agent = Agent::new(server.address);
    let spike = agent.give(occurrence());
    let refused = agent.give(Occurrence {
        kind: "network.connection_timeout".into(),
        severity: Severity::Error,
        outcome: Outcome::Timeout,
        cluster: None,
        workload: None,
        baseline: None,
        data: Data::from([
            ("elapsed_us", Value::Number(3_021_500)),
            ("syns", Value::Number(3)),
            ("direction", Value::Text("outbound".into())),
        ]),
        peer: Some(Peer { address: "fd00::7".parse().unwrap(), ..occurrence().peer.unwrap() }),
        ..occurrence()
    });
    let inbound = agent.give(Occurrence {
        data: Data::from([("local_port", Value::Number(80)), ("direction", Value::Text("inbound".into()))]),
        ..occurrence()
    });
    let other = agent.give(Occurrence { kind: "node.io_pressure".into(), peer: None, ..occurrence() });
    let ledger = agent.settled().await;
    all_sent(&agent, &shared, &ledger);

    let seen = shared.seen();
    assert_eq!(seen.from, ("tapio".to_owned(), "prod".to_owned()));
    let typed = |id: &str| match &seen.events[id].data {
        Some(event::event::Data::Network(network)) => network.clone(),
        other => panic!("{other:?}"),
    };
    let json = |id: &str| -> serde_json::Value { serde_json::from_slice(&seen.events[id].payload).unwrap() };

    let event = &seen.events[&spike];
    assert_eq!((event.source.as_str(), event.event_type.as_str()), ("tapio", "network.rtt_spike"));
    assert_eq!(event.timestamp_unix_ns, 1_795_141_098_123_456_789);
    assert_eq!((event.severity(), event.outcome()), (event::Severity::Warning, event::Outcome::Failure));
    let payload = json(&spike);
    assert_eq!(payload["id"], *spike);
    assert_eq!(payload["type"], *event.event_type);
    let network = typed(&spike);
    assert_eq!(network.dst_ip, payload["peer"]["address"].as_str().unwrap());
    assert_eq!(u64::from(network.dst_port), payload["peer"]["port"].as_u64().unwrap());
    assert_eq!(network.src_ip, payload["data"]["local_address"].as_str().unwrap());
    assert_eq!(u64::from(network.src_port), payload["data"]["local_port"].as_u64().unwrap());
    assert_eq!(network.direction, payload["data"]["direction"].as_str().unwrap());
    assert_eq!(network.rtt_current_ms * 1e3, payload["data"]["rtt_us"].as_f64().unwrap());
    assert_eq!(network.rtt_baseline_ms * 1e3, payload["baseline"]["mean"].as_f64().unwrap());
    let ratio = payload["baseline"]["ratio"].as_f64().unwrap();
    assert!((network.rtt_degradation_pct / 100.0 + 1.0 - ratio).abs() < 0.01);
    assert_eq!(network.process_name, payload["process"]["comm"].as_str().unwrap());
    assert_eq!(network.pod_name, payload["workload"]["pod"].as_str().unwrap());
    assert_eq!(network.container_id, payload["workload"]["container_id"].as_str().unwrap());
    let metadata: BTreeMap<_, _> = event.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expected = BTreeMap::from([
        ("cluster", "prod"),
        ("cluster_id", "prod"),
        ("container_id", "8f14e45fceea"),
        ("name", "checkout-7d9f-x2x"),
        ("namespace", "shop"),
        ("node_name", "node-a"),
        ("owner_kind", "Deployment"),
        ("owner_name", "checkout"),
        ("pod_name", "checkout-7d9f-x2x"),
        ("resource", "pod"),
        ("uid", "4c2e6c0e"),
    ]);
    assert_eq!(metadata, expected);

    let (event, network) = (&seen.events[&refused], typed(&refused));
    assert_eq!((event.severity(), event.outcome()), (event::Severity::Error, event::Outcome::Timeout));
    assert_eq!((network.dst_ip.as_str(), network.retransmit_count), ("fd00::7", 2));
    assert_eq!(network.latency_ms, 3021.5);
    assert_eq!((network.rtt_baseline_ms, network.rtt_current_ms), (0.0, 0.0));
    let metadata: BTreeMap<_, _> = event.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(metadata, BTreeMap::from([("duration_us", "3021500"), ("node_name", "node-a")]));

    let network = typed(&inbound);
    assert_eq!((network.direction.as_str(), network.src_port, network.dst_port), ("inbound", 80, 6379));
    assert!(seen.events[&other].data.is_none());
}

#[tokio::test]
async fn late_acks_and_a_bounded_window() {
    let shared = Shared::with(Manners { late: Duration::from_millis(50), ..Manners::default() });
    let server = Server::start(ANY, &shared);
    let mut agent = Agent::new(server.address);
    agent.send(5000);
    let ledger = agent.settled().await;
    all_sent(&agent, &shared, &ledger);
    let seen = shared.seen();
    assert!(seen.times.values().all(|times| *times == 1), "nothing is sent twice for a late Ack");
    assert!(seen.largest <= BATCH_EVENTS);
    assert!((2..=WINDOW).contains(&seen.waiting), "{} on the way", seen.waiting);
    assert_eq!(seen.streams, 1);
}

#[tokio::test]
async fn a_dropped_stream_is_resumed() {
    let shared = Shared::with(Manners { drops_streams: 2, ..Manners::default() });
    let server = Server::start(ANY, &shared);
    let mut agent = Agent::new(server.address);
    agent.send(2000);
    let ledger = agent.settled().await;
    all_sent(&agent, &shared, &ledger);
    assert_eq!(shared.seen().streams, 3);
    assert!(shared.seen().times.values().any(|times| *times > 1));
}

#[tokio::test]
async fn acks_that_never_come_are_sent_again_over_a_new_stream() {
    let shared = Shared::with(Manners { mute_streams: 1, ..Manners::default() });
    let server = Server::start(ANY, &shared);
    let mut agent = Agent::new(server.address);
    agent.send(10);
    until(|| agent.status().state, |state| matches!(state, State::Retrying(why) if why.contains("no Ack")))
        .await;
    let ledger = agent.settled().await;
    all_sent(&agent, &shared, &ledger);
    assert!(shared.seen().times.values().all(|times| *times == 2));
    assert!(agent.metrics().contains(r#"tapio_sink_retried_total{sink="polku"} 1"#));
}

#[tokio::test]
async fn what_a_partial_ack_leaves_out_is_sent_again() {
    let shared = Shared::with(Manners { forgets: true, ..Manners::default() });
    let server = Server::start(ANY, &shared);
    let mut agent = Agent::new(server.address);
    agent.send(600);
    let ledger = agent.settled().await;
    all_sent(&agent, &shared, &ledger);
}

#[tokio::test]
async fn what_is_never_acknowledged_is_dropped_and_counted() {
    let shared = Shared::default();
    let server = Server::start(ANY, &shared);
    let mut agent = Agent::new(server.address);
    let ignored = occurrence();
    shared.manners().ignores = Some(ignored.id.to_string());
    agent.send(5);
    let ignored = agent.give(ignored);
    agent.send(5);
    let ledger = agent.settled().await;
    assert_eq!((ledger.received, ledger.sent), (11, 10));
    assert_eq!(ledger.dropped, BTreeMap::from([("unacknowledged", 1)]));
    assert_eq!(shared.seen().times[&ignored], 3);
}

#[tokio::test]
async fn acks_of_other_events_are_none_but_not_for_ever() {
    let shared = Shared::with(Manners { renames: true, ..Manners::default() });
    let server = Server::start(ANY, &shared);
    let mut agent = Agent::new(server.address);
    agent.send(5);
    let ledger = agent.settled().await;
    assert_eq!((ledger.sent, &ledger.dropped), (0, &BTreeMap::from([("unacknowledged", 5)])));
    assert!(shared.seen().times.values().all(|times| *times == 3));
}

#[tokio::test]
async fn an_error_rejects_that_event_only() {
    let shared = Shared::default();
    let server = Server::start(ANY, &shared);
    let mut agent = Agent::new(server.address);
    let refused = occurrence();
    shared.manners().refuses = Some(refused.id.to_string());
    agent.send(5);
    let refused = agent.give(refused);
    agent.send(5);
    let ledger = agent.settled().await;
    assert_eq!((ledger.received, ledger.sent, ledger.rejected), (11, 10, 1));
    assert_eq!(shared.seen().times[&refused], 1, "it is not sent again");
    assert!(agent.metrics().contains(r#"tapio_sink_rejected_total{sink="polku"} 1"#));
}

#[tokio::test]
async fn a_nearly_full_buffer_slows_down() {
    let shared = Shared::with(Manners { buffer: Some((90, 100)), ..Manners::default() });
    let server = Server::start(ANY, &shared);
    let mut agent = Agent::new(server.address);
    agent.send(3 * WINDOW * BATCH_EVENTS);
    until(|| agent.status().state, |state| *state == State::Slowed).await;
    assert!(agent.status().ledger.queued > 0);
    shared.manners().buffer = Some((89, 100));
    let ledger = agent.settled().await;
    all_sent(&agent, &shared, &ledger);
    until(|| agent.status().state, |state| *state == State::Ok).await;
}

#[tokio::test]
async fn acks_sent_twice_shift_nothing() {
    let (log, _guard) = log::Log::start(tracing::Level::INFO);
    let shared = Shared::with(Manners { stutters: true, ..Manners::default() });
    let server = Server::start(ANY, &shared);
    let mut agent = Agent::new(server.address);
    for _ in 0..20 {
        agent.send(100);
        agent.settled().await;
    }
    let ledger = agent.settled().await;
    all_sent(&agent, &shared, &ledger);
    assert!(shared.seen().times.values().all(|times| *times == 1), "{log}");
}

#[tokio::test]
async fn down_at_first() {
    let shared = Shared::default();
    let address = Server::start(ANY, &shared).kill();
    let mut agent = Agent::new(address);
    agent.send(300);
    until(|| agent.status().state, |state| matches!(state, State::Retrying(_))).await;
    assert_eq!(agent.status().ledger.queued, 300);
    let _server = Server::start(address, &shared);
    let ledger = agent.settled().await;
    all_sent(&agent, &shared, &ledger);
    assert_eq!(agent.status().state, State::Ok);
}

#[tokio::test]
async fn killed_and_restarted_in_the_middle() {
    let shared = Shared::with(Manners { late: Duration::from_millis(20), ..Manners::default() });
    let mut server = Server::start(ANY, &shared);
    let mut agent = Agent::new(server.address);
    for _ in 0..3 {
        let before = agent.status().ledger.sent;
        agent.send(2500);
        until(|| agent.status().ledger.sent, |sent| *sent > before).await;
        let address = server.kill();
        agent.send(10);
        until(|| agent.status().state, |state| matches!(state, State::Retrying(_))).await;
        server = Server::start(address, &shared);
    }
    let ledger = agent.settled().await;
    all_sent(&agent, &shared, &ledger);
}

#[tokio::test]
async fn by_name() {
    let shared = Shared::default();
    let server = Server::start(ANY, &shared);
    let mut agent = Agent::to(&format!("http://localhost:{}", server.address.port()));
    agent.send(1);
    let ledger = agent.settled().await;
    all_sent(&agent, &shared, &ledger);
}

#[tokio::test]
async fn everything_at_once() {
    let shared = Shared::default();
    let mut server = Server::start(ANY, &shared);
    let mut agent = Agent::new(server.address);
    let mut rng = fastrand::Rng::with_seed(11);
    let mut refused = Vec::new();
    for _ in 0..8 {
        let refuses = occurrence();
        refused.push(refuses.id.to_string());
        let mut rarely = || rng.u8(..4) == 0;
        *shared.manners() = Manners {
            drops_streams: rarely().into(),
            ends_with: rarely().then_some((1, tonic::Code::Unavailable)),
            late: Duration::from_millis(if rarely() { 30 } else { 0 }),
            forgets: rarely(),
            refuses: refused.last().cloned(),
            buffer: rarely().then_some((95, 100)),
            stutters: rarely(),
            ..Manners::default()
        };
        if rarely() {
            let address = server.kill();
            server = Server::start(address, &shared);
        }
        agent.send(rng.usize(..400));
        agent.give(refuses);
        agent.settled().await;
    }
    let ledger = agent.status().ledger;
    assert_eq!(ledger.rejected, 8);
    assert_eq!(ledger.received, agent.ids.len() as u64);
    assert!(shared.seen().events.keys().eq(&agent.ids), "an id did not arrive");
    // No accepted event counts as lost, and no other event counts as sent.
    assert_eq!(ledger.sent, agent.ids.intersection(&shared.seen().acknowledged).count() as u64);
    assert_eq!(ledger.dropped, BTreeMap::new());
}

#[tokio::test]
async fn an_idle_connection_that_breaks_is_made_again() {
    let shared = Shared::default();
    let server = Server::start(ANY, &shared);
    let agent = Agent::new(server.address);
    until(|| agent.status().state, |state| *state == State::Ok).await;
    let address = server.kill();
    until(|| agent.status().state, |state| matches!(state, State::Retrying(_))).await;
    let _server = Server::start(address, &shared);
    until(|| agent.status().state, |state| *state == State::Ok).await;
}

#[tokio::test]
async fn a_reader_of_standard_output_that_has_gone_takes_nothing_from_the_gateway() {
    let shared = Shared::default();
    let server = Server::start(ANY, &shared);
    let mut agent = Agent::new(server.address);
    let (stdout, reader) = tokio::io::duplex(64);
    agent.sinks.add(Stdout::json_to(stdout));
    drop(reader);
    agent.send(5);
    let closed = |state: &State| matches!(state, State::Closed(_));
    until(|| agent.sinks.status()[1].state.clone(), closed).await;
    agent.send(5);
    assert_eq!(agent.sinks.status()[1].ledger.dropped["closed"], 5);
    let ledger = agent.settled().await;
    all_sent(&agent, &shared, &ledger);
}

#[tokio::test]
async fn drain_delivers_what_is_queued() {
    let shared = Shared::with(Manners { late: Duration::from_millis(20), ..Manners::default() });
    let server = Server::start(ANY, &shared);
    let mut agent = Agent::new(server.address);
    agent.send(3000);
    assert_eq!(agent.sinks.clone().drain(Duration::from_secs(20)).await, 0);
    let ledger = agent.status().ledger;
    all_sent(&agent, &shared, &ledger);
}

#[tokio::test]
async fn drain_without_a_gateway_counts_what_is_left() {
    let address = Server::start(ANY, &Shared::default()).kill();
    let mut agent = Agent::new(address);
    agent.send(30);
    assert_eq!(agent.sinks.clone().drain(Duration::from_millis(300)).await, 30);
    assert_eq!(agent.status().ledger.dropped, BTreeMap::from([("shutdown", 30)]));
}

#[tokio::test]
async fn the_gateway_of_these_tests_refuses_raw_as_the_shipped_one_does() {
    let server = Server::start(ANY, &Shared::default());
    let mut client = GatewayClient::connect(format!("http://{}", server.address)).await.unwrap();
    let raw = RawPayload { data: b"{}".to_vec(), format: "json".to_owned() };
    let batch = IngestBatch { payload: Some(Payload::Raw(raw)), ..IngestBatch::default() };
    let mut acks = client.stream_events(tokio_stream::once(batch)).await.unwrap().into_inner();
    assert_eq!(acks.message().await.unwrap_err().code(), tonic::Code::Unimplemented);
}
