//! A connection from a sink to its destination, with or without TLS. It remembers the first bytes received,
//! so that it can explain failures: both remote sinks report the same failure in the same words.

mod grpc;
mod proxy;
mod sniffing;
mod tls;
mod token;
mod trouble;
mod words;

use std::{
    error::Error,
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Uri, uri::Scheme};
use http_body_util::Full;
use hyper::{
    body::Bytes,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustix::net::sockopt;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::Status;

use sniffing::{PeerProtocol, Sniffed, Sniffer};
use trouble::of_tls;

pub(super) use grpc::{Failed, Grpc};
pub(super) use tls::{Files, Stamps};
pub use trouble::{About, Trouble};
pub(super) use words::{Words, bare};

/// The agent's user agent.
pub(super) const AGENT: &str = concat!("tapio/", env!("CARGO_PKG_VERSION"));
/// How long a broken connection may take to deliver the reason.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The destination of connections, and how to make them.
#[derive(Debug)]
pub(super) struct Target {
    /// The endpoint without secrets, for messages.
    pub(super) endpoint: String,
    /// A host name or an address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Host and port as the user wrote them.
    pub(super) authority: String,
    /// The request path.
    pub(super) path: String,
    /// The files for TLS; `None` without TLS.
    pub(super) tls: Option<Files>,
    /// The file with the token for gRPC, if one is sent.
    pub(super) token: Option<PathBuf>,
    /// The timeout for a connection, including name resolution.
    pub(super) within: Duration,
    /// The interval of keep-alive pings, and the timeout of each; `None` sends none.
    pub(super) keep_alive: Option<Duration>,
    pub(super) words: &'static Words,
}

/// The driver and the protocol sniffer of a connection. Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Link {
    version: Version,
    driver: Option<JoinHandle<Result<(), hyper::Error>>>,
    sniffed: Arc<Mutex<Sniffed>>,
}

/// Why a connection broke.
pub(super) type Cause = Box<dyn Error + Send + Sync>;

/// The version of HTTP in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    /// HTTP/2, for gRPC.
    Http2,
    Http1,
}

/// A byte stream, with or without TLS.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<I: AsyncRead + AsyncWrite + Send + Unpin> Io for I {}

/// A byte stream that HTTP uses.
type SniffedIo = TokioIo<Sniffer<Box<dyn Io>>>;

impl Target {
    /// Checks that the files for TLS can be used now. Logs a proxy that the environment names.
    pub(super) fn check(&self) -> Result<(), Trouble> {
        if let Some(variable) = self.ignored_proxy() {
            tracing::warn!(
                endpoint = self.endpoint,
                "{variable} is set and not used: Tapio connects without a proxy"
            );
        }
        token::header(self.token.as_deref())?;
        self.tls.iter().try_for_each(|files| tls::config(files, self.words).map(drop))
    }

    /// The variable that names a proxy for this connection, which is made without one.
    fn ignored_proxy(&self) -> Option<&'static str> {
        proxy::variable(self.tls.is_some(), &self.host, |name| std::env::var(name).ok())
    }

    /// The stamps of the TLS files as they are now.
    pub(super) fn stamps(&self) -> Stamps {
        let of_token = self.token.iter().map(|file| tls::stamp(file));
        self.tls.iter().flat_map(Files::stamps).chain(of_token).collect()
    }

    /// Connects for gRPC.
    pub(super) async fn grpc(&self) -> Result<(Grpc, Link), Trouble> {
        let token = token::header(self.token.as_deref())?;
        let (io, sniffed) = self.open(Version::Http2).await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        if let Some(keep_alive) = self.keep_alive {
            builder.timer(TokioTimer::new());
            builder.keep_alive_interval(keep_alive).keep_alive_timeout(keep_alive);
            builder.keep_alive_while_idle(true);
        }
        let (sender, connection) = builder.handshake(io).await.map_err(|error| no_connection(&error))?;
        let link = Link { version: Version::Http2, driver: Some(tokio::spawn(connection)), sniffed };
        Ok((Grpc::new(sender, self.origin()?, token), link))
    }

    /// Connects for HTTP/1.
    pub(super) async fn http1(&self) -> Result<(http1::SendRequest<Full<Bytes>>, Link), Trouble> {
        let (io, sniffed) = self.open(Version::Http1).await?;
        let (sender, connection) = http1::handshake(io).await.map_err(|error| no_connection(&error))?;
        Ok((sender, Link { version: Version::Http1, driver: Some(tokio::spawn(connection)), sniffed }))
    }

    /// Why a gRPC call on a connection failed.
    pub(super) async fn explain(&self, link: Link, status: Status) -> Trouble {
        match Failed::from(status) {
            Failed::Said(status) => Trouble::of_grpc(&status, self),
            Failed::Other(head) if head.status.is_success() => {
                Trouble::stranger("gRPC", "a server of HTTP/2 that knows no gRPC")
            }
            Failed::Other(head) => Trouble::of_status(head.status.as_u16(), "", self),
            Failed::Broken(error) => self.diagnose(link, error).await,
        }
    }

    /// Why a connection broke while it took a request.
    pub(super) async fn diagnose(&self, mut broken: Link, error: Cause) -> Trouble {
        // The connection's error is more precise than the request's.
        let last = match broken.driver.take() {
            Some(driver) => timeout(LAST_WORDS, driver).await.ok().and_then(Result::ok).and_then(Result::err),
            None => None,
        };
        let sniffed = Sniffed::take(&broken.sniffed);
        let protocol = sniffed.protocol();
        // Most TLS servers just close a connection without TLS.
        if protocol == PeerProtocol::Nothing && self.tls.is_none() && self.speaks_tls().await {
            return Trouble::plain_to_tls(self);
        }
        if let Some(error) = sniffed.tls {
            return Trouble::tls(&error, self);
        }
        let error = last.map_or(error, Cause::from);
        Trouble::broken(&*error, protocol, broken.version, self)
    }

    /// Tests whether the server uses TLS by a handshake. No certificate is trusted: a server that presents
    /// one at all uses TLS.
    pub(super) async fn speaks_tls(&self) -> bool {
        let shown = async {
            let name = ServerName::try_from(self.host.clone()).ok()?;
            let tcp = self.tcp().await.ok()?;
            let error = TlsConnector::from(tls::trusting_nobody()?).connect(name, tcp).await.err()?;
            of_tls(&error).map(|error| matches!(error, rustls::Error::InvalidCertificate(_)))
        };
        timeout(LAST_WORDS, shown).await.ok().flatten().unwrap_or(false)
    }

    /// Scheme and authority of requests.
    fn origin(&self) -> Result<Uri, Trouble> {
        let scheme = if self.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let origin = Uri::builder().scheme(scheme).authority(self.authority.as_str()).path_and_query("/");
        origin.build().map_err(|error| no_connection(&error))
    }

    async fn open(&self, version: Version) -> Result<(SniffedIo, Arc<Mutex<Sniffed>>), Trouble> {
        let opened = timeout(self.within, self.stream(version)).await;
        let (sniffer, sniffed) = Sniffer::new(opened.map_err(|_| Trouble::no_answer(self.within))??);
        Ok((TokioIo::new(sniffer), sniffed))
    }

    async fn stream(&self, version: Version) -> Result<Box<dyn Io>, Trouble> {
        let tcp = self.tcp().await.map_err(|error| Trouble::unreachable(&error, self))?;
        Ok(match &self.tls {
            Some(files) => Box::new(self.handshake(tls::config(files, self.words)?, version, tcp).await?),
            None => Box::new(tcp),
        })
    }

    /// Tries the addresses that the name currently has, one after another, each for its share of the time.
    async fn tcp(&self) -> io::Result<TcpStream> {
        let addresses: Vec<_> = lookup_host((self.host.as_str(), self.port)).await?.collect();
        // One more share is for the TLS handshake.
        let share = self.within / u32::try_from(addresses.len() + 1).unwrap_or(u32::MAX);
        let mut why = io::Error::other("its name has no address");
        for address in addresses {
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => return self.prepared(tcp),
                Ok(Err(error)) => why = error,
                Err(_) => why = io::Error::other(format!("{address} does not answer within {share:?}")),
            }
        }
        Err(why)
    }

    fn prepared(&self, tcp: TcpStream) -> io::Result<TcpStream> {
        tcp.set_nodelay(true)?;
        if let Some(keep_alive) = self.keep_alive {
            sockopt::set_socket_keepalive(&tcp, true)?;
            sockopt::set_tcp_keepidle(&tcp, keep_alive)?;
        }
        Ok(tcp)
    }

    async fn handshake(
        &self,
        mut config: ClientConfig,
        version: Version,
        tcp: TcpStream,
    ) -> Result<TlsStream<TcpStream>, Trouble> {
        config.alpn_protocols = vec![version.alpn().to_vec()];
        let name = ServerName::try_from(self.host.clone()).map_err(|_| {
            Trouble::bare(format!("`{}` is no name that a certificate can be for", self.host))
        })?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
        let stream = stream.map_err(|error| Trouble::handshake(&error, self))?;
        match (version, stream.get_ref().1.alpn_protocol()) {
            (Version::Http2, Some(agreed)) if agreed != version.alpn() => Err(Trouble::http1_only(self)),
            _ => Ok(stream),
        }
    }
}

impl Version {
    /// The protocol's name in ALPN.
    const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http2 => b"h2",
            Self::Http1 => b"http/1.1",
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(driver) = &self.driver {
            driver.abort();
        }
    }
}

fn no_connection(error: &dyn Error) -> Trouble {
    Trouble::bare(format!("no connection: {error}"))
}
