//! HTTP/2 on a stream: many requests at once, each answered by a task of its own.
//!
//! Bytes of a client reach the library only through `frames`, which counts what costs us more than whoever sends it; its
//! heads are validated in `head`, because the library takes more than a request may say.

mod answer;
mod frames;
mod head;
mod state;
mod tunnel;

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use hyper::{
    Method, Request, Response,
    body::{Body, Bytes, Incoming},
    rt::Executor,
    server::conn::http2,
    service::service_fn,
    upgrade,
};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

pub(super) use self::state::State;
use self::{answer::Answer, frames::Frames, tunnel::Switch};
pub use self::{state::OpenStream, tunnel::Tunnel};
use super::{Arrival, orders::Order};
use crate::net::Stream;

/// Streams that a client may have open at once.
const STREAMS_MOST: u32 = 200;

/// How much of a request's body a client may send before it is taken, in bytes: of each, and of all together. The second is
/// what a connection can hold of us, and more than the first, so that one upload that nobody takes holds up no other.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;

/// What is kept of one answer until the client's window has room, in bytes, beside the piece that was read last.
const SEND_BUFFER: usize = 32 * 1024;

/// The longest list of headers that the library takes. What is longer it answers itself; ours is shorter, and is answered
/// with a reason.
const HEADERS_LONGEST: u32 = 64 * 1024;

/// Serves until both sides have no more to say or the worker says so.
pub(super) async fn serve<A, F, B>(stream: Stream, early: Vec<u8>, state: &Rc<State>, answer: A)
where
    A: Fn(Arrival) -> F + 'static,
    F: Future<Output = Response<B>> + Unpin + 'static,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let streams = Streams { tasks: Rc::default(), state: state.clone() };
    let _ended = Ended(streams.clone());
    let owner = streams.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let open = owner.state.open();
        let switch = (request.method() == Method::CONNECT)
            .then(|| Box::new(Switch { upgrade: upgrade::on(&mut request), streams: owner.clone() }));
        let (connection, stream) = (owner.state.info.clone(), Some(open.stream()));
        let future = answer(Arrival { request: head::check(request), connection, stream });
        Answer { future, open: Some(open), switch }
    });
    let mut connection = http2::Builder::new(streams.clone())
        .max_concurrent_streams(STREAMS_MOST)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEADERS_LONGEST)
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(Frames::new(stream, early, state.clone())), service);
    let mut leaving = false;
    let ended = poll_fn(|cx| {
        let mut http = |cx: &mut Context<'_>, leave: bool| {
            if leave && !mem::replace(&mut leaving, true) {
                Pin::new(&mut connection).graceful_shutdown();
            }
            Pin::new(&mut connection).poll(cx)
        };
        poll(state, &streams, &mut http, cx)
    })
    .await;
    if let Some(Err(error)) = ended {
        tracing::debug!(client = %state.info.peer(), %error, "Connection failed");
    }
}

/// One step of a connection. `http` polls the library, and tells it whether to say that the connection takes no more
/// requests. None: as ordered.
fn poll(
    state: &State,
    streams: &Streams,
    http: &mut impl FnMut(&mut Context<'_>, bool) -> Poll<hyper::Result<()>>,
    cx: &mut Context<'_>,
) -> Poll<Option<hyper::Result<()>>> {
    let orders = &state.info.orders;
    if orders.register(cx) {
        state.seat.register(cx.waker());
    }
    if state.seat.told_to_leave() {
        orders.give(Order::Finish);
    }
    if orders.current() == Order::End && !state.takes_leave() {
        return Poll::Ready(None);
    }
    streams.reap(cx);
    http(cx, orders.current() >= Order::Leave).map(Some)
}

/// The tasks that answer the requests of one connection.
#[derive(Clone)]
struct Streams {
    tasks: Rc<RefCell<JoinSet<()>>>,
    state: Rc<State>,
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Streams {
    /// Is called as soon as the service has been; and as soon as there is the answer that makes a tunnel of a stream.
    fn execute(&self, task: F) {
        let mut tasks = self.tasks.borrow_mut();
        match self.state.sending() {
            Some(sending) => sending.run(&mut tasks, task),
            None => self.state.runs(tasks.spawn_local(task)),
        }
    }
}

impl Streams {
    /// Looks after those that have ended.
    fn reap(&self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(ended)) = self.tasks.borrow_mut().poll_join_next(cx) {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(%error, "A stream's task panicked");
            }
        }
    }
}

/// Ends all tasks of a connection when it is dropped. Each of them holds them all, so nobody else would.
struct Ended(Streams);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.tasks.take());
    }
}
