//! What TLS needs: whom to trust, and what to show.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::{Protocol, Settings, Trouble};

/// Reads the files, each time anew, so that what was renewed is used.
pub(super) fn config(settings: &Settings) -> Result<Arc<ClientConfig>, Trouble> {
    let builder = builder().map_err(|error| Trouble::bare(error.to_string()))?;
    let builder = builder.with_root_certificates(roots(settings)?);
    let mut config = match (&settings.client_certificate.0, &settings.client_key.0) {
        (Some(certificate), Some(key)) => {
            let (certificate, key) = (certificate.as_path(), key.as_path());
            let chain = certificates("otlp.client_certificate", certificate)?;
            let secret = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| unusable("otlp.client_key", key, &error.to_string()))?;
            builder
                .with_client_auth_cert(chain, secret)
                .map_err(|error| unusable("otlp.client_key", key, &error.to_string()))?
        }
        _ => builder.with_no_client_auth(),
    };
    let protocol: &[u8] = match settings.protocol {
        Protocol::Grpc => b"h2",
        Protocol::HttpProtobuf => b"http/1.1",
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}

/// For one who only wants to see whether the other side has a certificate.
pub(super) fn trusting_nobody() -> Option<Arc<ClientConfig>> {
    let builder = builder().ok()?.with_root_certificates(RootCertStore::empty());
    Some(Arc::new(builder.with_no_client_auth()))
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
}

fn roots(settings: &Settings) -> Result<RootCertStore, Trouble> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = &settings.certificate.0 {
        let file = file.as_path();
        for certificate in certificates("otlp.certificate", file)? {
            roots.add(certificate).map_err(|error| unusable("otlp.certificate", file, &error.to_string()))?;
        }
        return Ok(roots);
    }
    // Of a machine's many, some that cannot be read harm nothing.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(Trouble::new(
            "this machine has no certificates of authorities",
            "give those to trust: key `otlp.certificate`, or OTEL_EXPORTER_OTLP_CERTIFICATE",
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
