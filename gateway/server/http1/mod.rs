//! HTTP/1 on a stream: requests come one after the other, and so do their answers.
//!
//! Bytes of a client reach the parser only through `head_filter`, which validates every head.

mod answer;
mod head_filter;
mod state;

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use hyper::{
    Request, Response,
    body::{Body, Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;

pub(super) use self::state::State;
use self::{answer::Answer, head_filter::HeadFilter, state::Phase};
use super::{ConnInfo, OpenStream, Refusal, info::Takeover, orders::Order};
use crate::net::Stream;

/// A request has arrived, or something in its place was refused and wants an answer.
pub struct Arrival {
    pub request: Result<Request<Incoming>, Refusal>,
    pub connection: Rc<ConnInfo>,
    /// Its own, if it came by HTTP/2.
    pub stream: Option<OpenStream>,
}

/// What comes after HTTP.
pub(super) enum After {
    /// Another protocol, with what was read too far.
    Switched(Takeover, Stream, Vec<u8>),
    /// It is HTTP/2, from the first byte on, with all that was read.
    Http2(Stream, Vec<u8>),
    /// The client may be in the middle of sending something.
    CutShort(Stream),
    Nothing,
}

/// How serving ended.
enum End {
    /// The parser has no more to do.
    Done(hyper::Result<()>),
    /// The client went away while it was owed an answer.
    Gone,
    /// The rest of a request was not waited for any longer.
    Late,
    /// As ordered.
    Ordered,
    /// It is another version.
    Http2,
}

/// Serves until both sides have no more to say or the worker says so.
pub(super) async fn serve<A, F, B>(
    stream: Stream,
    state: &Rc<State>,
    longest_head: usize,
    answer: &A,
) -> After
where
    A: Fn(Arrival) -> F,
    F: Future<Output = Response<B>> + Unpin,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let service = service_fn(|request: Request<Incoming>| {
        let version = request.version();
        let request = state.claim().map(|()| request);
        let future = answer(Arrival { request, connection: state.info.clone(), stream: None });
        Answer { future, state, version, begun: Some(state.info.worker.begin()) }
    });
    let stream = Rc::new(RefCell::new(stream));
    let mut filter = HeadFilter::new(stream.clone(), state.clone(), longest_head);
    let (end, early) = loop {
        let mut connection = http1::Builder::new()
            // The filter and the watch keep the limits of heads and the times.
            .header_read_timeout(None)
            // Who has gone is found out below. The parser would try to read in the middle of each answer, and take room
            // for what it never gets.
            .half_close(true)
            .max_buf_size(buffer(longest_head))
            .serve_connection(TokioIo::new(filter), &service);
        let mut finishing = false;
        let end = poll_fn(|cx| {
            let mut http = |cx: &mut Context<'_>, finish: bool| {
                if finish && !std::mem::replace(&mut finishing, true) {
                    Pin::new(&mut connection).graceful_shutdown();
                }
                Pin::new(&mut connection).poll(cx)
            };
            poll(state, &stream, &mut http, cx)
        })
        .await;
        if state.is_deceptive() {
            state.info.abort();
        }
        if state.info.is_aborted() {
            // It ends in any case.
            let _ = stream.borrow().reset_on_close();
        }
        let parts = connection.into_parts();
        filter = parts.io.into_inner();
        match end {
            End::Done(Err(error)) if error.is_parse() && state.is_unclaimed() => {
                tracing::debug!(client = %state.info.peer(), %error, "The parser refused what was let through");
                filter.refuse(Refusal::Unclear);
            }
            end => {
                let mut early = parts.read_buf.to_vec();
                early.extend_from_slice(&filter.into_held());
                break (end, early);
            }
        }
    };
    // The filter is gone, and nobody else had it.
    match Rc::into_inner(stream) {
        Some(stream) => after(end, state, stream.into_inner(), early),
        None => After::Nothing,
    }
}

fn after(end: End, state: &State, stream: Stream, early: Vec<u8>) -> After {
    let client = state.info.peer();
    match end {
        End::Done(Ok(())) => {
            if let Some(takeover) = state.info.taken_over() {
                return After::Switched(takeover, stream, early);
            }
        }
        End::Done(Err(error)) => tracing::debug!(%client, %error, "Connection failed"),
        End::Late => tracing::debug!(%client, "The rest of an answered request did not come in time"),
        End::Gone => {
            tracing::debug!(%client, "Client went away before it had its answer");
            return After::Nothing;
        }
        End::Ordered => return After::Nothing,
        End::Http2 => return After::Http2(stream, early),
    }
    match state.is_cut_short() {
        true => After::CutShort(stream),
        false => After::Nothing,
    }
}

/// One step of a connection. `http` polls the parser, and tells it whether to finish.
fn poll(
    state: &State,
    stream: &RefCell<Stream>,
    http: &mut impl FnMut(&mut Context<'_>, bool) -> Poll<hyper::Result<()>>,
    cx: &mut Context<'_>,
) -> Poll<End> {
    let orders = &state.info.orders;
    if orders.register(cx) {
        state.seat.register(cx.waker());
    }
    if state.seat.told_to_leave() {
        orders.give(Order::Finish);
    }
    loop {
        if orders.current() == Order::End {
            return Poll::Ready(End::Ordered);
        }
        if state.is_late(Phase::Rest) {
            return Poll::Ready(End::Late);
        }
        // A head that has begun is a request on its way, and is answered.
        let finish = orders.current() == Order::Finish && state.phase() != Phase::Head;
        if let Poll::Ready(done) = http(cx, finish) {
            return Poll::Ready(End::Done(done));
        }
        if state.phase() == Phase::Http2 {
            return Poll::Ready(End::Http2);
        }
        let owed = matches!(state.phase(), Phase::Request | Phase::Rest);
        let held_back = state.held_back();
        if !owed && held_back.is_none() {
            return Poll::Pending;
        }
        // The parser is not told what it did not read, so this is where the client's end is seen.
        let closed = stream.borrow_mut().poll_closed(cx).is_ready();
        if owed && closed {
            return Poll::Ready(End::Gone);
        }
        // Its turn came after the parser had asked, and nothing else wakes it.
        let bytes = |held: bool| held || closed || stream.borrow().may_have_bytes();
        if !held_back.is_some_and(bytes) || !state.may_read() {
            return Poll::Pending;
        }
        state.hold_back(None);
    }
}

/// The parser's buffer: more than a head, because the filter's limit shall be the one that is met.
fn buffer(longest_head: usize) -> usize {
    longest_head.saturating_mul(2).max(64 * 1024)
}
