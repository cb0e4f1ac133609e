//! One try of a request on one endpoint, from the moment it is sent to the head of the answer.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use http::{Request, Response};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::TrySendError,
};
use tokio::sync::oneshot;

use super::{
    RequestError,
    body::Sending,
    kept::{Kept, Spare, Timer},
};
use crate::{
    client::{Connection, DialError},
    net::Stream,
    resilience::repeatable,
    upstream::{Evidence, HalfOpenTry, InFlight, Member},
};

type Sent = Pin<Box<dyn Future<Output = Result<Response<Incoming>, TrySendError<Request<Sending>>>>>>;

/// A request that was sent to an endpoint. Resolves to the head of the answer. Dropping it closes the connection.
pub(super) struct Attempt {
    pub opened: Opened,
    pub connection: Connection<Sending>,
    pub timer: Timer,
    /// Only of requests that could be sent again: what is sent is gone otherwise.
    pub spare: Option<Box<Spare>>,
    sent: Sent,
}

/// An endpoint, and the right to try it if it is half-open.
pub(super) type Picked = (Arc<Member>, Option<HalfOpenTry>);

/// What is begun with an endpoint before there is a connection.
pub(super) struct Opened {
    pub member: Arc<Member>,
    pub in_flight: InFlight,
    pub begun: Instant,
    /// If this request is the one that tries the endpoint.
    pub trial: Option<HalfOpenTry>,
    /// Of a request that asks for another protocol.
    pub switched: Option<oneshot::Receiver<(Stream, Bytes)>>,
}

/// A try that failed, and the request if it can be tried again.
pub(super) struct Failed {
    pub failure: RequestError,
    pub again: Option<Box<Request<Sending>>>,
    /// The connection had been idle: its end says nothing about the endpoint.
    pub stale: bool,
}

impl Opened {
    pub(super) fn begin((member, trial): Picked, begun: Instant) -> Self {
        Self { in_flight: member.begin(begun), member, begun, trial, switched: None }
    }

    /// Ends it: the endpoint can be picked again as if this try had not been.
    pub(super) fn end(self) -> Arc<Member> {
        self.member
    }
}

impl Attempt {
    pub(super) fn send(
        opened: Opened,
        mut connection: Connection<Sending>,
        request: Request<Sending>,
        timer: Timer,
        kept: &Kept,
    ) -> Self {
        let has_body = matches!(request.body(), Sending::Passing { .. });
        let again = connection.reused && repeatable(request.method(), has_body);
        let spare = again.then(|| kept.spare(&request));
        let sent = Box::pin(connection.sender.try_send_request(request));
        Self { opened, connection, timer, spare, sent }
    }
}

impl Future for Attempt {
    type Output = Result<Response<Incoming>, Failed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let attempt = &mut *self;
        if let Poll::Ready(answered) = attempt.sent.as_mut().poll(cx) {
            let failed = |error| Failed::to_send(error, attempt.spare.take(), attempt.connection.reused);
            return Poll::Ready(answered.map_err(failed));
        }
        ready!(attempt.timer.poll(cx));
        Poll::Ready(Err(Failed { failure: RequestError::ResponseTimeout, again: None, stale: false }))
    }
}

impl Failed {
    pub(super) fn to_dial(error: DialError, request: Request<Sending>) -> Self {
        Self { failure: error.into(), again: Some(Box::new(request)), stale: false }
    }

    /// Sending failed. The request comes back unsent, or is sent again if the connection was an old one that may
    /// have died while it was idle.
    fn to_send(mut error: TrySendError<Request<Sending>>, spare: Option<Box<Spare>>, reused: bool) -> Self {
        let unsent = error.take_message();
        let error = error.into_error();
        if error.is_user() {
            return Self { failure: RequestError::Aborted(error), again: None, stale: false };
        }
        if error.is_parse() {
            return Self { failure: RequestError::BadAnswer(error.to_string()), again: None, stale: false };
        }
        let again = unsent.or_else(|| spare.and_then(|spare| spare.into_request())).map(Box::new);
        Self { failure: RequestError::Reset(error), again, stale: reused }
    }

    /// Whether this counts against the endpoint.
    pub(super) fn endpoint_failed(&self) -> bool {
        !self.stale && !matches!(self.failure, RequestError::Aborted(_))
    }
}

/// What a try says of the endpoint's health; nothing if its failure was the client's or the gateway's own.
pub(super) fn evidence<C>(outcome: &Result<(Response<Incoming>, C), Failed>) -> Option<Evidence> {
    let failed = match outcome {
        Ok((response, _)) if matches!(response.status().as_u16(), 502..=504) => {
            return Some(Evidence::GatewayError);
        }
        Ok(_) => return Some(Evidence::Answered),
        Err(failed) if failed.endpoint_failed() => failed,
        Err(_) => return None,
    };
    match &failed.failure {
        RequestError::Dial(error) => (!error.is_own()).then_some(Evidence::ConnectFailed),
        RequestError::ResponseTimeout => Some(Evidence::TimedOut),
        _ => Some(Evidence::Broke),
    }
}
