//! Many clients at once.

use std::collections::BTreeSet;

use tempfile::tempdir;
use tokio::task::JoinSet;
use tonic::Code;

use crate::{
    client::{Stream, connect, events},
    support::{Server, journaled_ids},
};

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_clients() {
    const CLIENTS: usize = 200;
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let address = server.address;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(async move {
            let mut client = connect(address).await;
            let mut stream = Stream::open(&mut client).await.unwrap();
            let mut acknowledged = Vec::new();
            for _ in 0..5 {
                let given = events(20);
                stream.send(given).await;
            }
            while acknowledged.len() < 100 {
                acknowledged.extend(stream.ack().await.unwrap().event_ids);
            }
            acknowledged
        });
    }
    let acknowledged = clients.join_all().await.concat();
    let metrics = server.get("/metrics");
    let commits = metrics.lines().find_map(|line| line.strip_prefix("tapio_journal_commits_total "));
    let commits: usize = commits.unwrap().parse().unwrap();
    assert!(commits < CLIENTS * 5, "{commits} transactions: batches of several streams share them");
    server.stop();
    let found: BTreeSet<_> = journaled_ids(directory.path()).await.into_iter().collect();
    assert_eq!(found.len(), CLIENTS * 100);
    assert_eq!(found, acknowledged.into_iter().collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_streams_than_allowed_are_turned_away_and_places_become_free() {
    let directory = tempdir().unwrap();
    let config = directory.path().join("server.yaml");
    std::fs::write(&config, "polku:\n  streams: 2\n").unwrap();
    let server = Server::start(directory.path(), &[&format!("--config={}", config.display())]);
    let mut client = connect(server.address).await;
    let first = Stream::open(&mut client).await.unwrap();
    let second = Stream::open(&mut client).await.unwrap();
    let refused = Stream::open(&mut client).await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("all 2 streams are in use: try again later"), "{refused:?}");
    drop((first, second));
    crate::support::wait_until(
        || server.status()["roles"]["polku"]["streams"].clone(),
        |streams| *streams == 0,
    );
    Stream::open(&mut client).await.unwrap();
}
