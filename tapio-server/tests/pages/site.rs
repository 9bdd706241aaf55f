//! A server with facts.

use std::{process::Command, time::Duration};

use tapio_occurrence::{Occurrence, event::event};
use tempfile::{TempDir, tempdir};

use crate::{
    client::{Stream, connect},
    facts::recorded,
    support::{PROGRAM, Server, free_address, wait_until},
};

pub(crate) struct Site {
    pub(crate) server: Server,
    _directory: TempDir,
}

impl Site {
    pub(crate) fn empty() -> Self {
        Self::set(&[])
    }

    /// One without facts, with these flags.
    pub(crate) fn set(flags: &[&str]) -> Self {
        Self::started(Command::new(PROGRAM), flags)
    }

    /// One that a command starts.
    pub(crate) fn started(command: Command, flags: &[&str]) -> Self {
        let directory = tempdir().unwrap();
        let flags = [&["--roles=polku,ahti"], flags].concat();
        let server = Server::start_as(command, free_address(), directory.path(), &flags);
        let site = Self { server, _directory: directory };
        site.settle();
        site
    }

    pub(crate) async fn with(facts: &[Occurrence]) -> Self {
        let site = Self::empty();
        site.take(facts).await;
        site
    }

    /// The failure of a scenario, which is going on.
    pub(crate) async fn of(scenario: &str) -> Self {
        Self::with(&recorded(scenario, 1)).await
    }

    /// Sends facts, and waits until they count.
    pub(crate) async fn take(&self, facts: &[Occurrence]) {
        let mut stream = Stream::open(&mut connect(self.server.address).await).await.unwrap();
        for facts in facts.chunks(1_000) {
            stream.send(facts.iter().map(event).collect()).await;
            let ack = stream.ack().await.unwrap();
            assert_eq!((ack.event_ids.len(), ack.errors.len()), (facts.len(), 0), "{:?}", ack.errors);
        }
        self.settle();
    }

    fn settle(&self) {
        wait_until(
            || self.server.status()["roles"]["ahti"].clone(),
            |ahti| ahti["behind"]["facts"] == 0 && ahti["restored"] == true,
        );
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.api)
    }

    /// The ids of all incidents, the newest first.
    pub(crate) fn incidents(&self) -> Vec<String> {
        let (_, body) = self.server.answer("/api/v1/incidents");
        let all: serde_json::Value = serde_json::from_str(&body).unwrap();
        let all = all["incidents"].as_array().unwrap();
        all.iter().map(|incident| incident["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Kills the server, and asks another one with its journal as soon as it answers.
    pub(crate) fn restarted<T>(self, ask: impl Fn(&Self) -> T) -> T {
        let Self { server, _directory: directory } = self;
        server.kill();
        let server = Server::start(directory.path(), &["--roles=polku,ahti"]);
        ask(&Self { server, _directory: directory })
    }

    /// Every page, each with a word that is only on it.
    pub(crate) fn pages(&self) -> Vec<String> {
        let id = self.incidents().first().cloned().expect("there is no incident");
        vec![
            "/".to_owned(),
            format!("/incidents/{id}"),
            "/workloads/shop/Deployment/payments".to_owned(),
            "/changes".to_owned(),
            format!("/incidents/{id}/blast"),
            "/coverage".to_owned(),
        ]
    }
}

pub(crate) const SOON: Duration = Duration::from_secs(10);
