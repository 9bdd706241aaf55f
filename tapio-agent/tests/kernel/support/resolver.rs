//! DNS: a server that misbehaves on demand, and clients.
//!
//! The first label of a question's name says how the server answers; see [`Process::serve_dns`].

mod check;
mod client;
mod lookup;
mod message;
mod server;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    str::FromStr,
    time::Duration,
};

pub(crate) use self::lookup::{Client, lookup_by};
use super::{Namespace, Process, stage::Words};

/// How [`Process::ask`] asks.
#[derive(Clone, Copy)]
pub(crate) struct Ask {
    pub(crate) over: Transport,
    /// Time that each try waits.
    pub(crate) timeout: Duration,
    pub(crate) tries: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// A connected UDP socket, as in glibc.
    Udp,
    /// A UDP socket that names the destination with each query, as in musl.
    Unconnected,
    Tcp,
}

impl Ask {
    /// Asks once, over connected UDP, and waits for a second.
    pub(crate) const ONCE: Self = Self { over: Transport::Udp, timeout: Duration::from_secs(1), tries: 1 };

    pub(crate) const fn over(self, over: Transport) -> Self {
        Self { over, ..self }
    }

    pub(crate) const fn waiting(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Sends the same query this many times in all, from one socket.
    pub(crate) const fn trying(self, tries: u32) -> Self {
        Self { tries, ..self }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Udp => "udp",
            Self::Unconnected => "unconnected",
            Self::Tcp => "tcp",
        })
    }
}

impl FromStr for Transport {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        [Self::Udp, Self::Unconnected, Self::Tcp].into_iter().find(|it| it.to_string() == name).ok_or(())
    }
}

impl Process {
    /// Serves DNS over UDP and TCP in the background, until the process exits. Port 0 is any free port.
    ///
    /// The answer depends on how the first label begins:
    ///
    /// | label | answer |
    /// |---|---|
    /// | `ok` | 192.0.2.1, 2001:db8::1; no data for other types |
    /// | `nodata` | no error, and no records |
    /// | `formerr`, `servfail`, `nx`, `notimp`, `refused` | this error |
    /// | `drop` | none |
    /// | `drop1` | none to the first query of each name and type that the server receives, then as `ok` |
    /// | `slowN` | as `ok`, N milliseconds later |
    /// | `trunc` | truncated over UDP, as `ok` over TCP |
    /// | `wrongid` | as `ok`, with another id |
    /// | `garbage` | random bytes, with another id |
    /// | `big` | 40 addresses |
    /// | `case` | as `ok`, with the question in upper case |
    ///
    /// Other names do not exist, unless they end in `.ok.test`. Letters are compared without case.
    pub(crate) fn serve_dns(&mut self, address: &str) -> SocketAddr {
        self.serve_at(address, &format!("dns_serve {address}"))
    }

    /// Passes queries over UDP on to another server, each from a new socket and with a new id.
    pub(crate) fn forward_dns(&mut self, address: &str, upstream: SocketAddr) -> SocketAddr {
        self.serve_at(address, &format!("dns_forward {address} {upstream}"))
    }

    fn serve_at(&mut self, address: &str, order: &str) -> SocketAddr {
        let port = self.order(order).unwrap_or_else(|error| panic!("{order}: {error}"));
        let mut address: SocketAddr = address.parse().expect("an address and a port");
        address.set_port(port.parse().expect("a port"));
        address
    }

    /// Changes the answers of its servers to all names: `drop`, `servfail`, `nx`, or `delay MS`, which
    /// delays each answer, until `normal`; `stall MS` answers nothing for this time, once.
    pub(crate) fn dns_mode(&mut self, mode: &str) {
        self.order(&format!("dns_mode {mode}")).unwrap_or_else(|error| panic!("dns_mode {mode}: {error}"));
    }

    /// Asks a server for records of a type, and returns the response code. The error is `TIMEOUT` or the name
    /// of an errno. Answers with another id are ignored, as resolvers do.
    pub(crate) fn ask(&mut self, server: SocketAddr, name: &str, kind: u16, how: Ask) -> Result<u8, String> {
        let Ask { over, timeout, tries } = how;
        let order = format!("dns_ask {server} {name} {kind} {} {tries} {over}", timeout.as_millis());
        self.order(&order).map(|rcode| rcode.parse().expect("a response code"))
    }

    /// Sends this many queries at this rate from one socket, and returns how many were answered. It waits
    /// while too many are unanswered, so that none is lost in a full buffer.
    pub(crate) fn flood_dns(
        &mut self,
        server: SocketAddr,
        name: &str,
        count: u32,
        per_second: u32,
    ) -> Result<u32, String> {
        let order = format!("dns_flood {server} {name} {count} {per_second}");
        self.order(&order).map(|answered| answered.parse().expect("a number"))
    }

    /// Resolves a name with the C library of this binary.
    pub(crate) fn resolve(&mut self, name: &str) -> Result<Vec<IpAddr>, String> {
        let addresses = self.order(&format!("resolve {name}"))?;
        Ok(addresses.split(' ').map(|address| address.parse().expect("an address")).collect())
    }

    /// Starts one that sees this text as `/etc/resolv.conf`.
    pub(crate) fn start_with_resolv_conf(namespace: &Namespace, comm: &str, text: &str) -> Self {
        let file = lookup::resolv_conf(text);
        let binary = std::env::current_exe().expect("the path of this binary");
        let mut command = lookup::with_resolv_conf(namespace, file.path(), "");
        command.arg(binary);
        // The mount outlives the name of the file.
        Self::spawn(comm, command)
    }
}

/// Carries out an order of a test, in the child.
pub(super) fn obey(order: &str, words: &mut Words<'_>) -> io::Result<String> {
    match order {
        "dns_serve" => Ok(server::serve(words.next())?.to_string()),
        "dns_forward" => Ok(server::forward(words.next(), words.next())?.to_string()),
        "dns_mode" => {
            let mode: String = words.next();
            let delay = if matches!(&*mode, "delay" | "stall") { words.millis() } else { Duration::ZERO };
            server::set_mode(&mode, delay).map(|()| String::new())
        }
        "dns_ask" => {
            let (server, name, kind) = (words.next(), words.next::<String>(), words.next());
            let how = Ask { timeout: words.millis(), tries: words.next(), over: words.next() };
            Ok(client::ask(server, &name, kind, how)?.rcode().to_string())
        }
        "dns_flood" => {
            let (server, name) = (words.next(), words.next::<String>());
            Ok(client::flood(server, &name, words.next(), words.next())?.to_string())
        }
        "resolve" => {
            let addresses = (words.next::<String>(), 0).to_socket_addrs()?;
            Ok(addresses.map(|address| address.ip().to_string()).collect::<Vec<_>>().join(" "))
        }
        other => Err(io::Error::other(format!("no such order: {other}"))),
    }
}
