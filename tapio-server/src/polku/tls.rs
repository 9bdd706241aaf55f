//! TLS of the gateway: its certificate, and the authorities of clients.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;

use super::{
    Settings,
    files::{Stamps, stamps},
};

/// The files, and the configuration from their last valid content.
pub(super) struct Tls {
    files: Files,
    current: Mutex<(Stamps, TlsAcceptor)>,
}

struct Files {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    /// Protocols that are spoken over it, the preferred one first.
    alpn: &'static [&'static [u8]],
}

impl Tls {
    /// Reads the files; `None` without TLS.
    ///
    /// # Errors
    /// A file cannot be used.
    pub(super) fn new(settings: &Settings, alpn: &'static [&'static [u8]]) -> anyhow::Result<Option<Self>> {
        let (Some(cert), Some(key)) = (settings.cert.file(), settings.key.file()) else { return Ok(None) };
        let files = Files { cert, key, client_ca: settings.client_ca.file(), alpn };
        let current = (files.stamps(), files.acceptor()?);
        Ok(Some(Self { files, current: Mutex::new(current) }))
    }

    /// For the next connection: the files are read again if they have changed.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (stamps, acceptor) = &mut *current;
        let now = self.files.stamps();
        if *stamps != now {
            *stamps = now;
            match self.files.acceptor() {
                Ok(renewed) => *acceptor = renewed,
                // The usual reason is a half-finished renewal.
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(
                        error,
                        "files for TLS changed and cannot be used: the earlier ones remain in use"
                    );
                }
            }
        }
        acceptor.clone()
    }
}

impl Files {
    fn stamps(&self) -> Stamps {
        stamps([&self.cert, &self.key].into_iter().chain(&self.client_ca))
    }

    fn acceptor(&self) -> anyhow::Result<TlsAcceptor> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates("client_ca", file)? {
                    roots.add(authority).with_context(|| unusable("client_ca", file))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.with_context(|| unusable("client_ca", file))?)
            }
        };
        let chain = certificates("cert", &self.cert)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).with_context(|| unusable("key", &self.key))?;
        let config = builder.with_single_cert(chain, key).with_context(|| unusable("key", &self.key));
        let mut config = config?;
        config.alpn_protocols = self.alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn certificates(key: &str, file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.with_context(|| unusable(key, file))?;
    anyhow::ensure!(!certificates.is_empty(), "{}: there is no certificate in it", unusable(key, file));
    Ok(certificates)
}

fn unusable(key: &str, file: &Path) -> String {
    format!(
        "polku.{key}: {} cannot be used; it has to be a PEM file that the server may read",
        file.display()
    )
}
