//! Connections of an API that has a certificate. They are TLS; without it only this host is served, as others could read the tokens of
//! everybody else.

use std::{io, net::SocketAddr, time::Duration};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy, sink},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::tls::Tls;

/// The timeout of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at once. Further connections wait.
const HANDSHAKES: usize = 256;
/// What a handshake begins with (RFC 8446, section 5.1), and no request of HTTP.
const TLS: u8 = 22;
/// Bytes of a refused request that are read, so that its sender reads the answer.
const REFUSED: u64 = 64 << 10;

/// A connection, with TLS or without.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

type Connection = (Box<dyn Stream>, SocketAddr);

/// A socket whose connections are TLS.
pub(super) struct Secured {
    listener: TcpListener,
    tls: Tls,
    opening: JoinSet<io::Result<Option<Connection>>>,
}

impl Secured {
    pub(super) fn new(listener: TcpListener, tls: Tls) -> Self {
        Self { listener, tls, opening: JoinSet::new() }
    }
}

impl Listener for Secured {
    type Io = Box<dyn Stream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Connection {
        loop {
            tokio::select! {
                Some(opened) = self.opening.join_next() => match opened {
                    Ok(Ok(Some(connection))) => return connection,
                    Ok(Ok(None)) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "ahti: no TLS connection"),
                    Err(error) => tracing::error!(%error, "ahti: a handshake crashed"),
                },
                (tcp, peer) = Listener::accept(&mut self.listener), if self.opening.len() < HANDSHAKES => {
                    let tls = self.tls.acceptor();
                    self.opening.spawn(async move {
                        timeout(HANDSHAKE, opened(tcp, peer, tls)).await.unwrap_or_else(|late| Err(late.into()))
                    });
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Opens a connection; `None` if it is refused.
async fn opened(mut tcp: TcpStream, peer: SocketAddr, tls: TlsAcceptor) -> io::Result<Option<Connection>> {
    tcp.set_nodelay(true)?;
    let mut first = [0];
    if tcp.peek(&mut first).await? == 1 && first == [TLS] {
        return Ok(Some((Box::new(tls.accept(tcp).await?), peer)));
    }
    if peer.ip().to_canonical().is_loopback() {
        return Ok(Some((Box::new(tcp), peer)));
    }
    let text =
        "this port speaks TLS: ask by https://. A token that was sent here could be read on the network\n";
    let length = text.len();
    let head = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length";
    tcp.write_all(format!("{head}: {length}\r\n\r\n{text}").as_bytes()).await?;
    tcp.shutdown().await?;
    copy(&mut tcp.take(REFUSED), &mut sink()).await?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::tls::Files;

    /// What somebody hears who sends this from there.
    async fn heard(sent: &'static [u8], from: &str) -> Option<String> {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let [cert, key_file] = ["cert", "key"].map(|name| directory.path().join(name));
        std::fs::write(&cert, certificate.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        let files = Files { section: "ahti", cert, key: key_file, client_ca: None, alpn: &[b"http/1.1"] };
        let tls = Tls::new(files).unwrap().acceptor();

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(sent).await.unwrap();
        client.shutdown().await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        let opened = opened(tcp, from.parse().unwrap(), tls).await.unwrap();
        if opened.is_some() {
            return None;
        }
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        Some(answer)
    }

    #[tokio::test]
    async fn without_tls_only_this_host_is_served() {
        let request = b"GET / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer abc\r\n\r\n";
        for from in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(heard(request, from).await, None, "{from}");
        }
        for from in ["192.0.2.1:1", "[2001:db8::1]:1"] {
            let said = heard(request, from).await.unwrap();
            assert!(said.starts_with("HTTP/1.1 400 ") && said.contains("ask by https://"), "{from}: {said}");
        }
    }
}
