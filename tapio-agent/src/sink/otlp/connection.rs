//! A connection to a receiver, with or without TLS, that remembers what was said first on it.

use std::{
    error::Error,
    io, mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    body::Bytes,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    Endpoint, Protocol, Settings, tls,
    trouble::{FIRST_BYTES, Spoke, Trouble, of_tls},
};

/// How long a broken connection may take to say why it broke.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Where to connect to, and how.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) endpoint: Endpoint,
    pub(super) tls: bool,
}

/// One connection; dropping it ends it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: Sender,
    driver: Option<JoinHandle<Result<(), hyper::Error>>>,
    heard: Arc<Mutex<Heard>>,
}

/// What takes requests.
#[derive(Debug)]
pub(super) enum Sender {
    Grpc(http2::SendRequest<tonic::body::Body>),
    Http(http1::SendRequest<Full<Bytes>>),
}

/// Why a connection broke.
pub(super) type Cause = Box<dyn Error + Send + Sync>;

/// What came over a connection, as far as it helps to explain its end.
#[derive(Debug, Default)]
struct Heard {
    first: Vec<u8>,
    /// HTTP/2 makes a text of it.
    tls: Option<rustls::Error>,
}

impl Target {
    /// `None` where the sink is off.
    pub(super) fn of(settings: &Settings) -> Option<Self> {
        let endpoint = settings.endpoint.0.clone()?;
        let tls = endpoint.is_tls().unwrap_or(settings.insecure == super::Switch::False);
        Some(Self { endpoint, tls })
    }

    /// Connects.
    pub(super) async fn open(&self, settings: &Settings) -> Result<Connection, Trouble> {
        let tcp = self.tcp().await.map_err(|error| Trouble::unreachable(&error))?;
        if self.tls {
            speak(self.handshake(settings, tcp).await?, settings.protocol).await
        } else {
            speak(tcp, settings.protocol).await
        }
        .map_err(|error| Trouble::bare(format!("no connection: {error}")))
    }

    /// Why a connection that failed to take a request broke.
    pub(super) async fn diagnose(
        &self,
        settings: &Settings,
        mut broken: Connection,
        error: Cause,
    ) -> Trouble {
        // The connection knows more than the request does.
        let last = match broken.driver.take() {
            Some(driver) => timeout(LAST_WORDS, driver).await.ok().and_then(Result::ok).and_then(Result::err),
            None => None,
        };
        let heard = mem::take(&mut *broken.heard.lock().unwrap_or_else(PoisonError::into_inner));
        let spoke = Spoke::of(&heard.first);
        // Most servers with TLS just hang up on one who speaks without.
        if spoke == Spoke::Nothing && !self.tls && self.speaks_tls().await {
            return Trouble::plain_to_tls(&self.endpoint);
        }
        if let Some(error) = heard.tls {
            return Trouble::tls(&error, &self.endpoint);
        }
        let error = last.map_or(error, Cause::from);
        Trouble::broken(&*error, spoke, settings.protocol, self.tls, &self.endpoint)
    }

    /// Asks by doing. Nobody is believed: who is asked for a certificate and shows one speaks TLS.
    pub(super) async fn speaks_tls(&self) -> bool {
        let shown = async {
            let name = ServerName::try_from(self.endpoint.host().to_owned()).ok()?;
            let tcp = self.tcp().await.ok()?;
            let error = TlsConnector::from(tls::trusting_nobody()?).connect(name, tcp).await.err()?;
            of_tls(&error).map(|error| matches!(error, rustls::Error::InvalidCertificate(_)))
        };
        timeout(LAST_WORDS, shown).await.ok().flatten().unwrap_or(false)
    }

    async fn tcp(&self) -> io::Result<TcpStream> {
        let tcp = TcpStream::connect((self.endpoint.host(), self.endpoint.port(self.tls))).await?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }

    async fn handshake(
        &self,
        settings: &Settings,
        tcp: TcpStream,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Trouble> {
        let host = self.endpoint.host().to_owned();
        let name = ServerName::try_from(host).map_err(|_| {
            Trouble::bare(format!("`{}` is no name that a certificate can be for", self.endpoint.host()))
        })?;
        let stream = TlsConnector::from(tls::config(settings)?).connect(name, tcp).await;
        let stream = stream.map_err(|error| Trouble::handshake(&error, &self.endpoint))?;
        match (settings.protocol, stream.get_ref().1.alpn_protocol()) {
            (Protocol::Grpc, Some(agreed)) if agreed != b"h2" => Err(Trouble::http1_only()),
            _ => Ok(stream),
        }
    }
}

impl Connection {
    /// Whether it surely takes nothing more.
    pub(super) fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Grpc(sender) => sender.is_closed(),
            Sender::Http(sender) => sender.is_closed(),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(driver) = &self.driver {
            driver.abort();
        }
    }
}

async fn speak<I>(io: I, protocol: Protocol) -> Result<Connection, hyper::Error>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let heard = Arc::default();
    let io = TokioIo::new(Hearing { io, heard: Arc::clone(&heard), broken: None });
    let (sender, driver) = match protocol {
        Protocol::Grpc => {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            (Sender::Grpc(sender), tokio::spawn(connection))
        }
        Protocol::HttpProtobuf => {
            let (sender, connection) = http1::handshake(io).await?;
            (Sender::Http(sender), tokio::spawn(connection))
        }
    };
    Ok(Connection { sender, driver: Some(driver), heard })
}

/// A stream that is listened in on.
struct Hearing<I> {
    io: I,
    heard: Arc<Mutex<Heard>>,
    /// Nothing more can be written, which is told once it is known what was said before.
    broken: Option<io::Error>,
}

impl<I: AsyncRead + Unpin> Hearing<I> {
    /// What came of writing. Where it failed, what the other side said before that may not have been read yet; then
    /// something can be read, if only the end.
    fn written<T>(&mut self, cx: &mut Context<'_>, written: io::Result<T>) -> Poll<io::Result<T>> {
        let error = match written {
            Ok(done) => return Poll::Ready(Ok(done)),
            Err(error) => error,
        };
        let mut bytes = [0; FIRST_BYTES];
        let has_heard = !self.heard.lock().unwrap_or_else(PoisonError::into_inner).first.is_empty();
        if has_heard || Pin::new(&mut *self).poll_read(cx, &mut ReadBuf::new(&mut bytes)).is_ready() {
            return Poll::Ready(Err(error));
        }
        self.broken = Some(error);
        Poll::Pending
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Hearing<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buffer));
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        match &read {
            Ok(()) => {
                let room = FIRST_BYTES - heard.first.len();
                heard.first.extend(buffer.filled().iter().skip(before).take(room));
            }
            Err(error) => heard.tls = of_tls(error).cloned().or(heard.tls.take()),
        }
        Poll::Ready(read)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Hearing<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match self.broken.take() {
            Some(error) => Err(error),
            None => ready!(Pin::new(&mut self.io).poll_write(cx, bytes)),
        };
        self.written(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match self.broken.take() {
            Some(error) => Err(error),
            None => ready!(Pin::new(&mut self.io).poll_flush(cx)),
        };
        self.written(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
