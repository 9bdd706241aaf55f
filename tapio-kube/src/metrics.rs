//! The metrics that a component of the control plane serves, such as kube-scheduler at
//! `https://127.0.0.1:10259/metrics`.
//!
//! The body is passed on in chunks as it arrives, so its size does not matter here. The caller sets the limits.

use std::{
    error::Error,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::Duration,
};

use http::{Request, Uri, header::ACCEPT, uri::PathAndQuery};
use http_body_util::BodyExt as _;
use kube::{Client, Config, client::Body, core::Status};

/// The pod's service account, with which a component lets the agent in unless it is given a token of its own.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// The text format, which every version of every component knows.
const TEXT: &str = "text/plain;version=0.0.4";
/// Errors where nobody answers at an address.
const NOBODY: &[ErrorKind] = &[
    ErrorKind::ConnectionRefused,
    ErrorKind::NetworkUnreachable,
    ErrorKind::HostUnreachable,
    ErrorKind::AddrNotAvailable,
];
/// The timeout for connecting.
const CONNECT: Duration = Duration::from_secs(5);
/// Of the body of a refusal, this many bytes are read, and this many characters of what it says are shown.
const MAX_REFUSAL: usize = 4096;
const SHOWN: usize = 200;

/// Where a component serves its metrics, and what it is asked with.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `https://host:port/path`.
    pub url: Uri,
    /// File with a bearer token, which is read again each minute. `None`: that of the pod's service account, if there
    /// is one and there is no certificate of the agent.
    pub token: Option<PathBuf>,
    /// PEM file with the certificates of the authorities that are trusted; `None` trusts those of this machine.
    pub ca: Option<PathBuf>,
    /// PEM files with the agent's own certificate and its key.
    pub own: Option<(PathBuf, PathBuf)>,
    /// Accept any certificate.
    pub insecure: bool,
}

/// A connection to an endpoint.
#[derive(Clone)]
pub struct Metrics {
    client: Client,
    path: String,
    /// It shows neither a token nor a certificate.
    is_anonymous: bool,
}

/// Why an endpoint gave no metrics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Problem {
    /// One sentence.
    pub why: String,
    /// Who refused, and so what the remedy is.
    pub refused: Refused,
}

/// Who refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Nothing listens at this address, or there is no way to it.
    Connection,
    /// The agent does not trust its certificate.
    Certificate,
    /// It wants another certificate of the agent's.
    OwnCertificate,
    /// It does not know the agent (401).
    Authentication,
    /// It knows the agent, and does not let it read metrics (403).
    Authorization,
    /// A file of the configuration cannot be used.
    File,
    /// Anything else: no answer, or an answer that is of no use.
    Answer,
}

impl Problem {
    /// An answer that is of no use.
    #[must_use]
    pub fn answer(why: impl Into<String>) -> Self {
        Self { why: why.into(), refused: Refused::Answer }
    }

    fn of(error: &kube::Error) -> Self {
        let mut last: &dyn Error = error;
        let mut is_refused = false;
        loop {
            let io = last.downcast_ref::<io::Error>();
            is_refused |= io.is_some_and(|error| NOBODY.contains(&error.kind()));
            // The source of an I/O error that wraps another one is that of the other one.
            let wrapped = io.and_then(io::Error::get_ref).map(|error| error as &dyn Error);
            match wrapped.or_else(|| last.source()) {
                Some(cause) => last = cause,
                None => break,
            }
        }
        let why = last.to_string();
        // The texts of rustls, whose error types are not public here.
        let refused = match why.as_str() {
            _ if is_refused => Refused::Connection,
            why if why.starts_with("invalid peer certificate") => Refused::Certificate,
            why if why.starts_with("received fatal alert") => Refused::OwnCertificate,
            _ => Refused::Answer,
        };
        Self { why, refused }
    }
}

impl Endpoint {
    /// Reads the files and prepares a client, without connecting. Call it within the async runtime, and again after a
    /// failure: then renewed files are used.
    ///
    /// # Errors
    /// A file cannot be read, or is invalid.
    pub fn open(&self) -> Result<Metrics, Problem> {
        let mut parts = self.url.clone().into_parts();
        // The path is that of the request.
        let path = parts.path_and_query.replace(PathAndQuery::from_static("/")).map(|path| path.to_string());
        let server = Uri::from_parts(parts).map_err(|error| Problem::answer(error.to_string()))?;
        let mut config = Config::new(server);
        config.connect_timeout = Some(CONNECT);
        config.accept_invalid_certs = self.insecure;
        config.root_cert_file.clone_from(&self.ca);
        // Otherwise this machine would need certificates of authorities that are not used, and many images have none. The
        // file is stronger.
        config.root_cert = (self.insecure || self.ca.is_some()).then(Vec::new);
        config.default_retry = false;
        let service_account =
            || Some(Path::new(TOKEN).to_owned()).filter(|token| self.own.is_none() && token.is_file());
        let token = self.token.clone().or_else(service_account);
        let own = self.own.iter().flat_map(|(certificate, key)| [certificate, key]);
        for file in self.ca.iter().chain(&token).chain(own) {
            fs::metadata(file).map_err(|error| unusable(file, &error))?;
        }
        config.auth_info.token_file = token.as_deref().map(shown);
        if let Some((certificate, key)) = &self.own {
            config.auth_info.client_certificate = Some(shown(certificate));
            config.auth_info.client_key = Some(shown(key));
        }
        let client = Client::try_from(config).map_err(|error| {
            let Problem { why, .. } = Problem::of(&error);
            // The text of rustls' verifier: images often have none.
            let refused =
                if why.contains("No CA certificates") { Refused::Certificate } else { Refused::File };
            Problem { why: format!("TLS, or the token, cannot be used: {why}"), refused }
        })?;
        Ok(Metrics {
            client,
            path: path.unwrap_or_default(),
            is_anonymous: token.is_none() && self.own.is_none(),
        })
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn unusable(file: &Path, error: &io::Error) -> Problem {
    Problem { why: format!("{} cannot be read: {error}", file.display()), refused: Refused::File }
}

impl Metrics {
    /// Asks for the metrics once, and passes the body to `take` in chunks.
    ///
    /// # Errors
    /// There are none, or `take` failed.
    pub async fn scrape(&self, mut take: impl FnMut(&[u8]) -> Result<(), Problem>) -> Result<(), Problem> {
        let request = Request::get(&self.path).header(ACCEPT, TEXT).body(Body::empty());
        let request = request.map_err(|error| Problem::answer(error.to_string()))?;
        let answer = self.client.send(request).await.map_err(|error| Problem::of(&error))?;
        let status = answer.status();
        let mut body = answer.into_body();
        let mut refusal = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                let Problem { why, .. } = Problem::of(&error);
                Problem::answer(format!("the answer broke off: {why}"))
            })?;
            let Some(chunk) = frame.data_ref() else { continue };
            if status.is_success() {
                take(chunk)?;
                continue;
            }
            refusal.extend_from_slice(&chunk[..chunk.len().min(MAX_REFUSAL - refusal.len())]);
            if refusal.len() == MAX_REFUSAL {
                break;
            }
        }
        if status.is_success() {
            return Ok(());
        }
        let refused = match status.as_u16() {
            401 => Refused::Authentication,
            // Nobody lets those in that show nothing.
            403 if self.is_anonymous => Refused::Authentication,
            403 => Refused::Authorization,
            _ => Refused::Answer,
        };
        Err(Problem {
            why: format!("it answers with status {}: {}", status.as_u16(), said(&refusal)),
            refused,
        })
    }
}

/// What the body of a refusal says: the message of a status of Kubernetes, or its text.
fn said(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<Status>(body) {
        Ok(status) if !status.message.is_empty() => status.message,
        _ => String::from_utf8_lossy(body).trim().to_owned(),
    };
    text.chars().take(SHOWN).collect()
}
