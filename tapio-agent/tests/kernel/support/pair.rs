//! A connection over a link, with a client that sends requests and a server that answers.

use std::net::SocketAddr;

use super::{Link, Occurrence, Process, Service, process::Connection};

/// One full segment, so that a queue delays each request once, and a short reply.
const REQUEST: Service = Service { request_bytes: 1400, reply_bytes: 10, max_delay_ms: 0 };

pub(crate) struct Pair {
    pub(crate) link: Link,
    pub(crate) client: Process,
    pub(crate) server: Process,
    pub(crate) connection: Connection,
    pub(crate) to: SocketAddr,
}

impl Pair {
    pub(crate) fn connected(port: u16) -> Self {
        let link = Link::new();
        let to = link.server_at(port);
        let mut server = Process::start_in(&link.server, "answers");
        server.serve(&to.to_string(), REQUEST);
        let mut client = Process::start_in(&link.client, "asks");
        let connection = client.connect(to).unwrap();
        Self { link, client, server, connection, to }
    }

    pub(crate) fn request(&mut self, times: usize) {
        self.request_with_pauses(times, 1);
    }

    /// Sends requests, with this pause before each.
    pub(crate) fn request_with_pauses(&mut self, times: usize, pause_ms: u64) {
        self.client.request(self.connection, REQUEST, times, pause_ms);
    }

    /// Whether an occurrence is about the client's end. Both ends are on this machine, and each is reported.
    pub(crate) fn is_client(&self, occurrence: &Occurrence) -> bool {
        occurrence.is_to(self.to)
    }

    pub(crate) fn is_server(&self, occurrence: &Occurrence) -> bool {
        occurrence.is_from(self.link.client_ip(), self.to.port())
    }
}
