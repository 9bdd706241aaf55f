//! Clients that send what they should not, or do not do what they should.

use std::{
    io::Write as _,
    net::TcpStream,
    time::{Duration, Instant},
};

use tapio_delivery::polku::proto::v1::{IngestBatch, RawPayload, ingest_batch::Payload};
use tapio_occurrence::event::v1::Event;
use tempfile::tempdir;
use tokio::time::timeout;
use tonic::{Code, Request, codec::CompressionEncoding};

use crate::{
    client::{Stream, batch, connect, events},
    sending::Agent,
    support::Server,
};

const MIB: usize = 1 << 20;

/// Whether the server still takes what others send.
async fn serves(server: &Server) {
    let mut agent = Agent::new(server.address);
    agent.send(50);
    let ledger = agent.settled().await;
    assert_eq!(ledger.sent, 50, "{ledger:?}: {}", server.log());
}

#[tokio::test]
async fn huge_fields_are_refused_event_by_event() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut client = connect(server.address).await;
    let mut stream = Stream::open(&mut client).await.unwrap();
    let mut given = events(5);
    given[0].id = "x".repeat(MIB);
    given[1].event_type = "x".repeat(MIB);
    given[2].metadata.extend((0..10_000).map(|n| (n.to_string(), "v".to_owned())));
    given[3].source = "x".repeat(MIB);
    stream.send(given.clone()).await;
    let ack = stream.ack().await.unwrap();
    assert_eq!(ack.event_ids, [given[4].id.clone()]);
    let codes: Vec<_> = ack.errors.iter().map(|error| error.code.as_str()).collect();
    assert_eq!(codes, ["invalid_id", "too_large", "too_large", "too_large"]);
    assert!(ack.errors.iter().all(|error| error.event_id.len() <= 64 && error.message.len() < 512));
    serves(&server).await;
}

#[tokio::test]
async fn raw_mode_ends_the_stream_after_the_acks_before_it() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut client = connect(server.address).await;
    let mut stream = Stream::open(&mut client).await.unwrap();
    stream.send(events(3)).await;
    let raw = Payload::Raw(RawPayload { data: vec![1, 2, 3], format: "json".to_owned() });
    stream.batches.send(IngestBatch { payload: Some(raw), ..IngestBatch::default() }).await.unwrap();
    assert_eq!(stream.ack().await.unwrap().event_ids.len(), 3);
    let end = stream.ack().await.unwrap_err();
    assert_eq!(end.code(), Code::Unimplemented);
    assert!(end.message().contains("send events"), "{end:?}");
    serves(&server).await;
}

#[tokio::test]
async fn messages_and_batches_that_are_too_large_end_the_stream() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut client = connect(server.address).await;
    let mut large = events(2);
    large[1].payload = vec![7; 5 * MIB];
    let many = vec![Event { id: events(1).remove(0).id, ..Event::default() }; 4_097];
    for (events, code) in [(large, Code::OutOfRange), (many, Code::ResourceExhausted)] {
        let mut stream = Stream::open(&mut client).await.unwrap();
        stream.send(events).await;
        let end = stream.ack().await.unwrap_err();
        // The agent's sink knows by these words that smaller messages are to be sent.
        assert!(end.code() == code && end.message().contains("too large"), "{end:?}");
    }
    // What is small only while it is compressed is as large.
    let mut zeros = events(1);
    zeros[0].payload = vec![0; 48 * MIB];
    let mut client = client.send_compressed(CompressionEncoding::Gzip);
    let request = Request::new(tokio_stream::iter([batch(zeros)]));
    let end = match client.stream_events(request).await {
        Ok(acks) => acks.into_inner().message().await.unwrap_err(),
        Err(end) => end,
    };
    assert!(end.message().contains("size limit"), "{end:?}");
    assert!(server.resident_bytes() < 200 << 20, "{} bytes", server.resident_bytes());
    // Compression as such is fine.
    let request = Request::new(tokio_stream::iter([batch(events(100))]));
    let ack = client.stream_events(request).await.unwrap().into_inner().message().await.unwrap().unwrap();
    assert_eq!(ack.event_ids.len(), 100);
    serves(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_acks_or_send_without_end_hold_up_nobody() {
    let directory = tempdir().unwrap();
    let config = directory.path().join("server.yaml");
    std::fs::write(&config, "polku:\n  memory: 8MiB\n").unwrap();
    let server = Server::start(directory.path(), &[&format!("--config={}", config.display())]);
    let mut floods = Vec::new();
    for _ in 0..4 {
        let mut client = connect(server.address).await;
        let stream = Stream::open(&mut client).await.unwrap();
        let batches = stream.batches.clone();
        let given = batch(events(400));
        // Repeats, so that the journal stays small.
        let flood = tokio::spawn(async move {
            let mut sent = 0;
            while timeout(Duration::from_secs(3), batches.send(given.clone()))
                .await
                .is_ok_and(|sent| sent.is_ok())
            {
                sent += 1;
            }
            sent
        });
        floods.push((stream, client, flood));
    }
    serves(&server).await;
    let mut held = 0;
    for (stream, client, flood) in floods {
        let sent = flood.await.unwrap();
        assert!(sent < 10_000, "it was never held up");
        held += 1;
        drop((stream, client));
    }
    assert_eq!(held, 4);
    assert!(server.resident_bytes() < 400 << 20, "{} bytes", server.resident_bytes());
    serves(&server).await;
    let ledger = server.ledger();
    assert!(ledger["repeated"].as_u64() > Some(1_600), "{ledger}");
}

#[tokio::test]
async fn connections_that_say_nothing_or_nonsense() {
    let directory = tempdir().unwrap();
    let config = directory.path().join("server.yaml");
    std::fs::write(&config, "polku:\n  streams: 100\n").unwrap();
    let server = Server::start(directory.path(), &[&format!("--config={}", config.display())]);
    let mut half_open = Vec::new();
    for nth in 0..150 {
        let mut stream = TcpStream::connect(server.address).unwrap();
        let said: &[u8] = match nth % 4 {
            0 => b"",
            1 => b"PRI * HTTP/2.0\r\n",
            2 => b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
            _ => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\xff\xff\xff",
        };
        // The server may have closed it.
        let _ = stream.write_all(said);
        half_open.push(stream);
    }
    serves(&server).await;
    // There are places for 216 connections; of more, the newest are closed.
    for _ in 0..200 {
        half_open.push(TcpStream::connect(server.address).unwrap());
    }
    let away = "tapio_polku_turned_away_total{reason=\"connections\"} ";
    crate::support::wait_until(
        || server.get("/metrics").lines().find_map(|line| line.strip_prefix(away)?.parse::<u64>().ok()),
        |count| *count > Some(0),
    );
    drop(half_open.split_off(100));
    serves(&server).await;
    let begun = Instant::now();
    let last = server.stop();
    assert!(
        last.contains("stopped") && begun.elapsed() < Duration::from_secs(9),
        "{:?}: {last}",
        begun.elapsed()
    );
    drop(half_open);
}
