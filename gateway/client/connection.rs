//! Connections to endpoints.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use hyper::{
    Request, Response,
    body::{Body, Bytes, Incoming},
    client::conn::{
        TrySendError,
        http1::{self, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use super::{
    DialError, Transport,
    outgoing::{Outgoing, Shared},
    shared,
    transport::OwnTransport,
};
use crate::{
    net::{self, Meter, Sight, Stream},
    tls::Protocol,
};

/// The most that is read at once, and waits to be written, in bytes. Three to four of them are held for a client that does
/// not read.
const BUFFER: usize = 24 * 1024;

/// What can take a request: a connection of HTTP/1, which a task of its own drives until it closes, as it does when this is
/// dropped; or a stream of HTTP/2, which is reset when it is dropped before its end.
pub struct Connection<B> {
    lane: Lane<B>,
    /// How long it took to be made.
    pub took: Duration,
    /// Whether it has carried a request before: then it may have died unnoticed.
    pub reused: bool,
}

enum Lane<B> {
    Http1(Http1<B>),
    Http2(shared::Stream<B>),
}

struct Http1<B> {
    sender: SendRequest<B>,
    meter: Rc<Meter>,
    sight: Sight,
    shared: Rc<Shared>,
}

/// Resolves to the head of an answer, or to why there is none, with the request if nothing of it was sent.
pub type Sent<B> = Pin<Box<dyn Future<Output = Result<Response<Incoming>, TrySendError<Request<B>>>>>>;

impl<B: Body + 'static> Connection<B> {
    /// Sends a request.
    pub fn send(&mut self, request: Request<B>) -> Sent<B> {
        match &mut self.lane {
            Lane::Http1(http1) => {
                http1.shared.expecting.set(true);
                Box::pin(http1.sender.try_send_request(request))
            }
            Lane::Http2(stream) => Box::pin(stream.sender().try_send_request(request)),
        }
    }
}

impl<B> Connection<B> {
    pub(super) fn shared(stream: shared::Stream<B>) -> Self {
        Self { took: stream.took(), reused: stream.is_reused(), lane: Lane::Http2(stream) }
    }

    /// Whether others use the connection behind it, which speaks HTTP/2.
    pub fn is_shared(&self) -> bool {
        matches!(self.lane, Lane::Http2(_))
    }

    /// What goes through it.
    pub fn meter(&self) -> &Rc<Meter> {
        match &self.lane {
            Lane::Http1(http1) => &http1.meter,
            Lane::Http2(stream) => stream.meter(),
        }
    }

    /// The stream, once the endpoint has switched protocols. Fails when the connection ends before that. To be asked
    /// for before the request is sent.
    pub fn switched(&self) -> oneshot::Receiver<(Stream, Bytes)> {
        let (sender, receiver) = oneshot::channel();
        if let Lane::Http1(http1) = &self.lane {
            http1.shared.switched.replace(Some(sender));
        }
        receiver
    }

    /// How many interim answers came since this was asked last.
    pub fn interim(&self) -> u64 {
        match &self.lane {
            Lane::Http1(http1) => http1.shared.interim.take(),
            Lane::Http2(_) => 0,
        }
    }

    /// Closes it at once. Dropping it closes it as well, but not while the endpoint takes nothing of a request that it
    /// has answered already.
    pub fn close(self) {
        let Lane::Http1(Http1 { shared, .. }) = &self.lane else { return };
        shared.closing.set(true);
        if let Some(driver) = shared.driver.take() {
            driver.wake();
        }
    }

    /// A request on it failed in a way that says that nobody else should use it.
    pub fn leave(&self) {
        if let Lane::Http2(stream) = &self.lane {
            stream.leave();
        }
    }

    /// Whether it can carry another request.
    pub fn is_ready(&self) -> bool {
        matches!(&self.lane, Lane::Http1(http1) if http1.sender.is_ready())
    }

    /// Whether it can carry none any more.
    pub fn is_closed(&self) -> bool {
        match &self.lane {
            Lane::Http1(http1) => http1.sender.is_closed(),
            Lane::Http2(_) => true,
        }
    }

    /// Waits until it can carry another request. Says whether it will.
    pub async fn ready(&mut self) -> bool {
        match &mut self.lane {
            Lane::Http1(http1) => http1.sender.ready().await.is_ok(),
            Lane::Http2(_) => false,
        }
    }

    /// How its endpoint is spoken to, if it is one of HTTP/1.
    pub(super) fn transport(&self) -> Option<Transport<'_>> {
        match &self.lane {
            Lane::Http1(http1) => Some(http1.shared.to.lend()),
            Lane::Http2(_) => None,
        }
    }

    /// Looks once more whether an idle connection is still one: the endpoint may have closed it a moment ago. A call
    /// into the kernel.
    pub(super) fn is_stale(&self) -> bool {
        matches!(&self.lane, Lane::Http1(http1) if http1.sight.stirs())
    }
}

/// Connects, within `limit`, for whatever is spoken.
pub fn open(to: Transport<'_>, limit: Duration) -> impl Future<Output = Result<Stream, DialError>> + use<> {
    let to = to.to_own();
    async move { to.open(limit, Protocol::Any).await }
}

/// Connects, for HTTP/1. Must be called where `spawn_local` works.
pub fn dial<B>(
    to: Transport<'_>,
    limit: Duration,
) -> impl Future<Output = Result<Connection<B>, DialError>> + use<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    make(to.to_own(), limit)
}

async fn make<B>(to: OwnTransport, limit: Duration) -> Result<Connection<B>, DialError>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (address, began) = (to.address, Instant::now());
    let stream = to.open(limit, Protocol::Http1).await?;
    let took = began.elapsed();
    let (meter, sight, shared) = (stream.meter().clone(), stream.sight(), Rc::new(Shared::new(to)));
    let (sender, mut driver) = http1::Builder::new()
        // What is read ahead for a client that does not read, and the longest head of an answer.
        .max_buf_size(BUFFER)
        .handshake(TokioIo::new(Outgoing::new(stream, shared.clone())))
        .await
        .map_err(|error| DialError::Failed { address, error: Arc::new(io::Error::other(error)) })?;
    let steered = shared.clone();
    tokio::task::spawn_local(net::guarded("connection to an endpoint", async move {
        let driven = poll_fn(|cx| {
            if steered.closing.get() {
                return Poll::Ready(Ok(()));
            }
            steered.driver.borrow_mut().get_or_insert_with(|| cx.waker().clone());
            driver.poll_without_shutdown(cx)
        });
        match driven.await {
            Ok(()) => {
                if let Some(switched) = steered.switched.take() {
                    let parts = driver.into_parts();
                    // Nobody waits for it any more: it closes.
                    let _ = switched.send((parts.io.into_inner().into_inner(), parts.read_buf));
                }
            }
            Err(error) => tracing::debug!(endpoint = %address, %error, "Connection ended"),
        }
    }));
    Ok(Connection { lane: Lane::Http1(Http1 { sender, meter, sight, shared }), took, reused: false })
}
