//! One try of a request on one endpoint, from the moment it is picked to the head of the answer.

use std::{
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::TrySendError,
};
use tokio::sync::oneshot;

use super::{spare::Spare, upload::RequestBody};
use crate::{
    client::{Connection, DialError, Sent},
    dispatch::Opened,
    net::Stream,
};

/// One try, as long as it has neither an answer nor an end.
pub(super) struct Try {
    pub opened: Opened,
    pub step: Step,
    /// It was begun beside the first.
    pub backup: bool,
    /// Its number in the trace of the request, if that has one.
    pub span: u16,
}

impl Try {
    /// What was sent, without its body, to be sent again. Gives it once.
    pub(super) fn request(&mut self) -> Option<Request<RequestBody>> {
        match &mut self.step {
            Step::Sent(attempt) => attempt.spare.take()?.into_request(),
            Step::Dialing(_) | Step::Over => None,
        }
    }
}

/// Where it is.
pub(super) enum Step {
    /// The endpoint has no idle connection.
    Dialing(Box<Dialing>),
    Sent(Attempt),
    Over,
}

/// The tries that have not ended.
#[derive(Default)]
pub(super) enum Tries {
    #[default]
    None,
    One(Try),
    /// Rare, and so in a box.
    Two(Box<[Try; 2]>),
}

impl Tries {
    /// The try at a place: that which began first is at 0.
    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut Try> {
        match self {
            Self::One(only) if place == 0 => Some(only),
            Self::Two(two) => two.get_mut(place),
            _ => None,
        }
    }

    /// The one that is under way for the longest.
    pub(super) fn first(&self) -> Option<&Try> {
        match self {
            Self::None => None,
            Self::One(only) => Some(only),
            Self::Two(two) => Some(&two[0]),
        }
    }

    pub(super) fn add(&mut self, new: Try) {
        if matches!(self, Self::None) {
            *self = Self::One(new);
            return;
        }
        *self = match mem::take(self) {
            Self::None => Self::One(new),
            Self::One(first) => Self::Two(Box::new([first, new])),
            // There are never more.
            two @ Self::Two(_) => two,
        };
    }

    /// That at a place is the only one from now on. Gives the other one, if there is one.
    pub(super) fn keep_only(&mut self, place: usize) -> Option<Try> {
        if !matches!(self, Self::Two(_)) {
            return None;
        }
        self.take(1 - place)
    }

    pub(super) fn take(&mut self, place: usize) -> Option<Try> {
        let (taken, rest) = match mem::take(self) {
            Self::One(only) if place == 0 => (Some(only), Self::None),
            Self::Two(two) => {
                let [first, second] = *two;
                let (taken, rest) = if place == 0 { (first, second) } else { (second, first) };
                (Some(taken), Self::One(rest))
            }
            rest => (None, rest),
        };
        *self = rest;
        taken
    }
}

/// A try whose connection is being made.
pub(super) struct Dialing {
    pub request: Request<RequestBody>,
    pub connection: Connecting,
}

/// Resolves to what the request can be sent over.
pub(super) type Connecting = Pin<Box<dyn Future<Output = Result<Connection<RequestBody>, DialError>>>>;

/// A request that was sent to an endpoint. Dropping it closes the connection.
pub(super) struct Attempt {
    pub connection: Connection<RequestBody>,
    /// Only of requests that may be sent again: what is sent is gone otherwise.
    pub spare: Option<Spare>,
    /// Of a request that asks for another protocol.
    pub switched: Option<oneshot::Receiver<(Stream, Bytes)>>,
    sent: Sent<RequestBody>,
}

impl Attempt {
    /// Sends. With `upgrading` the connection is asked for, should the endpoint switch protocols.
    pub(super) fn send(
        mut connection: Connection<RequestBody>,
        request: Request<RequestBody>,
        spare: Option<Spare>,
        upgrading: bool,
    ) -> Self {
        let switched = upgrading.then(|| connection.switched());
        let sent = connection.send(request);
        Self { connection, spare, switched, sent }
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> {
        self.sent.as_mut().poll(cx)
    }
}
