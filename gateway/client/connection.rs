//! Connections to endpoints.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use hyper::{
    body::{Body, Bytes},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use super::{
    DialError, connect,
    outgoing::{Outgoing, Shared},
};
use crate::net::{self, Meter, Sight, Stream};

/// The most that is read at once, and waits to be written, in bytes. Three to four of them are held for a client that does
/// not read.
const BUFFER: usize = 24 * 1024;

/// A connection that can take a request. A task of its own drives it until it closes, which it does when this is
/// dropped.
pub struct Connection<B> {
    pub sender: SendRequest<B>,
    /// What goes through it.
    pub meter: Rc<Meter>,
    /// How long it took to be made.
    pub took: Duration,
    /// Whether it has carried a request before: then it may have died unnoticed.
    pub reused: bool,
    sight: Sight,
    shared: Rc<Shared>,
}

impl<B> Connection<B> {
    /// Says that a request is about to be sent.
    pub fn begin(&self) {
        self.shared.expecting.set(true);
    }

    /// The stream, once the endpoint has switched protocols. Fails when the connection ends before that. To be asked
    /// for before the request is sent.
    pub fn switched(&self) -> oneshot::Receiver<(Stream, Bytes)> {
        let (sender, receiver) = oneshot::channel();
        self.shared.switched.replace(Some(sender));
        receiver
    }

    /// How many interim answers came since this was asked last.
    pub fn interim(&self) -> u64 {
        self.shared.interim.take()
    }

    /// Closes it at once. Dropping it closes it as well, but not while the endpoint takes nothing of a request that it
    /// has answered already.
    pub fn close(self) {
        self.shared.closing.set(true);
        if let Some(driver) = self.shared.driver.take() {
            driver.wake();
        }
    }

    /// Looks once more whether an idle connection is still one: the endpoint may have closed it a moment ago. A call
    /// into the kernel.
    pub(super) fn is_stale(&self) -> bool {
        self.sight.stirs()
    }
}

/// Connects, for HTTP. Must be called where `spawn_local` works.
pub async fn dial<B>(address: SocketAddr, limit: Duration) -> Result<Connection<B>, DialError>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let began = Instant::now();
    let stream = Stream::new(connect(address, limit).await?);
    let took = began.elapsed();
    let (meter, sight, shared) = (stream.meter().clone(), stream.sight(), Rc::<Shared>::default());
    let (sender, mut driver) = http1::Builder::new()
        // What is read ahead for a client that does not read, and the longest head of an answer.
        .max_buf_size(BUFFER)
        .handshake(TokioIo::new(Outgoing::new(stream, shared.clone())))
        .await
        .map_err(|error| DialError::Failed { address, error: io::Error::other(error) })?;
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
    Ok(Connection { sender, meter, took, reused: false, sight, shared })
}
