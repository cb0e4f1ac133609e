//! What a client sends and takes after HTTP: bytes, over its connection or over one stream of it.

use std::{
    future::{Future, pending},
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::http2::Tunnel;
use crate::net::Stream;

/// Dropping it closes it. What was written before that arrives.
pub enum Upgraded {
    Connection(Stream),
    Stream(Tunnel),
}

impl Upgraded {
    /// Has dropping it break it off, so that the client cannot take what it has got for whole.
    pub fn reset(&self) {
        match self {
            // It is closed in any case.
            Self::Connection(stream) => drop(stream.reset_on_close()),
            Self::Stream(tunnel) => tunnel.reset(),
        }
    }

    /// Waits until the client has broken it off, where reading and writing do not tell.
    pub fn is_reset(&self) -> impl Future<Output = ()> + use<> {
        let stream = match self {
            Self::Connection(_) => None,
            Self::Stream(tunnel) => Some(tunnel.is_reset()),
        };
        async move {
            match stream {
                Some(reset) => reset.await,
                None => pending().await,
            }
        }
    }
}

impl AsyncRead for Upgraded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Connection(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Stream(tunnel) => Pin::new(tunnel).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Connection(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Stream(tunnel) => Pin::new(tunnel).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Connection(stream) => Pin::new(stream).poll_flush(cx),
            Self::Stream(tunnel) => Pin::new(tunnel).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Connection(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Stream(tunnel) => Pin::new(tunnel).poll_shutdown(cx),
        }
    }
}
