//! Requests to those who are told.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde_json::Value;
use tapio_occurrence::printable::printable;
use tokio::time::timeout;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most bytes read of an answer.
const MAX_ANSWER: usize = 64 << 10;
/// Characters of an answer that are quoted.
const QUOTED: usize = 200;

/// A client. It follows no redirects.
#[derive(Clone, Debug)]
pub(super) struct Http(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

/// Why something was not told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It may be told later, after so long if that was said.
    Retry(String, Option<Duration>),
    /// It may be told once somebody has corrected the settings of either side.
    Hold(String),
    /// It would be refused again.
    Refused(String),
}

/// An answer with a status of success.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Http {
    /// A client that trusts public authorities, or those of a file.
    ///
    /// # Errors
    /// The file cannot be used.
    pub(super) fn new(authorities: Option<&Path>) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        match authorities {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(file) => {
                let read = || format!("{} has no usable certificates", file.display());
                for certificate in CertificateDer::pem_file_iter(file).with_context(read)? {
                    roots.add(certificate.with_context(read)?).with_context(read)?;
                }
                anyhow::ensure!(!roots.is_empty(), read());
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build();
        Ok(Self(Client::builder(TokioExecutor::new()).build(connector)))
    }

    /// Posts JSON.
    pub(super) async fn post(&self, url: &str, headers: HeaderMap, body: Bytes) -> Result<Answer, Failure> {
        let mut request = Request::post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("tapio/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .map_err(|error| Failure::Hold(format!("the request cannot be made: {error}")))?;
        request.headers_mut().extend(headers);
        let exchange = async {
            let response = self.0.request(request).await.map_err(|error| chain(&error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
            Ok::<_, String>((head, body.to_bytes()))
        };
        let answered = timeout(PATIENCE, exchange).await;
        let answered = answered.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()));
        let (head, body) = answered.and_then(|answered| answered).map_err(|why| Failure::Retry(why, None))?;
        let answer = Answer { status: head.status, headers: head.headers, body };
        if head.status.is_success() { Ok(answer) } else { Err(answer.refusal()) }
    }
}

impl Answer {
    /// What it means that this is no success.
    fn refusal(&self) -> Failure {
        let said = self.quoted();
        let what = format!("{}{}{said}", self.status, if said.is_empty() { "" } else { ": " });
        match self.status.as_u16() {
            408 | 429 | 500.. => Failure::Retry(what, self.after()),
            300..=399 => {
                Failure::Hold(format!("{what}: redirects are not followed; give the address itself"))
            }
            401 | 403 | 404 | 405 | 407 | 410 => Failure::Hold(what),
            _ => Failure::Refused(what),
        }
    }

    fn after(&self) -> Option<Duration> {
        let seconds = self.headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
        Some(Duration::from_secs(seconds))
    }

    /// The beginning of the answer.
    pub(super) fn quoted(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        printable(text.trim().chars().take(QUOTED).collect::<String>().as_str()).into_owned()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// As it is if it says when to try again.
    pub(super) fn retry(&self, why: String) -> Failure {
        Failure::Retry(why, self.after())
    }
}

/// An error with its reasons.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(reason) = source {
        text = format!("{text}: {reason}");
        source = reason.source();
    }
    text
}
