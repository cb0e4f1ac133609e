//! One connection to an endpoint, driven by whoever waits for it.
//!
//! A task of its own for every connection would cost several wake-ups per request, each way. Instead the connection
//! moves on when its answer is polled: the socket wakes the task that waits for the answer, and nobody while the
//! connection is idle.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use http::{Request, Response};
use hyper::{
    body::{Body, Bytes, Incoming},
    client::conn::{TrySendError, http1::SendRequest},
};

use super::relay::{Flag, Relay};

/// A connection that can take a request. Dropping it closes it, unless it is detached.
pub struct Connection<B> {
    sender: SendRequest<B>,
    /// None when a task of its own drives it, and when it has ended.
    driver: Option<Box<Driver>>,
    /// Whether it has carried a request before: then it may have died unnoticed.
    pub reused: bool,
}

struct Driver {
    connection: Pin<Box<dyn Future<Output = hyper::Result<()>>>>,
    address: SocketAddr,
    /// Woken when the connection can move on.
    relay: Relay,
    /// Woken when there may be something of the answer. That happens only while the connection is driven, and then it
    /// is looked at anyway.
    arrived: Flag,
}

impl<B> Connection<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub(super) fn new(
        sender: SendRequest<B>,
        connection: impl Future<Output = hyper::Result<()>> + 'static,
        address: SocketAddr,
    ) -> Self {
        let connection = Box::pin(connection);
        let driver = Driver { connection, address, relay: Relay::new(), arrived: Flag::new() };
        Self { sender, driver: Some(Box::new(driver)), reused: false }
    }

    /// Sends a request. Waits for the head of the answer; dropping the future leaves a connection of no use.
    ///
    /// The body of the request goes only as long as somebody waits for the answer, unless the connection is detached.
    pub async fn send(
        &mut self,
        request: Request<B>,
    ) -> Result<Response<Incoming>, TrySendError<Request<B>>> {
        let mut sent = pin!(self.sender.try_send_request(request));
        if let Some(driver) = &self.driver {
            driver.relay.stir();
        }
        poll_fn(|cx| drive_for(&mut self.driver, cx, |cx| sent.as_mut().poll(cx))).await
    }

    /// Polls something that this connection brings, such as the body of an answer.
    pub fn poll_for<T>(
        &mut self,
        cx: &mut Context<'_>,
        wanted: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        drive_for(&mut self.driver, cx, wanted)
    }

    /// Gives the connection a task of its own, so that it moves on while nobody waits. Must be called inside a
    /// `LocalSet`.
    pub fn detach(&mut self) {
        if let Some(driver) = self.driver.take() {
            let Driver { connection, address, .. } = *driver;
            tokio::task::spawn_local(async move { ended(address, connection.await) });
        }
    }

    /// Whether another request can be sent.
    pub fn is_ready(&mut self) -> bool {
        self.look();
        self.sender.is_ready()
    }

    /// Whether nothing can be sent any more.
    pub fn is_closed(&mut self) -> bool {
        self.look();
        self.sender.is_closed()
    }

    /// Waits until another request can be sent; says whether that will ever be.
    pub async fn ready(&mut self) -> bool {
        self.detach();
        self.sender.ready().await.is_ok()
    }

    /// Nobody waits any more; the task that did is forgotten.
    pub(super) fn rest(&mut self) {
        if let Some(driver) = &self.driver {
            driver.relay.forget();
        }
    }

    /// Lets the connection take in what came since it was driven last.
    fn look(&mut self) {
        if self.driver.as_ref().is_some_and(|driver| driver.relay.stirred()) {
            drive(&mut self.driver);
        }
    }
}

/// How often a connection is driven before other tasks have their turn.
const ROUNDS: usize = 4;

/// Drives the connection as long as that can bring what is wanted.
fn drive_for<T>(
    slot: &mut Option<Box<Driver>>,
    cx: &mut Context<'_>,
    mut wanted: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    for _ in 0..ROUNDS {
        let Some(driver) = slot else { return wanted(cx) };
        driver.relay.hush();
        if let Poll::Ready(wanted) = driver.arrived.poll(cx, &mut wanted) {
            return Poll::Ready(wanted);
        }
        if !driver.relay.stirred() {
            driver.relay.listen(cx.waker());
            return Poll::Pending;
        }
        drive(slot);
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

fn drive(slot: &mut Option<Box<Driver>>) {
    let Some(driver) = slot else { return };
    let Driver { connection, address, relay, .. } = &mut **driver;
    if let Poll::Ready(outcome) = relay.poll(|cx| connection.as_mut().poll(cx)) {
        ended(*address, outcome);
        // With it goes what is queued in it: a request that was not sent comes back.
        *slot = None;
    }
}

fn ended(endpoint: SocketAddr, outcome: hyper::Result<()>) {
    if let Err(error) = outcome {
        tracing::debug!(%endpoint, %error, "Connection ended");
    }
}
