//! The DNS observer.

mod clients;
mod failure;
mod forward;
mod names;
mod quiet;
mod slow;
mod timeout;

use std::{net::SocketAddr, time::Duration};

use crate::support::{
    Link, Occurrence, Process,
    resolver::{Ask, Transport},
    tapio::Ended,
};

/// Types of questions.
pub(crate) const A: u16 = 1;
pub(crate) const AAAA: u16 = 28;

/// A resolver at the other end of a link, and a client.
pub(crate) struct Stage {
    pub(crate) link: Link,
    pub(crate) server: Process,
    pub(crate) client: Process,
    pub(crate) resolver: SocketAddr,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let link = Link::new();
        let mut server = Process::start_in(&link.server, "resolver");
        let resolver = server.serve_dns(&link.server_at(53).to_string());
        let client = Process::start_in(&link.client, "asks");
        Self { link, server, client, resolver }
    }

    /// Asks for addresses once.
    pub(crate) fn ask(&mut self, name: &str) -> Result<u8, String> {
        self.client.ask(self.resolver, name, A, Ask::ONCE)
    }

    /// What is about its resolver; other tests use other ones at the same time.
    pub(crate) fn of(&self, ended: Ended) -> Vec<Occurrence> {
        ended.occurrences.into_iter().filter(|o| o.is_to(self.resolver)).collect()
    }

    pub(crate) fn expects_nothing(&self, ended: Ended) {
        let reported = self.of(ended);
        assert!(reported.is_empty(), "{reported:#?}");
    }

    pub(crate) fn ask_over(&mut self, transport: Transport, name: &str) -> Result<u8, String> {
        self.client.ask(self.resolver, name, A, Ask::ONCE.over(transport))
    }
}

/// Time until a question that was asked again counts as not answered, with a margin.
pub(crate) const GIVEN_UP: Duration = Duration::from_secs(12);
