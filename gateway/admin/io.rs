//! The bytes of one connection: noted as they are read, and not waited for without end.

use std::{
    future::Future,
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::roster::Client;
use crate::net::Wire;

/// A client that does not read has so long to take at least so many bytes of its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const LEAST_PROGRESS: usize = 16 * 1024;

pub(super) struct Io {
    stream: Box<dyn Wire>,
    client: Arc<Client>,
    /// While the kernel takes no more: until when the client has to go on.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Taken since that wait began.
    progress: usize,
}

impl Io {
    pub(super) fn new(stream: Box<dyn Wire>, client: Arc<Client>) -> Self {
        Self { stream, client, stalled: None, progress: 0 }
    }

    fn wrote(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match wrote {
            Poll::Ready(Ok(bytes)) => {
                self.client.read(bytes);
                self.progress = self.progress.saturating_add(bytes);
                // What is left of a wait must not shorten that of the next answer.
                if self.progress >= LEAST_PROGRESS || self.client.has_read() {
                    self.stalled = None;
                }
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(error) => Poll::Ready(error),
            Poll::Pending => {
                if self.stalled.is_none() {
                    self.progress = 0;
                }
                let until = || Box::pin(sleep_until(Instant::now() + WRITE_TIMEOUT));
                match self.stalled.get_or_insert_with(until).as_mut().poll(cx) {
                    Poll::Ready(()) => {
                        let text = format!("the client did not read its answer within {WRITE_TIMEOUT:?}");
                        Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, text)))
                    }
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
