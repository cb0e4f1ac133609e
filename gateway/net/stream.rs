//! A connection as both sides of the gateway use it: TCP, or TLS on it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use super::{Meter, Sight, Tcp};

/// What stands behind HTTP. Where there is TLS, reading gives what the peer meant, and an end that it did not
/// announce is an error: somebody between may have cut it off.
pub enum Stream {
    Plain(Tcp),
    Tls(Box<TlsStream<Tcp>>),
}

impl From<Tcp> for Stream {
    fn from(tcp: Tcp) -> Self {
        Self::Plain(tcp)
    }
}

impl<T: Into<TlsStream<Tcp>>> From<T> for Stream {
    fn from(tls: T) -> Self {
        Self::Tls(Box::new(tls.into()))
    }
}

impl Stream {
    fn tcp(&self) -> &Tcp {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    /// Whether dropping it tells the peer that all has been sent, where all that came was read.
    pub fn ends_when_dropped(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// What tells of the socket while the stream is elsewhere.
    pub fn sight(&self) -> Sight {
        self.tcp().sight()
    }

    /// Counts bytes of the socket, so that what the kernel has not taken yet is seen, also while it waits in TLS.
    pub fn meter(&self) -> &Rc<Meter> {
        self.tcp().meter()
    }

    /// Has closing reset the connection, so that the peer cannot take what it has got for whole.
    pub fn reset_on_close(&self) -> io::Result<()> {
        self.tcp().reset_on_close()
    }

    /// Ready as soon as the peer has closed its sending side or reset the connection, also when bytes that it sent
    /// before are still unread. Reads nothing.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Plain(tcp) => tcp.poll_closed(cx),
            Self::Tls(tls) => tls.get_mut().0.poll_closed(cx),
        }
    }

    /// Whether bytes may be there that reading would give at once, and of which nothing wakes.
    pub fn may_have_bytes(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.may_have_bytes(),
            // TLS reads no more while it has something to give.
            Self::Tls(tls) => {
                let (tcp, session) = tls.get_ref();
                tcp.may_have_bytes() || !session.wants_read()
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
