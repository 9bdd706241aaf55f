//! TLS configuration: the trusted authorities, and the agent's own certificate.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::{Trouble, Words};

/// The files that TLS is set up with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    /// Certificates of the trusted authorities; `None` uses those of this machine.
    pub(crate) authorities: Option<PathBuf>,
    /// The agent's own certificate and its key.
    pub(crate) own: Option<(PathBuf, PathBuf)>,
}

/// Identifies the version of each file by inode, size and change time (seconds and nanoseconds).
pub(crate) type Stamps = Vec<Option<(u64, u64, i64, i64)>>;

impl Files {
    /// The stamps of the files as they are now.
    pub(super) fn stamps(&self) -> Stamps {
        let own = self.own.iter().flat_map(|(certificate, key)| [certificate, key]);
        self.authorities.iter().chain(own).map(|file| stamp(file)).collect()
    }
}

pub(super) fn stamp(file: &Path) -> Option<(u64, u64, i64, i64)> {
    let now = file.metadata().ok()?;
    Some((now.ino(), now.size(), now.ctime(), now.ctime_nsec()))
}

/// Builds the configuration. The files are read each time, so that renewed ones are used.
pub(super) fn config(files: &Files, words: &Words) -> Result<ClientConfig, Trouble> {
    let builder = builder().map_err(|error| Trouble::bare(error.to_string()))?;
    let builder = builder.with_root_certificates(roots(files, words)?);
    let Some((certificate, key)) = &files.own else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(words.certificate, certificate)?;
    let secret =
        PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(words.key, key, &error.to_string()))?;
    builder.with_client_auth_cert(chain, secret).map_err(|error| unusable(words.key, key, &error.to_string()))
}

/// A configuration that trusts no certificate, to test whether the other side presents one.
pub(super) fn trusting_nobody() -> Option<Arc<ClientConfig>> {
    let builder = builder().ok()?.with_root_certificates(RootCertStore::empty());
    Some(Arc::new(builder.with_no_client_auth()))
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
}

fn roots(files: &Files, words: &Words) -> Result<RootCertStore, Trouble> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = &files.authorities {
        for certificate in certificates(words.ca, file)? {
            roots.add(certificate).map_err(|error| unusable(words.ca, file, &error.to_string()))?;
        }
        return Ok(roots);
    }
    // Some of a machine's many certificates may be unreadable without harm.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(Trouble::new(
            "this machine has no certificates of authorities",
            format!("give those to trust: {}", words.authorities),
        ));
    }
    Ok(roots)
}

fn certificates(key: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, Trouble> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => {
            Err(unusable(key, file, "there is no certificate in it"))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unusable(key, file, &error.to_string())),
    }
}

fn unusable(key: &str, file: &Path, why: &str) -> Trouble {
    let remedy = "it has to be a PEM file that the agent may read";
    Trouble::new(format!("{key}: {} cannot be used: {why}", file.display()), remedy)
}
