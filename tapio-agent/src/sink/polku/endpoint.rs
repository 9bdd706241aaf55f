//! Where a gateway is.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

/// Host and port, with brackets around an IPv6 address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Parses `host:port`, `[v6]:port` or either with `http://` before it.
///
/// # Errors
/// Says what is wrong and what would be right.
pub fn parse_endpoint(text: &str) -> Result<Endpoint, String> {
    let wrong = |why: &str| format!("{text:?} {why}: write host:port, as in gateway.example:50051");
    if text.starts_with("https://") {
        return Err(format!(
            "{text:?} asks for TLS, which is not supported for gateways yet: write http://host:port and let a \
             proxy on this node do TLS"
        ));
    }
    let rest = text.strip_prefix("http://").unwrap_or(text);
    if rest.contains("://") {
        return Err(wrong("has a scheme that is not http"));
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.is_empty() {
        return Err(wrong("is empty"));
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
                return Err(format!("{text:?} looks like an IPv6 address: write [address]:port"));
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
        // `parse` would take a sign.
        Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => {
            Ok(Endpoint { host: host.to_owned(), port: number })
        }
        _ => Err(wrong("has no port between 1 and 65535")),
    }
}

/// A host name (RFC 1123, and underscores, which some clusters have) or an IPv4 address.
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
            ("http://polku.polku-system.svc:50051", "polku.polku-system.svc:50051"),
            ("http://10.0.0.1:1/", "10.0.0.1:1"),
            ("[::1]:50051", "[::1]:50051"),
            ("http://[fd00::7]:65535", "[fd00::7]:65535"),
            ("a_b.example.:80", "a_b.example.:80"),
        ] {
            assert_eq!(parse_endpoint(text).unwrap().to_string(), shown);
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
            ("user@host:50051", "no valid host"),
            ("-x:50051", "no valid host"),
            ("a..b:50051", "no valid host"),
            ("300.1.1.1:50051", "no valid host"),
            ("::1:50051", "write [address]:port"),
            ("[::1]50051", "has no port"),
            ("[::1:50051", "closing bracket"),
            ("[host]:50051", "no IPv6 address"),
            ("host:50051/path", "has a path"),
            ("grpc://host:50051", "scheme"),
            ("https://host:50051", "TLS"),
        ] {
            let error = parse_endpoint(text).unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
