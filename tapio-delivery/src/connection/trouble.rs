//! Connect errors: what is wrong with the other side, and the remedy. Reported once, not on each attempt.

use std::{error::Error, fmt, io, time::Duration};

use rustls::{AlertDescription, CertificateError, OtherError};
use tapio_service::setting::shown;
use tonic::{Code, Status};

use super::{super::causes, Target, Version, sniffing::PeerProtocol};

/// A connect error, with a remedy if one is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What was found.
    pub what: String,
    /// What the operator can do.
    pub remedy: Option<String>,
    /// What has to change before the same data is accepted.
    pub about: About,
}

/// What has to change before the same data is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum About {
    /// Nothing but time.
    #[default]
    Passing,
    /// The configuration of either side: once an operator has corrected it, the same data is accepted.
    Configuration,
    /// The content: something in it is never accepted.
    Content,
    /// The size: the same data is accepted in smaller messages.
    Size,
}

impl About {
    /// The cause of a gRPC status other than OK.
    pub(crate) fn of_grpc(status: &Status) -> Self {
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented | Code::NotFound => {
                Self::Configuration
            }
            Code::ResourceExhausted | Code::OutOfRange if is_size(status.message()) => Self::Size,
            Code::InvalidArgument | Code::OutOfRange => Self::Content,
            _ => Self::Passing,
        }
    }

    /// The cause of an HTTP status other than success.
    pub(crate) const fn of_http(status: u16) -> Self {
        match status {
            400 | 422 => Self::Content,
            413 => Self::Size,
            408 | 425 | 429 => Self::Passing,
            501 | 505 | 511 => Self::Configuration,
            500..=599 => Self::Passing,
            _ => Self::Configuration,
        }
    }
}

/// Whether a gRPC server reports that a message exceeds its limit. There is no code for it: grpc-go, C++,
/// Python and Node.js write "received message larger than max", Java "exceeds maximum size", .NET "exceeds
/// the maximum configured message size", tonic "decoded message length too large".
fn is_size(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["larger than max", "too large", "exceeds maximum", "exceeds the maximum", "message size", "size limit"]
        .iter()
        .any(|said| message.contains(said))
}

impl Trouble {
    pub(crate) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: Some(remedy.into()), about: About::Passing }
    }

    /// An error without a known remedy.
    pub fn bare(what: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: None, about: About::Passing }
    }

    fn about(self, about: About) -> Self {
        Self { about, ..self }
    }

    /// The same error, with the endpoint's name.
    pub(crate) fn of(self, endpoint: &str) -> Self {
        Self { what: format!("{endpoint} {}", self.what), ..self }
    }

    /// No answer came within this time.
    pub(crate) fn no_answer(within: Duration) -> Self {
        Self::bare(format!("gave no answer within {within:?}"))
    }

    /// The connection failed.
    pub(super) fn unreachable(error: &io::Error, target: &Target) -> Self {
        let remedy = match target.ignored_proxy() {
            Some(variable) => format!(
                "{variable} is set and not used, since Tapio connects without a proxy: let this node reach it directly, or \
                 give the endpoint of a collector that it reaches ({})",
                target.words.endpoint
            ),
            None => format!("start it, or correct the endpoint ({})", target.words.endpoint),
        };
        Self::new(format!("cannot be reached: {error}"), remedy)
    }

    /// The TLS handshake failed.
    pub(super) fn handshake(error: &io::Error, target: &Target) -> Self {
        match of_tls(error) {
            Some(error) => Self::tls(error, target),
            None => Self::new(
                format!("ends the connection in the TLS handshake ({error})"),
                format!(
                    "if it has no TLS, write http://{} as the endpoint; else look at its log",
                    target.authority
                ),
            ),
        }
    }

    /// The other side sends no TLS, has an untrusted certificate, or does not trust the agent's.
    pub(super) fn tls(error: &rustls::Error, target: &Target) -> Self {
        use rustls::Error as Tls;
        let (host, words) = (&target.host, target.words);
        match error {
            Tls::InvalidMessage(_) => Self::new(
                "does not speak TLS on this port",
                format!("write http://{} as the endpoint, or turn its TLS on", target.authority),
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
                    format!("give that authority's certificate: {}", words.authorities),
                ),
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::new(
                    "its certificate is not valid at this time",
                    "renew it, or set the clock of this node",
                ),
                CertificateError::Other(other) if is_authoritys(other) => Self::new(
                    "its certificate is an authority's own, as `openssl req -x509` makes it",
                    "sign a server's certificate with it, or make it with `-addext basicConstraints=critical,CA:FALSE`",
                ),
                other => {
                    Self::new(format!("its certificate is refused: {other}"), "have another one made for it")
                }
            },
            Tls::NoApplicationProtocol | Tls::AlertReceived(AlertDescription::NoApplicationProtocol) => {
                Self::http1_only(target)
            }
            Tls::AlertReceived(AlertDescription::CertificateRequired) => Self::new(
                "wants a certificate of the agent",
                format!("give one: keys `{}` and `{}`", words.certificate, words.key),
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
                format!(
                    "give one of an authority that it trusts: keys `{}` and `{}`",
                    words.certificate, words.key
                ),
            ),
            other => Self::new(format!("no TLS connection: {other}"), "look at its log"),
        }
    }

    /// The other side uses TLS, and the agent connected without.
    pub(crate) fn plain_to_tls(target: &Target) -> Self {
        Self::new("wants TLS on this port", format!("write https://{} as the endpoint", target.authority))
    }

    pub(super) fn http1_only(target: &Target) -> Self {
        let what = "speaks HTTP/1 only, and gRPC needs HTTP/2: it is another port, or a proxy in between";
        Self::new(what, target.words.http1_only)
    }

    fn http2_only(target: &Target) -> Self {
        Self::new("speaks HTTP/2 only: it is a port of gRPC", target.words.http2_only)
    }

    /// A connection broke. The first bytes received help to find the reason.
    pub(super) fn broken(
        error: &dyn Error,
        protocol: PeerProtocol,
        version: Version,
        target: &Target,
    ) -> Self {
        match (protocol, version) {
            (PeerProtocol::Http1, Version::Http2) => Self::http1_only(target),
            (PeerProtocol::Http2, Version::Http1) => Self::http2_only(target),
            (PeerProtocol::Tls, _) if target.tls.is_none() => Self::plain_to_tls(target),
            (PeerProtocol::Nothing, _) => {
                let (name, remedy) = match version {
                    Version::Http2 => ("HTTP/2", target.words.http1_only),
                    Version::Http1 => ("HTTP/1", target.words.http2_only),
                };
                let what =
                    format!("ends the connection without a word when spoken to in {name}: {}", causes(error));
                Self::new(what, format!("if it is up and does not know {name}: {remedy}"))
            }
            _ => Self::bare(format!("the connection broke: {}", causes(error))),
        }
    }

    /// A gRPC status other than OK.
    pub(crate) fn of_grpc(status: &Status, target: &Target) -> Self {
        let (code, said, words) = (status.code(), shown(status.message()), target.words);
        let trouble = match code {
            Code::Unauthenticated | Code::PermissionDenied => {
                Self::new(format!("does not let the agent in: {code:?} ({said})"), words.no_access)
            }
            Code::Unimplemented | Code::NotFound => {
                Self::new(format!("takes no {}: {code:?} ({said})", words.what), words.no_service)
            }
            Code::ResourceExhausted | Code::OutOfRange if is_size(status.message()) => {
                Self::new(format!("finds the message too large: {code:?} ({said})"), words.too_large)
            }
            _ => Self::bare(format!("answers {code:?} ({said})")),
        };
        trouble.about(About::of_grpc(status))
    }

    /// A success that does not follow the protocol.
    pub(crate) fn stranger(protocol: &str, why: &str) -> Self {
        Self::new(
            format!("answers with success and not as {protocol} does: {why}"),
            "correct the endpoint: something else answers there",
        )
    }

    /// An HTTP status other than success, also in answer to gRPC.
    pub(crate) fn of_status(status: u16, said: &str, target: &Target) -> Self {
        // The query may contain a secret.
        let path = target.path.split('?').next().unwrap_or_default();
        let words = target.words;
        let said = if said.is_empty() { String::new() } else { format!(" ({said})") };
        let trouble = match status {
            300..=399 => Self::new(
                format!("says that it has moved: status {status}{said}"),
                "write the new URL as the endpoint",
            ),
            401 | 403 => {
                Self::new(format!("does not let the agent in: status {status}{said}"), words.no_access)
            }
            404 => Self::new(format!("has nothing at {path}: status 404{said}"), words.no_path),
            405 | 415 => {
                Self::new(format!("takes no {} at {path}: status {status}{said}", words.what), words.no_path)
            }
            407 => Self::new(
                format!("a proxy on the way wants credentials: status 407{said}"),
                "give the proxy's user and password, or let the node connect without it",
            ),
            413 => Self::new(format!("finds the request too large: status 413{said}"), words.too_large),
            _ => Self::bare(format!("answers with status {status}{said}")),
        };
        trouble.about(About::of_http(status))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.remedy.iter().try_for_each(|remedy| write!(f, "; {remedy}"))
    }
}

/// Whether a certificate was refused since it is an authority's: `webpki::Error`, of a crate that only rustls uses.
fn is_authoritys(error: &OtherError) -> bool {
    format!("{error:?}").contains("CaUsedAsEndEntity")
}

/// The names that a certificate is valid for, if known.
fn names(error: &CertificateError) -> String {
    match error {
        CertificateError::NotValidForNameContext { presented, .. } if !presented.is_empty() => {
            format!(", but for {}", presented.join(", "))
        }
        _ => String::new(),
    }
}

/// The TLS error inside an I/O error, if there is one.
pub(super) fn of_tls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}
