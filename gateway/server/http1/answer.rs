//! Answers on their way to the parser: what the head says of the connection, and when the body has ended.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use hyper::{
    Response, StatusCode, Version,
    body::{Body, Bytes, Frame, SizeHint},
    header::{CONNECTION, HeaderValue},
};

use super::state::State;
use crate::server::spread::Begun;

/// The future of an answer. Not an `async` block, which would hold the other future twice and be moved with it.
pub(super) struct Answer<'a, F> {
    pub future: F,
    pub state: &'a Rc<State>,
    /// That of the request.
    pub version: Version,
    /// None once the answer is there.
    pub begun: Option<Begun>,
}

impl<B: Body, F: Future<Output = Response<B>> + Unpin> Future for Answer<'_, F> {
    type Output = Result<Response<AnswerBody<B>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = ready!(Pin::new(&mut self.future).poll(cx));
        let state = self.state;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            state.switches();
        } else {
            let until_close = self.version < Version::HTTP_11 && !has_known_length(response.body());
            if until_close {
                state.answers_until_close();
            }
            if until_close || state.is_last() {
                last(&mut response, self.version);
            }
        }
        let state = state.clone();
        let begun = self.begun.take();
        Poll::Ready(Ok(response.map(|body| AnswerBody { body, state, broken: false, _begun: begun })))
    }
}

/// Clients before HTTP/1.1 know no chunks.
fn has_known_length(body: &impl Body) -> bool {
    body.is_end_stream() || body.size_hint().exact().is_some()
}

/// Says that the connection closes after this answer, and has the parser do so.
fn last<B>(response: &mut Response<B>, version: Version) {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    if version < Version::HTTP_11 {
        // The parser would promise `keep-alive` beside it.
        *response.version_mut() = Version::HTTP_10;
    }
}

/// The body of an answer. Its end, which is when it is dropped, ends the request.
pub(super) struct AnswerBody<B> {
    body: B,
    state: Rc<State>,
    /// It broke off: the connection ends with it.
    broken: bool,
    _begun: Option<Begun>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for AnswerBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        // The parser would pile up what the client does not read. It polls again when the client does.
        if self.state.info.meter.is_blocked() {
            return Poll::Pending;
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.broken |= matches!(frame, Some(Err(_)));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for AnswerBody<B> {
    fn drop(&mut self) {
        if !self.broken {
            self.state.answered();
        }
    }
}
