//! One connection of a client, from the first byte to the last.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::{
    Request, Response, StatusCode,
    body::{Body, Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncReadExt, net::TcpStream};

use super::{Link, Refusal, guard::Guard, link::Directive};
use crate::net::Stream;

/// How long, and for how many bytes, a client that was cut short is listened to, so that it gets to read its answer:
/// closing with unread bytes would take the answer away from it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// A request has arrived, or something in its place was refused and wants an answer.
pub struct Arrival {
    pub request: Result<Request<Incoming>, Refusal>,
    pub link: Rc<Link>,
}

/// Serves one connection until both sides have no more to say or the worker says so.
pub(super) async fn serve<A, F, B>(stream: TcpStream, link: Rc<Link>, max_head: usize, answer: A)
where
    A: Fn(Arrival) -> F,
    F: Future<Output = Response<B>> + Unpin,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let service = service_fn(|request| {
        let request = link.called().map(|()| request);
        Answer { future: answer(Arrival { request, link: link.clone() }), link: &link }
    });
    let guard = TokioIo::new(Guard::new(stream, link.clone(), max_head));
    let mut connection = http1::Builder::new()
        // The guard and the roster keep the limits of heads and the times.
        .header_read_timeout(None)
        .max_buf_size(buffer(max_head))
        .serve_connection(guard, service);
    let mut finishing = false;
    let outcome = obeying(&link, |order, cx| {
        if order == Directive::Finish && !std::mem::replace(&mut finishing, true) {
            Pin::new(&mut connection).graceful_shutdown();
        }
        Pin::new(&mut connection).poll(cx)
    });
    match outcome.await {
        Some(Ok(())) => {
            let parts = connection.into_parts();
            after(parts.io.into_inner(), parts.read_buf, &link).await;
        }
        Some(Err(error)) => {
            tracing::debug!(client = %link.peer, %error, "Connection failed");
            let guard = connection.into_parts().io.into_inner();
            if error.is_parse() || guard.cut_short() {
                lingering(guard.into_inner().0, &link).await;
            }
        }
        None => {}
    }
}

/// The future of an answer. Not an `async` block, which would hold the other future twice and be moved with it.
struct Answer<'a, F> {
    future: F,
    link: &'a Link,
}

impl<B, F: Future<Output = Response<B>> + Unpin> Future for Answer<'_, F> {
    type Output = Result<Response<B>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(Pin::new(&mut self.future).poll(cx));
        self.link.answered(response.status() == StatusCode::SWITCHING_PROTOCOLS);
        Poll::Ready(Ok(response))
    }
}

/// What comes after HTTP: another protocol, or the end.
async fn after(guard: Guard, read: Bytes, link: &Link) {
    let cut_short = guard.cut_short();
    let (stream, held) = guard.into_inner();
    if let Some(takeover) = link.taken_over() {
        let mut early = read.to_vec();
        early.extend_from_slice(&held);
        let mut tunnel = takeover(stream, early);
        obeying(link, |_, cx| tunnel.as_mut().poll(cx)).await;
    } else if cut_short {
        lingering(stream, link).await;
    }
}

/// Polls with the worker's order in hand; none when the order was to end.
async fn obeying<T>(link: &Link, mut poll: impl FnMut(Directive, &mut Context<'_>) -> Poll<T>) -> Option<T> {
    poll_fn(|cx| {
        link.remember(cx);
        match link.order.get() {
            Directive::End => Poll::Ready(None),
            order => poll(order, cx).map(Some),
        }
    })
    .await
}

async fn lingering(stream: Stream, link: &Link) {
    let mut linger = pin!(linger(stream));
    obeying(link, |_, cx| linger.as_mut().poll(cx)).await;
}

async fn linger(mut stream: Stream) {
    let reading = async {
        let (mut scratch, mut total) = ([0; 4096], 0);
        while let Ok(len @ 1..) = stream.read(&mut scratch).await {
            total += len;
            if total > LINGER_BYTES {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, reading).await;
}

/// The parser's buffer: more than a head, because the guard's limit shall be the one that is met.
fn buffer(max_head: usize) -> usize {
    max_head.saturating_mul(2).max(64 * 1024)
}
