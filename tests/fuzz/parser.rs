//! The parser behind the framing, fed by hand. Also part of the unit tests of the framing.

use std::{
    cell::Cell,
    convert::Infallible,
    future::{Future, ready},
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use hyper::{
    Request, Response,
    body::{Body, Bytes, Frame, Incoming},
    rt::{Read, ReadBufCursor, Write},
    server::conn::http1,
    service::service_fn,
};

/// Whether the parser hands out a request when it reads these bytes, which are the head of one.
pub fn takes(head: &[u8]) -> bool {
    let taken = Cell::new(false);
    let service = service_fn(|_: Request<Incoming>| {
        taken.set(true);
        ready(Ok::<_, Infallible>(Response::new(Nothing)))
    });
    // As the gateway uses it.
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(head.len().max(8192) * 2)
        .serve_connection(Client(head), service);
    let mut connection = pin!(connection);
    let _ = connection.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    taken.get()
}

/// Sends so many bytes, then nothing; takes everything.
struct Client<'a>(&'a [u8]);

impl Read for Client<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut to: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let (now, later) = self.0.split_at(self.0.len().min(to.remaining()));
        if now.is_empty() {
            return Poll::Pending;
        }
        to.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

impl Write for Client<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// No body.
struct Nothing;

impl Body for Nothing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}
