//! One try of a request on one endpoint, from the moment it is picked to the head of the answer.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use http::{Request, Response};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::TrySendError,
};
use tokio::sync::oneshot;

use super::{spare::Spare, upload::RequestBody};
use crate::{
    client::{Connection, DialError},
    net::Stream,
    upstream::{HalfOpenTry, InFlight, Member},
};

/// An endpoint, and the right to try it if it is half-open.
pub(super) type Picked = (Arc<Member>, Option<HalfOpenTry>);

/// What is begun with an endpoint before there is a connection. Dropping it ends it: the endpoint can be picked as if
/// this try had not been.
pub(super) struct Opened {
    pub member: Arc<Member>,
    pub in_flight: InFlight,
    pub begun: Instant,
    /// If this request is the one that tries the endpoint.
    pub trial: Option<HalfOpenTry>,
}

/// A try whose connection is being made.
pub(super) struct Dialing {
    pub request: Request<RequestBody>,
    pub connection: Pin<Box<dyn Future<Output = Result<Connection<RequestBody>, DialError>>>>,
}

/// A request that was sent to an endpoint. Dropping it closes the connection.
pub(super) struct Attempt {
    pub connection: Connection<RequestBody>,
    /// Only of requests that could be sent again: what is sent is gone otherwise.
    pub spare: Option<Spare>,
    /// Of a request that asks for another protocol.
    pub switched: Option<oneshot::Receiver<(Stream, Bytes)>>,
    sent: Sent,
}

type Sent = Pin<Box<dyn Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>>>>;

impl Opened {
    pub(super) fn begin((member, trial): Picked, begun: Instant) -> Self {
        Self { in_flight: member.begin(begun), member, begun, trial }
    }
}

impl Attempt {
    /// Sends. With `upgrading` the connection is asked for, should the endpoint switch protocols.
    pub(super) fn send(
        mut connection: Connection<RequestBody>,
        request: Request<RequestBody>,
        spare: Option<Spare>,
        upgrading: bool,
    ) -> Self {
        connection.begin();
        let switched = upgrading.then(|| connection.switched());
        let sent = Box::pin(connection.sender.try_send_request(request));
        Self { connection, spare, switched, sent }
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> {
        self.sent.as_mut().poll(cx)
    }
}
