//! A server that is killed, and one that is stopped, while facts arrive.

use std::collections::BTreeSet;

use tapio_delivery::polku::proto::v1::{HealthRequest, IngestEvent, ingest_event::Payload};
use tempfile::tempdir;
use tonic::Code;

use crate::{
    client::{Stream, connect, events},
    sending::Agent,
    support::{Server, free_address, journaled_ids},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_kills_and_is_there_once() {
    const KILLS: usize = 15;
    let directory = tempdir().unwrap();
    let address = free_address();
    let mut server = Server::start_on(address, directory.path(), &[]);
    let mut agent = Agent::new(address);
    let mut acknowledged = BTreeSet::new();
    for _ in 0..KILLS {
        // One client notes what was acknowledged; the sink gets everything across in the end.
        agent.send(300);
        let mut client = connect(address).await;
        let mut stream = Stream::open(&mut client).await.unwrap();
        let batches = stream.batches.clone();
        let sending =
            tokio::spawn(
                async move { while batches.send(crate::client::batch(events(50))).await.is_ok() {} },
            );
        let enough = acknowledged.len() + 500;
        while acknowledged.len() < enough {
            acknowledged.extend(stream.ack().await.unwrap().event_ids);
        }
        server.kill();
        // Acks that were on the way count.
        while let Ok(ack) = stream.ack().await {
            acknowledged.extend(ack.event_ids);
        }
        sending.abort();
        server = Server::start_on(address, directory.path(), &[]);
    }
    let ledger = agent.settled().await;
    assert_eq!(ledger.sent, agent.ids.len() as u64, "{ledger:?}");
    acknowledged.extend(agent.ids.iter().cloned());
    let log = server.log();
    assert_eq!(
        (log.matches("journal opened").count(), log.matches("damaged").count()),
        (KILLS + 1, 0),
        "{log}"
    );
    server.stop();
    let found = journaled_ids(directory.path()).await;
    let once: BTreeSet<_> = found.iter().cloned().collect();
    assert_eq!(found.len(), once.len(), "a fact is there twice");
    let missing: Vec<_> = acknowledged.difference(&once).collect();
    assert!(missing.is_empty(), "{} of {} are missing", missing.len(), acknowledged.len());
}

#[tokio::test]
async fn a_stop_finishes_what_was_received() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut client = connect(server.address).await;
    let mut stream = Stream::open(&mut client).await.unwrap();
    for _ in 0..8 {
        stream.send(events(200)).await;
    }
    let first = stream.ack().await.unwrap();
    let mut acknowledged = first.event_ids;
    let stopping = std::thread::spawn(move || server.stop());
    let end = loop {
        match stream.ack().await {
            Ok(ack) => acknowledged.extend(ack.event_ids),
            Err(end) => break end,
        }
    };
    assert_eq!(end.code(), Code::Ok, "{end:?}");
    let last = stopping.join().unwrap();
    assert!(last.contains("ledger=") && last.contains(r#""waiting":0"#), "{last}");
    assert_eq!(journaled_ids(directory.path()).await, acknowledged, "all of it was acknowledged");
}

#[tokio::test]
async fn one_event_by_itself_and_health() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut client = connect(server.address).await;
    let event = events(1).remove(0);
    let of = |payload| IngestEvent { payload: Some(payload), ..IngestEvent::default() };
    for _ in 0..2 {
        let ack = client.send_event(of(Payload::Event(event.clone()))).await.unwrap().into_inner();
        assert_eq!(ack.event_ids, std::slice::from_ref(&event.id));
    }
    let raw = client.send_event(of(Payload::Raw(vec![1]))).await.unwrap_err();
    assert_eq!(raw.code(), Code::Unimplemented);
    let none = client.send_event(IngestEvent::default()).await.unwrap_err();
    assert_eq!(none.code(), Code::InvalidArgument);
    let health = client.health(HealthRequest {}).await.unwrap().into_inner();
    assert!(health.healthy && health.components["journal"].healthy, "{health:?}");
    assert_eq!(health.events_processed, 2);
    let last = server.stop();
    assert!(last.contains(r#""repeated":1"#), "{last}");
}
