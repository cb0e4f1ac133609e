//! The answer on its way to the client, and the second verdict: what becomes known when it has ended.

use std::{
    error::Error,
    fmt,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

use super::{
    RequestError, grpc,
    grpc_web::WebBody,
    logged,
    upload::{Course, RequestBody},
    verdict,
    waits::{Wait, Waits},
};
use crate::{
    catalog::EvidenceSender,
    client::{Connection, Pool},
    config,
    dispatch::Held,
    telemetry::{Account, Fault, Record},
    upstream::{Evidence, InFlight, Stats},
};

/// How long the rest of a request is taken in after the whole answer to it: the endpoint wanted no more of it.
const REST: Duration = Duration::from_secs(3);

/// A body for a client.
pub(super) enum ReplyBody {
    Empty,
    Text(&'static str),
    Passing(Box<Passing>),
    /// To a call of gRPC-Web.
    Web(Box<WebBody>),
}

/// The body of an endpoint's answer, until its end.
pub(super) struct Passing {
    incoming: Incoming,
    ending: Option<Ending>,
    waits: Waits,
    record: Record,
    /// It is of a call of gRPC.
    is_call: bool,
    /// Trailers are to say how the call went.
    awaits_status: bool,
}

/// What is settled at the end of an answer. Dropped before the end it closes the connection. Holds neither the
/// upstream nor the endpoint: a stream may go on for hours after both are gone.
pub(super) struct Ending {
    pub connection: Connection<RequestBody>,
    pub pool: Rc<Pool<RequestBody>>,
    pub address: SocketAddr,
    pub keep: config::Pool,
    pub in_flight: InFlight,
    pub evidence: Rc<EvidenceSender>,
    /// The verdict at the head: for the endpoint's health, and for its statistics. That at the end of a whole answer
    /// is the same.
    pub well: bool,
    pub success: bool,
    /// How long the head of the answer took, of a call that the statistics have not heard of yet.
    pub open: Option<Duration>,
    /// Of the request's body, if it has one.
    pub upload: Option<Rc<Course>>,
    /// Given back last: whoever is let go by it finds the endpoint free.
    pub held: Held,
}

/// Why an answer does not come to its end.
#[derive(Debug)]
pub(super) enum ReplyError {
    Broken(hyper::Error),
    Expired(Wait),
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(error) => write!(f, "the answer broke off: {error}"),
            Self::Expired(wait) => write!(f, "the answer took too long: waited for {wait:?}"),
        }
    }
}

/// With what broke it: an endpoint that reset its stream has the client's reset with the same code.
impl Error for ReplyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Broken(error) => Some(error),
            Self::Expired(_) => None,
        }
    }
}

impl ReplyBody {
    /// The body of an answer whose head has been judged.
    pub(super) fn passing(
        incoming: Incoming,
        ending: Ending,
        waits: Waits,
        mut record: Record,
        is_call: bool,
        awaits_status: bool,
    ) -> Self {
        if incoming.is_end_stream() {
            ending.end(&mut record, awaits_status);
            return Self::Empty;
        }
        waits.answering();
        let ending = Some(ending);
        Self::Passing(Box::new(Passing { incoming, ending, waits, record, is_call, awaits_status }))
    }
}

impl Ending {
    /// The answer has come to its end; of a call that may be one that failed, or of which nobody knows how it went.
    fn end(mut self, record: &mut Record, failed: bool) {
        if failed {
            let Account { metrics, worker, .. } = &*record.account;
            metrics.learned(*worker, Evidence::GatewayError);
            self.worsen(Evidence::GatewayError);
        }
        record.ended();
        self.settle();
    }

    /// The answer is complete: the request is over, and its connection is free for the next.
    fn settle(self) {
        let Self {
            connection, pool, address, keep, in_flight, evidence, well, success, open, upload, ..
        } = self;
        if let Some(took) = open {
            in_flight.stats().record(Instant::now(), took, success);
        }
        if success {
            in_flight.stats().confirm();
        }
        if well {
            evidence.send(address, in_flight.stats(), Evidence::Answered, None);
        }
        let endpoint = in_flight.stats().clone();
        drop(in_flight);
        // The endpoint wanted no more of it. A connection that is not shared is looked after below.
        if let Some(upload) = upload.filter(|_| connection.is_shared()) {
            upload.cut();
        }
        give_back(connection, pool, endpoint, keep);
    }

    /// The verdict at the head becomes worse, and the answer goes on.
    fn worsen(&mut self, evidence: Evidence) {
        (self.well, self.success) = (false, false);
        let stats = self.in_flight.stats();
        match self.open.take() {
            Some(took) => stats.record(Instant::now(), took, false),
            None => stats.worsen(Instant::now()),
        }
        self.evidence.send(self.address, stats, evidence, None);
    }

    /// The answer has broken off. The verdict at the head becomes worse if that was the endpoint's fault.
    fn break_off(mut self, fault: Fault, evidence: Evidence) {
        if fault == Fault::Endpoint {
            self.held.broke_off();
            self.worsen(evidence);
        }
        if let Some(upload) = &self.upload {
            upload.cut();
        }
    }
}

/// A connection over which a whole answer came is free for the next request.
pub(super) fn give_back(
    mut connection: Connection<RequestBody>,
    pool: Rc<Pool<RequestBody>>,
    endpoint: Arc<Stats>,
    keep: config::Pool,
) {
    if connection.is_ready() {
        pool.put(endpoint, connection, Instant::now(), keep);
    } else if !connection.is_closed() {
        // The endpoint answered before it had the whole request: the rest is still being sent.
        tokio::task::spawn_local(async move {
            match tokio::time::timeout(REST, connection.ready()).await {
                Ok(true) => pool.put(endpoint, connection, Instant::now(), keep),
                Ok(false) => {}
                Err(_) => connection.close(),
            }
        });
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        // The client took nothing of it, and what it came by was ended for that.
        if let Some(wait) = self.waits.expired().filter(|_| self.ending.is_some()) {
            let _ = self.expire(wait);
        }
        // The client has gone.
        if let Some(Wait::WholeOfEndpoint) = self.ending.as_ref().and_then(|_| self.waits.overdue()) {
            self.break_off(Fault::Endpoint, Evidence::TimedOut);
        }
        if let Some(Ending { upload: Some(upload), .. }) = &self.ending {
            upload.cut();
        }
    }
}

impl Passing {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ReplyError>>> {
        // First, since an answer that never pauses has to end, too.
        if let Some(wait) = self.waits.expired() {
            return Poll::Ready(Some(self.expire(wait)));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            self.waits.answer_wanted(true);
            self.waits.remember(cx);
            return Poll::Pending;
        };
        let reset = matches!(&frame, Some(Err(error)) if verdict::is_reset(error));
        if reset && let Some(wait) = self.waits.overdue() {
            return Poll::Ready(Some(self.expire(wait)));
        }
        self.waits.answer_wanted(false);
        match frame {
            Some(Err(error)) => {
                let upload = self.ending.as_ref().and_then(|ending| ending.upload.as_ref());
                // What the client broke, breaks the connection and with it the answer.
                let spoilt = upload.is_some_and(|upload| upload.spoilt().is_some());
                let (fault, code) = match spoilt {
                    true => (Fault::Client, grpc::Code::Internal),
                    false => (Fault::Endpoint, grpc::Code::Unavailable),
                };
                self.break_off(fault, Evidence::Broke);
                let error = ReplyError::Broken(error);
                Poll::Ready(Some(if reset { Err(error) } else { self.fail(error, code) }))
            }
            frame => {
                if let Some(entry) = &mut self.record.entry
                    && let Some(Ok(frame)) = &frame
                {
                    entry.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                    if self.is_call
                        && let Some(status) = frame.trailers_ref().and_then(grpc::status)
                    {
                        entry.grpc_status = Some(status);
                    }
                }
                if self.is_call
                    && let Some(trace) = &mut self.record.trace
                    && let Some(Ok(frame)) = &frame
                    && let Some(status) = frame.trailers_ref().and_then(grpc::status)
                {
                    trace.grpc_status = Some(status);
                }
                if self.is_call
                    && let Some(Ok(frame)) = &frame
                    && let Some(failed) = frame.trailers_ref().and_then(grpc::failed)
                {
                    self.awaits_status = failed;
                }
                // Nothing comes after trailers, and nobody asks.
                let last = frame.as_ref().is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers));
                if last || self.incoming.is_end_stream() {
                    self.end();
                }
                Poll::Ready(frame.map(|frame| frame.map_err(ReplyError::Broken)))
            }
        }
    }

    /// The end of an answer that has begun: a call is told the code, in trailers, after which nobody asks for more.
    fn fail(&self, error: ReplyError, code: grpc::Code) -> Result<Frame<Bytes>, ReplyError> {
        match self.is_call {
            true => Ok(Frame::trailers(grpc::trailers(code, &error.to_string()))),
            false => Err(error),
        }
    }

    fn expire(&mut self, wait: Wait) -> Result<Frame<Bytes>, ReplyError> {
        self.waits.heard();
        logged::failed(&mut self.record, &RequestError::Expired(wait));
        if wait == Wait::Leave {
            self.record.account.left();
        }
        self.break_off(wait.fault(), Evidence::TimedOut);
        self.fail(ReplyError::Expired(wait), grpc::code(RequestError::Expired(wait).status()))
    }

    fn end(&mut self) {
        if let Some(ending) = self.ending.take() {
            ending.end(&mut self.record, self.awaits_status);
        }
    }

    fn break_off(&mut self, fault: Fault, evidence: Evidence) {
        self.record.cut(fault);
        if let Some(ending) = self.ending.take() {
            if fault == Fault::Endpoint {
                let Account { metrics, worker, .. } = &*self.record.account;
                metrics.learned(*worker, evidence);
            }
            ending.break_off(fault, evidence);
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = ReplyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            body @ Self::Text(_) => match std::mem::replace(body, Self::Empty) {
                Self::Text(text) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(text.as_bytes()))))),
                _ => Poll::Ready(None),
            },
            Self::Passing(passing) => Poll::Ready(ready!(passing.poll_frame(cx))),
            Self::Web(web) => web.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Text(_) => false,
            Self::Passing(passing) => passing.incoming.is_end_stream(),
            Self::Web(web) => web.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Text(text) => SizeHint::with_exact(text.len() as u64),
            Self::Passing(passing) => passing.incoming.size_hint(),
            Self::Web(_) => SizeHint::default(),
        }
    }
}
