//! The URL of an OTLP receiver.

use std::{
    fmt::{self, Display},
    str::FromStr,
};

use http::{Uri, uri::Scheme};
use tapio_service::setting::{Form, Value, Wrong, shown};

use crate::connection::bare;

/// The default path for logs (<https://opentelemetry.io/docs/specs/otlp/#otlphttp-request>).
const LOGS: &str = "/v1/logs";

/// A URL with `http` or `https`, or a host and port only. Its query may contain a secret, and is never
/// printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    scheme: Option<Scheme>,
    /// IPv6 addresses have brackets.
    host: String,
    port: Option<u16>,
    /// `None` if no path was written, which differs from `/`.
    path: Option<String>,
}

impl Endpoint {
    /// Whether the URL has a scheme.
    #[must_use]
    pub fn has_scheme(&self) -> bool {
        self.scheme.is_some()
    }

    /// Whether it asks for TLS; `None` without a scheme.
    #[must_use]
    pub fn is_tls(&self) -> Option<bool> {
        self.scheme.as_ref().map(|scheme| *scheme == Scheme::HTTPS)
    }

    /// The host, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port; by default 443 with TLS and 80 without.
    #[must_use]
    pub fn port(&self, tls: bool) -> u16 {
        self.port.unwrap_or(if tls { 443 } else { 80 })
    }

    /// The request path; `/v1/logs` if no path was written.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path.as_deref().unwrap_or(LOGS)
    }

    /// Host and, if given, port.
    #[must_use]
    pub fn authority(&self) -> String {
        self.port.map_or_else(|| self.host.clone(), |port| format!("{}:{port}", self.host))
    }

    /// The whole URL as written.
    #[must_use]
    pub(super) fn written(&self) -> String {
        format!("{self}{}", self.parts().1)
    }

    /// Path, and query with its question mark; both empty if no path was written.
    fn parts(&self) -> (&str, &str) {
        let written = self.path.as_deref().unwrap_or_default();
        written.split_at(written.find('?').unwrap_or(written.len()))
    }

    /// The same URL; if it has no path, with the path of another signal.
    #[must_use]
    pub(super) fn or_of_signal(&self, name: &str) -> Self {
        let completed = self.path.is_none().then(|| self.of_signal(name)).flatten();
        completed.unwrap_or_else(|| self.clone())
    }

    /// The same URL for another signal, such as `metrics`. `None` if its path does not show how to derive
    /// that.
    #[must_use]
    pub(super) fn of_signal(&self, name: &str) -> Option<Self> {
        // Only gRPC accepts a URL without scheme, and it uses no path.
        if self.scheme.is_none() {
            return Some(self.clone());
        }
        let written = self.path.as_deref().unwrap_or(LOGS);
        let (path, query) = written.split_at(written.find('?').unwrap_or(written.len()));
        let base = path.strip_suffix(LOGS)?;
        Some(Self { path: Some(format!("{base}/v1/{name}{query}")), ..self.clone() })
    }

    /// The same URL with `name` appended to its path, so that it always has a path.
    #[must_use]
    pub(super) fn below(mut self, name: &str) -> Self {
        let written = self.path.take().unwrap_or_else(|| "/".to_owned());
        let (path, query) = written.split_at(written.find('?').unwrap_or(written.len()));
        self.path = Some(match name {
            "" => written,
            name => format!("{}/{name}{query}", path.trim_end_matches('/')),
        });
        self
    }
}

impl Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(scheme) = &self.scheme {
            write!(f, "{scheme}://")?;
        }
        write!(f, "{}{}", self.authority(), self.parts().0)
    }
}

impl Value for Endpoint {
    fn expected() -> String {
        "http://host:port or https://host:port, or with grpc host:port".to_owned()
    }

    fn form() -> Form {
        Form::Any
    }
}

impl FromStr for Endpoint {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let wrong = |why: &str| {
            Wrong(format!(
                "`{}` {why}: write http://host:port, as in http://collector.example:4318",
                shown(&bare(text))
            ))
        };
        if text.is_empty() {
            return Err(wrong("is empty"));
        }
        let uri: Uri = text.parse().map_err(|_| wrong("is no URL"))?;
        if uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS) {
            return Err(wrong("has a scheme that is neither http nor https"));
        }
        let authority = uri.authority().ok_or_else(|| wrong("has no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("has a user in it, which belongs in the headers"));
        }
        let host = authority.host();
        if host.is_empty() {
            return Err(wrong("has no host"));
        }
        // A port that is not a number would pass through the URL parser.
        let written = authority.as_str().get(host.len()..).filter(|rest| !rest.is_empty());
        let port = match written {
            None => None,
            Some(_) => match authority.port_u16() {
                Some(port) if port > 0 => Some(port),
                _ => return Err(wrong("has no port between 1 and 65535")),
            },
        };
        if uri.scheme().is_none() && port.is_none() {
            return Err(wrong("has neither a scheme nor a port"));
        }
        // The parser turns an empty path into `/`.
        let after = text.split_once("://").map_or(text, |(_, rest)| rest);
        let path = after.find(['/', '?']).and(uri.path_and_query()).map(|path| path.as_str().to_owned());
        Ok(Self { scheme: uri.scheme().cloned(), host: host.to_owned(), port, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_right() {
        for (text, tls, host, port, path) in [
            ("http://collector:4318", Some(false), "collector", 4318, "/v1/logs"),
            ("http://collector:4318/", Some(false), "collector", 4318, "/"),
            ("https://otlp.example", Some(true), "otlp.example", 443, "/v1/logs"),
            ("https://otlp.example/x/v1/logs?k=v", Some(true), "otlp.example", 443, "/x/v1/logs?k=v"),
            ("https://[fd00::7]:4318", Some(true), "fd00::7", 4318, "/v1/logs"),
            ("collector:4317", None, "collector", 4317, "/v1/logs"),
            ("[::1]:4317", None, "::1", 4317, "/v1/logs"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.is_tls(), endpoint.host()), (tls, host), "{text}");
            assert_eq!((endpoint.port(tls == Some(true)), endpoint.path()), (port, path), "{text}");
            assert_eq!(endpoint.written(), text);
            assert!(!endpoint.to_string().contains('?'), "a query may be a secret");
        }
    }

    #[test]
    fn of_another_signal() {
        for (text, expected) in [
            ("http://collector:4318", Some("http://collector:4318/v1/metrics")),
            ("https://otlp.example/x/v1/logs?k=v", Some("https://otlp.example/x/v1/metrics?k=v")),
            ("collector:4317", Some("collector:4317")),
            ("http://collector:4318/", None),
            ("http://collector:4318/logs", None),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            let found = endpoint.of_signal("metrics").map(|endpoint| endpoint.written());
            assert_eq!(found.as_deref(), expected, "{text}");
            let own = endpoint.or_of_signal("metrics").written();
            assert_eq!(own, if text.matches('/').count() > 2 { text } else { found.as_deref().unwrap() });
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            ("", "is empty"),
            ("http://", "is no URL"),
            ("grpc://collector:4317", "neither http nor https"),
            ("collector", "neither a scheme nor a port"),
            ("/v1/logs", "has no host"),
            ("http://user:password@collector:4318", "belongs in the headers"),
            ("http://collector:0", "no port between"),
            ("http://collector:70000", "no port between"),
            ("http://collector:", "no port between"),
            ("http://collec tor:4318", "is no URL"),
            ("http://user:pass/word@collector:4318", "no port between"),
            ("http://collector:4318 /?k=password", "is no URL"),
        ] {
            let Wrong(error) = text.parse::<Endpoint>().unwrap_err();
            assert!(error.contains(why) && error.contains("write http://host:port"), "{text:?}: {error}");
            assert!(!error.contains("word"), "{error}");
        }
    }
}
