//! Listening in on a connection: what was said first on it, and how its TLS ended.

use std::{
    io, mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::trouble::of_tls;

/// The longest that [`Spoke::of`] looks at: the head of an HTTP/2 frame, RFC 9113, section 4.1.
const FIRST_BYTES: usize = 9;

/// What the other side said first on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoke {
    Nothing,
    Http1,
    Http2,
    Tls,
    Other,
}

/// What came over a connection, as far as it helps to explain its end.
#[derive(Debug, Default)]
pub(super) struct Heard {
    first: Vec<u8>,
    /// HTTP/2 makes a text of it.
    pub(super) tls: Option<rustls::Error>,
}

/// A stream that is listened in on.
pub(super) struct Hearing<I> {
    io: I,
    heard: Arc<Mutex<Heard>>,
    /// Nothing more can be written, which is reported once it is known what was said before.
    broken: Option<io::Error>,
}

impl Spoke {
    fn of(first: &[u8]) -> Self {
        /// RFC 9113, section 6.5: what a server's side of HTTP/2 begins with.
        const SETTINGS: u8 = 4;
        match first {
            [] => Self::Nothing,
            [b'H', b'T', b'T', b'P', b'/', ..] => Self::Http1,
            // An alert or a handshake, RFC 8446, section 5.1.
            [0x15 | 0x16, 3, ..] => Self::Tls,
            [_, _, _, SETTINGS, _, 0, 0, 0, 0] => Self::Http2,
            _ => Self::Other,
        }
    }
}

impl Heard {
    pub(super) fn spoke(&self) -> Spoke {
        Spoke::of(&self.first)
    }

    /// Takes what was heard so far.
    pub(super) fn take(heard: &Mutex<Self>) -> Self {
        mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<I> Hearing<I> {
    pub(super) fn new(io: I) -> (Self, Arc<Mutex<Heard>>) {
        let heard = Arc::default();
        (Self { io, heard: Arc::clone(&heard), broken: None }, heard)
    }
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
