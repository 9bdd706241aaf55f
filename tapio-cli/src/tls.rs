//! TLS to a server that `--server` names.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, anyhow};
use rustls::{
    CertificateError, ClientConfig, OtherError, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{address::Address, failure::Failure};

/// Opens a connection whose other end is the host of an address, as an authority says that is trusted.
pub(crate) async fn connect(
    tcp: TcpStream,
    to: &Address,
    ca_file: Option<&Path>,
) -> Result<TlsStream<TcpStream>, Failure> {
    let roots = match ca_file {
        Some(file) => of_file(file)?,
        None => of_machine()?,
    };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("TLS cannot be set up")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(to.host.clone());
    let name = name.map_err(|_| Failure::Usage(format!("--server: {} is no name of a host", to.host)))?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    connected.map_err(|error| {
        let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        Failure::Other(match tls {
            Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) if is_authoritys(other) => anyhow!(
                "https://{}: its certificate is an authority's own, as `openssl req -x509` makes it: sign a server's certificate with \
                 it, or make it with `-addext basicConstraints=critical,CA:FALSE`",
                to.authority
            ),
            Some(rustls::Error::InvalidCertificate(_)) => anyhow!(
                "https://{}: its certificate is not accepted: {error}. --ca-file=FILE names the authorities that are trusted, and \
                 --server a name that is in the certificate",
                to.authority
            ),
            Some(rustls::Error::InvalidMessage(_)) => {
                anyhow!("https://{} does not speak TLS: is its `ahti.cert` set?", to.authority)
            }
            _ => anyhow!("https://{}: no TLS connection: {error}", to.authority),
        })
    })
}

/// Whether a certificate was refused since it is an authority's: `webpki::Error`, of a crate that only rustls uses.
fn is_authoritys(error: &OtherError) -> bool {
    format!("{error:?}").contains("CaUsedAsEndEntity")
}

fn of_file(file: &Path) -> Result<RootCertStore, Failure> {
    let unusable = || format!("--ca-file {}: give a PEM file with certificates", file.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).with_context(unusable)? {
        roots.add(certificate.with_context(unusable)?).with_context(unusable)?;
    }
    match roots.is_empty() {
        true => Err(Failure::Usage(unusable())),
        false => Ok(roots),
    }
}

/// Those that cannot be used are left out: systems have some.
fn of_machine() -> Result<RootCertStore, Failure> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (used, _) = roots.add_parsable_certificates(found.certs);
    if used == 0 {
        let why: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(Failure::Other(anyhow!(
            "this machine has no certificates of authorities: give them by --ca-file=FILE {}",
            why.join("; ")
        )));
    }
    Ok(roots)
}
