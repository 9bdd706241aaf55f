//! The address of a gateway.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::de::Deserializer;
use tapio_service::setting::{Form, List, Trail, Value, Wrong, list};

use crate::connection::bare;

/// Host and port, with brackets around an IPv6 address, and whether to use TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `None` without a scheme.
    tls: Option<bool>,
    host: String,
    port: u16,
}

/// Several endpoints, in the order in which they are tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints(Vec<Endpoint>);

impl Endpoint {
    /// Whether it asks for TLS; `None` without a scheme.
    #[must_use]
    pub const fn is_tls(&self) -> Option<bool> {
        self.tls
    }

    /// The host, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Host and port.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl Endpoints {
    /// All endpoints; none if the sink is off.
    #[must_use]
    pub fn all(&self) -> &[Endpoint] {
        &self.0
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.tls {
            None => "",
            Some(false) => "http://",
            Some(true) => "https://",
        };
        write!(f, "{scheme}{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str(Self::WORD),
            all => f.write_str(&all.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
        }
    }
}

impl Value for Endpoints {
    fn expected() -> String {
        "HOST:PORT or https://HOST:PORT, such as polku.observability.svc:50051, 10.0.0.7:50051 or [fd00::7]:50051, \
         or a list of some, or off"
            .to_owned()
    }

    fn form() -> Form {
        Form::List { item: r"[^\s,]+:[0-9]{1,5}".to_owned(), word: Self::WORD }
    }

    fn read<'de, D: Deserializer<'de>>(from: D, at: &Trail) -> Result<Self, D::Error> {
        list::read(from, at)
    }
}

impl List for Endpoints {
    const WORD: &'static str = "off";
    const ITEM: &'static str = "endpoint";

    fn add(&mut self, text: &str) -> Result<(), Wrong> {
        let endpoint = text.parse()?;
        if self.0.contains(&endpoint) {
            return Err(list::twice("endpoint", endpoint));
        }
        self.0.push(endpoint);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for Endpoints {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        list::parse(text)
    }
}

impl FromStr for Endpoint {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        parse(text).map_err(Wrong)
    }
}

/// Parses `host:port`, `[v6]:port` or either with `http://` or `https://` before it. Errors say what is wrong
/// and what would be valid.
fn parse(text: &str) -> Result<Endpoint, String> {
    let shown = bare(text);
    let wrong = |why: &str| format!("{shown:?} {why}: write host:port, as in gateway.example:50051");
    let (tls, rest) = match text.split_once("://") {
        Some(("http", rest)) => (Some(false), rest),
        Some(("https", rest)) => (Some(true), rest),
        Some(_) => return Err(wrong("has a scheme that is neither http nor https")),
        None => (None, text),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.is_empty() {
        return Err(wrong("is empty"));
    }
    if rest.contains('@') {
        return Err(wrong("has a user in it, whom POLKU does not ask for"));
    }
    if rest.contains('/') {
        return Err(wrong("has a path"));
    }
    let (host, port) = if rest.starts_with('[') {
        let end = rest.find(']').ok_or_else(|| wrong("has no closing bracket"))?;
        let (host, port) = rest.split_at(end + 1);
        let address = &host[1..end];
        if address.parse::<Ipv6Addr>().is_err() {
            return Err(wrong("has no IPv6 address in its brackets"));
        }
        (host, port.strip_prefix(':'))
    } else {
        match rest.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(format!("{shown:?} looks like an IPv6 address: write [address]:port"));
            }
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        }
    };
    if !host.starts_with('[') && !is_host(host) {
        return Err(wrong("has no valid host name or address"));
    }
    let port = port.ok_or_else(|| wrong("has no port"))?;
    match port.parse::<u16>() {
        // `parse` would accept a leading `+`.
        Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => {
            Ok(Endpoint { tls, host: host.to_owned(), port: number })
        }
        _ => Err(wrong("has no port between 1 and 65535")),
    }
}

/// A host name (RFC 1123, and underscores, which some clusters use) or an IPv4 address.
fn is_host(host: &str) -> bool {
    let numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if numeric {
        return host.parse::<Ipv4Addr>().is_ok();
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_right() {
        for (text, shown) in [
            ("localhost:50051", "localhost:50051"),
            ("http://polku.polku-system.svc:50051", "http://polku.polku-system.svc:50051"),
            ("http://10.0.0.1:1/", "http://10.0.0.1:1"),
            ("https://polku.example:443", "https://polku.example:443"),
            ("[::1]:50051", "[::1]:50051"),
            ("http://[fd00::7]:65535", "http://[fd00::7]:65535"),
            ("a_b.example.:80", "a_b.example.:80"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            ("", "is empty"),
            ("http://", "is empty"),
            ("localhost", "has no port"),
            ("localhost:", "no port between"),
            ("localhost:0", "no port between"),
            ("localhost:65536", "no port between"),
            ("localhost:+5", "no port between"),
            ("localhost:http", "no port between"),
            (":50051", "no valid host"),
            ("a b:50051", "no valid host"),
            ("user:password@host:50051", "has a user in it"),
            ("https://user:pass/word@host:50051", "has a user in it"),
            ("host:50051?token=password", "no port between"),
            ("-x:50051", "no valid host"),
            ("a..b:50051", "no valid host"),
            ("300.1.1.1:50051", "no valid host"),
            ("::1:50051", "write [address]:port"),
            ("[::1]50051", "has no port"),
            ("[::1:50051", "closing bracket"),
            ("[host]:50051", "no IPv6 address"),
            ("host:50051/path", "has a path"),
            ("grpc://host:50051", "scheme"),
            ("https://host", "has no port"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
            assert!(error.contains(&format!("{:?}", bare(text))) && !error.contains("word"), "{error}");
        }
    }

    #[test]
    fn several_in_their_order() {
        let endpoints: Endpoints = "b:1, https://[::1]:2,a:1".parse().unwrap();
        assert_eq!(endpoints.to_string(), "b:1,https://[::1]:2,a:1");
        assert_eq!(endpoints.all()[1].host(), "::1");
        assert_eq!("off".parse(), Ok(Endpoints::default()));
        for (text, why) in [
            ("a:1,a:1", "endpoint `a:1` is named twice"),
            ("a:1,", "\"\" is empty"),
            ("a:1,off", "\"off\" has no port"),
        ] {
            let Wrong(error) = text.parse::<Endpoints>().unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }
}
