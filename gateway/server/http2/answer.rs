//! Answers on their way to the library, and when they have ended.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::{
    Response,
    body::{Body, Bytes, Frame, SizeHint},
};

use super::{state::Open, tunnel::Switch};

/// The future of an answer.
pub(super) struct Answer<F> {
    pub future: F,
    /// None once it is there.
    pub open: Option<Open>,
    /// Of a request whose stream may become a tunnel.
    pub switch: Option<Box<Switch>>,
}

impl<B: Body, F: Future<Output = Response<B>> + Unpin> Future for Answer<F> {
    type Output = Result<Response<AnswerBody<B>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = ready!(Pin::new(&mut self.future).poll(cx));
        let mut open = self.open.take();
        if let Some(open) = &open {
            open.answered();
        }
        if let Some(switch) = self.switch.take()
            && let Some(takeover) = switch.streams.state.info.taken_over()
            && let Some(open) = open.take()
        {
            switch.take_over(open, &mut response, takeover);
        }
        Poll::Ready(Ok(response.map(|body| AnswerBody { body, open })))
    }
}

/// The body of an answer. Its end, which is when it is dropped, ends the request.
pub(super) struct AnswerBody<B> {
    body: B,
    open: Option<Open>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for AnswerBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match (&self.open, &frame) {
            (Some(open), Poll::Pending) => open.waits(),
            (Some(open), Poll::Ready(Some(Ok(frame)))) => {
                open.sends(frame.data_ref().map_or(0, Bytes::len));
            }
            _ => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
