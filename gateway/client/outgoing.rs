//! The stream to an endpoint as the HTTP client above it sees it.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use hyper::body::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

use super::{interim::Interim, transport::OwnTransport};
use crate::net::Stream;

/// Feigns success when it cannot write any more, until reading has ended: the client would give up a request whose
/// body it cannot send, and an endpoint that answers early and closes has answered.
pub(super) struct Outgoing {
    stream: Stream,
    broken: bool,
    interim: Interim,
    shared: Rc<Shared>,
}

/// What a connection and its stream tell each other.
pub(super) struct Shared {
    /// How the endpoint is spoken to.
    pub to: OwnTransport,
    /// A request is about to be sent: the next bytes are the head of an answer.
    pub expecting: Cell<bool>,
    /// Interim answers so far.
    pub interim: Cell<u64>,
    /// Nobody waits for anything on it any more, whatever is under way.
    pub closing: Cell<bool>,
    /// The task that drives the connection.
    pub driver: RefCell<Option<Waker>>,
    /// Where the stream goes when it carries no HTTP any more, with what was read too far.
    pub switched: RefCell<Option<oneshot::Sender<(Stream, Bytes)>>>,
}

impl Shared {
    pub(super) fn new(to: OwnTransport) -> Self {
        Self {
            to,
            expecting: Cell::default(),
            interim: Cell::default(),
            closing: Cell::default(),
            driver: RefCell::default(),
            switched: RefCell::default(),
        }
    }
}

impl Outgoing {
    pub(super) fn new(stream: Stream, shared: Rc<Shared>) -> Self {
        Self { stream, broken: false, interim: Interim::default(), shared }
    }

    pub(super) fn into_inner(self) -> Stream {
        self.stream
    }

    fn written(&mut self, wrote: Poll<io::Result<usize>>, len: usize) -> Poll<io::Result<usize>> {
        match wrote {
            Poll::Ready(Err(_)) => {
                self.broken = true;
                Poll::Ready(Ok(len))
            }
            wrote => wrote,
        }
    }
}

impl AsyncRead for Outgoing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, interim, shared, .. } = &mut *self;
        let before = buf.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buf))?;
        if shared.expecting.take() {
            *interim = Interim::default();
        }
        let seen = interim.count(&buf.filled()[before..]);
        if seen > 0 {
            shared.interim.set(shared.interim.get() + seen);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Outgoing {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Ok(buf.len()));
        }
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(wrote, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        if self.broken {
            return Poll::Ready(Ok(len));
        }
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(wrote, len)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken {
            return Poll::Ready(Ok(()));
        }
        // With TLS this is where what was taken before cannot be written.
        if ready!(Pin::new(&mut self.stream).poll_flush(cx)).is_err() {
            self.broken = true;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
