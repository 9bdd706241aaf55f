//! The API with a certificate: REST and gRPC by TLS, with a renewed one, and without TLS from this host.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream as Blocking},
    sync::Arc,
};

use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tapio_server::ahti::proto::{self, ahti_client::AhtiClient};
use tempfile::tempdir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Endpoint, Uri};
use tower::service_fn;

use crate::{certificates::Authority, site::Site, support::wait_until};

const COVERAGE: &str = "/api/v1/coverage";

fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// What somebody says who trusts an authority.
fn trusting(authority: &Authority, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// The body of an answer by TLS, or why there is no connection.
fn get(address: SocketAddr, path: &str, config: Arc<ClientConfig>) -> Result<String, String> {
    let connection = ClientConnection::new(config, localhost()).unwrap();
    let mut stream = StreamOwned::new(connection, Blocking::connect(address).unwrap());
    let request = format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200"), "{head}");
    Ok(body.to_owned())
}

/// The same by gRPC.
async fn call(address: SocketAddr, config: Arc<ClientConfig>) -> String {
    let connector = service_fn(move |_: Uri| {
        let connector = TlsConnector::from(Arc::clone(&config));
        async move {
            let stream = connector.connect(localhost(), TcpStream::connect(address).await?).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap();
    let answer = AhtiClient::new(channel).get_coverage(proto::CoverageRequest {}).await.unwrap();
    String::from_utf8(answer.into_inner().json).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_the_same_by_tls_also_with_a_renewed_certificate() {
    let directory = tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (cert, key) = (path("tls.crt"), path("tls.key"));
    ours.issue("localhost", &cert, &key);
    let flags = [format!("--ahti-cert={}", cert.display()), format!("--ahti-key={}", key.display())];
    let site = Site::set(&flags.each_ref().map(String::as_str));
    let api = site.server.api;
    let http = ["http/1.1"];

    // Port-forwards come from this host.
    let plain = site.server.answer(COVERAGE).1;
    assert!(plain.contains("\"nodes\""), "{plain}");
    assert_eq!(get(api, COVERAGE, trusting(&ours, &http)), Ok(plain.clone()));
    assert_eq!(call(api, trusting(&ours, &["h2"])).await, plain);
    let refused = get(api, COVERAGE, trusting(&theirs, &http)).unwrap_err();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    assert!(site.server.log().contains("TLS, for everyone"), "{}", site.server.log());

    // Half of a renewal: the earlier certificate stays.
    theirs.issue("localhost", &path("other.crt"), &key);
    assert_eq!(get(api, COVERAGE, trusting(&ours, &http)), Ok(plain.clone()));
    let said = format!("ahti.key: {} is not the key of the certificate in {}", key.display(), cert.display());
    wait_until(|| site.server.log(), |log| log.contains(&said));
    fs::rename(path("other.crt"), &cert).unwrap();
    assert_eq!(get(api, COVERAGE, trusting(&theirs, &http)), Ok(plain.clone()));
    assert_eq!(call(api, trusting(&theirs, &["h2"])).await, plain);
    let refused = get(api, COVERAGE, trusting(&ours, &http)).unwrap_err();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
}
