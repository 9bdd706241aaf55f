//! TLS of what is served: the certificate, and the authorities of clients.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, bail};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tapio_service::setting::{AbsolutePath, Off, Wrong};
use tokio_rustls::TlsAcceptor;

use crate::files::{Stamps, stamps};

/// The files, and the configuration from their last valid content.
pub(crate) struct Tls {
    files: Files,
    current: Mutex<(Stamps, TlsAcceptor)>,
}

/// Where the certificate is.
pub(crate) struct Files {
    /// Whose settings name them.
    pub(crate) section: &'static str,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) client_ca: Option<PathBuf>,
    /// Protocols that are spoken over it, the preferred one first.
    pub(crate) alpn: &'static [&'static [u8]],
}

/// Refuses a certificate without its key and a key without its certificate. Returns the key that is there, and the reason.
pub(crate) fn check_pair(
    section: &str,
    cert: &Off<AbsolutePath>,
    key: &Off<AbsolutePath>,
) -> Result<(), (&'static str, Wrong)> {
    let (there, missing) = match (&cert.0, &key.0) {
        (Some(_), None) => ("cert", "key"),
        (None, Some(_)) => ("key", "cert"),
        _ => return Ok(()),
    };
    let what = format!("needs {section}.{missing} (--{section}-{missing}=FILE): give both or neither");
    Err((there, Wrong(what)))
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be used, or the key is another certificate's.
    pub(crate) fn new(files: Files) -> anyhow::Result<Self> {
        let current = (files.stamps(), files.acceptor()?);
        Ok(Self { files, current: Mutex::new(current) })
    }

    /// For the next connection: the files are read again if they have changed.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
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
                for authority in self.certificates("client_ca", file)? {
                    roots.add(authority).with_context(|| self.unusable("client_ca", file))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.with_context(|| self.unusable("client_ca", file))?)
            }
        };
        let chain = self.certificates("cert", &self.cert)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).with_context(|| self.unusable("key", &self.key))?;
        let mut config = match builder.with_single_cert(chain, key) {
            Err(rustls::Error::InconsistentKeys(_)) => bail!(
                "{0}.key: {1} is not the key of the certificate in {2}: give {0}.cert and {0}.key the two files of one certificate",
                self.section,
                self.key.display(),
                self.cert.display()
            ),
            config => config.with_context(|| self.unusable("key", &self.key))?,
        };
        config.alpn_protocols = self.alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    fn certificates(&self, key: &str, file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
        let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let certificates = read.with_context(|| self.unusable(key, file))?;
        anyhow::ensure!(
            !certificates.is_empty(),
            "{}: there is no certificate in it",
            self.unusable(key, file)
        );
        Ok(certificates)
    }

    fn unusable(&self, key: &str, file: &Path) -> String {
        format!(
            "{}.{key}: {} cannot be used; it has to be a PEM file that the server may read",
            self.section,
            file.display()
        )
    }
}
