//! What is wrong with a receiver, and what helps: told once, not each time.

use std::{error::Error, fmt, io};

use rustls::{AlertDescription, CertificateError};

use super::{super::causes, Endpoint, Protocol};

/// What is wrong, and what helps if anything does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What was found.
    pub what: String,
    /// What the operator can do.
    pub remedy: Option<String>,
}

/// What the other side said first on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoke {
    Nothing,
    Http1,
    Http2,
    Tls,
    Other,
}

/// The longest that [`Spoke::of`] looks at: the head of an HTTP/2 frame, RFC 9113, section 4.1.
pub(super) const FIRST_BYTES: usize = 9;

const HTTP1_REMEDY: &str = "set the protocol to http/protobuf (key `otlp.protocol`), take the port of gRPC (usually 4317), \
                            or let the proxy pass HTTP/2";
const HTTP2_REMEDY: &str =
    "set the protocol to grpc (key `otlp.protocol`), or take the port of http/protobuf (usually 4318)";

impl Trouble {
    pub(super) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: Some(remedy.into()) }
    }

    /// One that nothing is known to help against.
    pub fn bare(what: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: None }
    }

    /// There is no connection.
    pub(super) fn unreachable(error: &io::Error) -> Self {
        Self::new(
            format!("cannot be reached: {error}"),
            "start it, or correct the endpoint (--otlp=URL, key `otlp.endpoint`)",
        )
    }

    /// The handshake of TLS failed.
    pub(super) fn handshake(error: &io::Error, endpoint: &Endpoint) -> Self {
        match of_tls(error) {
            Some(error) => Self::tls(error, endpoint),
            None => Self::new(
                format!("ends the connection in the TLS handshake ({error})"),
                format!(
                    "if it has no TLS, write http://{} as the endpoint; else look at its log",
                    endpoint.authority()
                ),
            ),
        }
    }

    /// It sends what is not TLS, is not believed, or does not believe.
    pub(super) fn tls(error: &rustls::Error, endpoint: &Endpoint) -> Self {
        use rustls::Error as Tls;
        let host = endpoint.host();
        match error {
            Tls::InvalidMessage(_) => Self::new(
                "does not speak TLS on this port",
                format!("write http://{} as the endpoint, or turn its TLS on", endpoint.authority()),
            ),
            Tls::InvalidCertificate(why) => match why {
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    Self::new(
                        format!("its certificate is not for `{host}`{}", names(why)),
                        "write a name as the endpoint that its certificate has, or have one made for this name",
                    )
                }
                CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::new(
                    "its certificate is of an authority that is not trusted here",
                    "give that authority's certificate: key `otlp.certificate`, or OTEL_EXPORTER_OTLP_CERTIFICATE",
                ),
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::new(
                    "its certificate is not valid at this time",
                    "renew it, or set the clock of this node",
                ),
                other => {
                    Self::new(format!("its certificate is refused: {other}"), "have another one made for it")
                }
            },
            Tls::NoApplicationProtocol | Tls::AlertReceived(AlertDescription::NoApplicationProtocol) => {
                Self::http1_only()
            }
            Tls::AlertReceived(AlertDescription::CertificateRequired) => Self::new(
                "wants a certificate of the agent",
                "give one: keys `otlp.client_certificate` and `otlp.client_key`",
            ),
            Tls::AlertReceived(
                alert @ (AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateUnknown
                | AlertDescription::DecryptError
                | AlertDescription::AccessDenied),
            ) => Self::new(
                format!("refuses the agent's certificate ({alert:?})"),
                "give one of an authority that it trusts: keys `otlp.client_certificate` and `otlp.client_key`",
            ),
            other => Self::new(format!("no TLS connection: {other}"), "look at its log"),
        }
    }

    /// It has TLS and is spoken to without.
    pub(super) fn plain_to_tls(endpoint: &Endpoint) -> Self {
        Self::new("wants TLS on this port", format!("write https://{} as the endpoint", endpoint.authority()))
    }

    pub(super) fn http1_only() -> Self {
        let what =
            "speaks HTTP/1 only, and gRPC needs HTTP/2: it is a port of http/protobuf, or a proxy in between";
        Self::new(what, HTTP1_REMEDY)
    }

    fn http2_only() -> Self {
        Self::new("speaks HTTP/2 only: it is a port of gRPC", HTTP2_REMEDY)
    }

    /// A connection broke: what can be told from what was said on it.
    pub(super) fn broken(
        error: &dyn Error,
        spoke: Spoke,
        protocol: Protocol,
        tls: bool,
        endpoint: &Endpoint,
    ) -> Self {
        match (spoke, protocol) {
            (Spoke::Http1, Protocol::Grpc) => Self::http1_only(),
            (Spoke::Http2, Protocol::HttpProtobuf) => Self::http2_only(),
            (Spoke::Tls, _) if !tls => Self::plain_to_tls(endpoint),
            (Spoke::Nothing, _) => {
                let (version, remedy) = match protocol {
                    Protocol::Grpc => ("HTTP/2", HTTP1_REMEDY),
                    Protocol::HttpProtobuf => ("HTTP/1", HTTP2_REMEDY),
                };
                let what = format!(
                    "ends the connection without a word when spoken to in {version}: {}",
                    causes(error)
                );
                Self::new(what, format!("if it is up and does not know {version}: {remedy}"))
            }
            _ => Self::bare(format!("the connection broke: {}", causes(error))),
        }
    }

    /// A status of HTTP that is no success, also for gRPC.
    pub(super) fn of_status(status: u16, said: &str, endpoint: &Endpoint) -> Self {
        let said = if said.is_empty() { String::new() } else { format!(" ({said})") };
        match status {
            300..=399 => Self::new(
                format!("says that it has moved: status {status}{said}"),
                "write the new URL as the endpoint",
            ),
            401 | 403 => Self::new(
                format!("does not let the agent in: status {status}{said}"),
                "correct the headers: key `otlp.headers`, or OTEL_EXPORTER_OTLP_HEADERS",
            ),
            404 => Self::new(
                format!("has nothing at {}: status 404{said}", endpoint.path()),
                "correct the path of the endpoint; that of a collector is /v1/logs",
            ),
            405 | 415 => Self::new(
                format!("takes no OTLP at {}: status {status}{said}", endpoint.path()),
                "correct the path of the endpoint; that of a collector is /v1/logs",
            ),
            413 => Self::new(
                format!("finds the request too large: status 413{said}"),
                "let it, and proxies before it, take requests of 1 MiB",
            ),
            _ => Self::bare(format!("answers with status {status}{said}")),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.remedy.iter().try_for_each(|remedy| write!(f, "; {remedy}"))
    }
}

impl Spoke {
    pub(super) fn of(first: &[u8]) -> Self {
        /// RFC 9113, section 6.5: what a server's side of HTTP/2 begins with.
        const SETTINGS: u8 = 4;
        match first {
            [] => Self::Nothing,
            [b'H', b'T', b'T', b'P', b'/', ..] => Self::Http1,
            // An alert or a handshake, RFC 8446, section 5.1.
            [0x15 | 0x16, 3, ..] => Self::Tls,
            [_, _, _, SETTINGS, _, 0, 0, 0, 0] => Self::Http2,
            _ => Self::Other,
        }
    }
}

/// Names that a certificate is for, where they are known.
fn names(error: &CertificateError) -> String {
    match error {
        CertificateError::NotValidForNameContext { presented, .. } if !presented.is_empty() => {
            format!(", but for {}", presented.join(", "))
        }
        _ => String::new(),
    }
}

/// The error of TLS that one of a stream is, if it is.
pub(super) fn of_tls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}
