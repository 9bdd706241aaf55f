//! Protocol sniffing: records the first bytes received on a connection, and how its TLS ended.

use std::{
    io, mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::trouble::of_tls;

/// The most bytes that [`PeerProtocol::of`] uses: the head of an HTTP/2 frame, RFC 9113, section 4.1.
const FIRST_BYTES: usize = 9;

/// The protocol that the other side used first on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerProtocol {
    Nothing,
    Http1,
    Http2,
    Tls,
    Other,
}

/// What was received on a connection, as far as it helps to explain its end.
#[derive(Debug, Default)]
pub(super) struct Sniffed {
    first: Vec<u8>,
    /// The TLS error. hyper would turn it into text.
    pub(super) tls: Option<rustls::Error>,
}

/// A stream whose first bytes are recorded.
pub(super) struct Sniffer<I> {
    io: I,
    sniffed: Arc<Mutex<Sniffed>>,
    /// A write error, which is returned once the other side's last bytes have been read.
    broken: Option<io::Error>,
}

impl PeerProtocol {
    fn of(first: &[u8]) -> Self {
        /// SETTINGS, the first frame of an HTTP/2 server: RFC 9113, section 6.5.
        const SETTINGS: u8 = 4;
        match first {
            [] => Self::Nothing,
            [b'H', b'T', b'T', b'P', b'/', ..] => Self::Http1,
            // A TLS alert or handshake: RFC 8446, section 5.1.
            [0x15 | 0x16, 3, ..] => Self::Tls,
            [_, _, _, SETTINGS, _, 0, 0, 0, 0] => Self::Http2,
            _ => Self::Other,
        }
    }
}

impl Sniffed {
    pub(super) fn protocol(&self) -> PeerProtocol {
        PeerProtocol::of(&self.first)
    }

    /// Takes what was recorded so far.
    pub(super) fn take(sniffed: &Mutex<Self>) -> Self {
        mem::take(&mut *sniffed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<I> Sniffer<I> {
    pub(super) fn new(io: I) -> (Self, Arc<Mutex<Sniffed>>) {
        let sniffed = Arc::default();
        (Self { io, sniffed: Arc::clone(&sniffed), broken: None }, sniffed)
    }
}

impl<I: AsyncRead + Unpin> Sniffer<I> {
    /// Handles the result of a write. After a failure, bytes that the other side sent before may still be
    /// unread, so the error waits until something can be read, even if only the end of the stream.
    fn written<T>(&mut self, cx: &mut Context<'_>, written: io::Result<T>) -> Poll<io::Result<T>> {
        let error = match written {
            Ok(done) => return Poll::Ready(Ok(done)),
            Err(error) => error,
        };
        let mut bytes = [0; FIRST_BYTES];
        let has_sniffed = !self.sniffed.lock().unwrap_or_else(PoisonError::into_inner).first.is_empty();
        if has_sniffed || Pin::new(&mut *self).poll_read(cx, &mut ReadBuf::new(&mut bytes)).is_ready() {
            return Poll::Ready(Err(error));
        }
        self.broken = Some(error);
        Poll::Pending
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Sniffer<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buffer));
        let mut sniffed = self.sniffed.lock().unwrap_or_else(PoisonError::into_inner);
        match &read {
            Ok(()) => {
                let room = FIRST_BYTES - sniffed.first.len();
                sniffed.first.extend(buffer.filled().iter().skip(before).take(room));
            }
            Err(error) => sniffed.tls = of_tls(error).cloned().or(sniffed.tls.take()),
        }
        Poll::Ready(read)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Sniffer<I> {
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
