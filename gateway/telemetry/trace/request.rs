//! What is recorded of one request and of its tries.

use std::{
    borrow::Cow,
    net::SocketAddr,
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderValue, Method};

use super::{Tracer, span, tell};
use crate::{
    syntax::trace_context::{TRACEPARENT, TraceParent},
    telemetry::Fault,
    upstream::UpstreamName,
};

/// A longer value is cut.
const LONGEST: usize = 1_024;

/// What is recorded of a request. Given to the exporter by [`Trace::finish`].
#[derive(Debug)]
pub struct Trace {
    tracer: Arc<Tracer>,
    /// The span of the request.
    pub own: TraceParent,
    /// The span of whoever sent it, in the same trace.
    pub parent: Option<NonZeroU64>,
    /// A span of another trace that it comes from, of a client whose traces are not continued.
    pub link: Option<TraceParent>,
    /// `tracestate` as it came.
    pub state: String,
    /// When it began, by the clock on the wall and by the other.
    pub at: SystemTime,
    began: Instant,
    pub took: Duration,
    pub asked: Option<Asked>,
    pub client: Option<SocketAddr>,
    pub listener: Option<Arc<str>>,
    /// The name of its route, and the path that the route is for.
    pub route: Option<(Arc<str>, Arc<str>)>,
    pub upstream: Option<UpstreamName>,
    /// Endpoints are spoken to by TLS.
    pub secured: bool,
    pub status: Option<u16>,
    /// Of a call of gRPC, as far as it is known.
    pub grpc_status: Option<u32>,
    /// It is a call of gRPC.
    pub is_call: bool,
    /// Why it failed, as in `x-witgate-reason`.
    pub reason: Option<&'static str>,
    pub cut: Option<Fault>,
    pub tries: Vec<Try>,
}

/// What a request asks for.
#[derive(Debug)]
pub struct Asked {
    pub method: Method,
    pub path: String,
    pub authority: String,
    pub scheme: &'static str,
    /// Of HTTP.
    pub version: &'static str,
    pub user_agent: Option<String>,
}

impl Asked {
    /// Text that may be long is cut.
    pub fn cut(text: &str) -> String {
        text[..text.floor_char_boundary(LONGEST)].to_owned()
    }

    pub fn header(value: &HeaderValue) -> String {
        match String::from_utf8_lossy(value.as_bytes()) {
            Cow::Borrowed(text) => Self::cut(text),
            Cow::Owned(text) => Self::cut(&text),
        }
    }
}

/// One try.
#[derive(Debug)]
pub struct Try {
    pub span: NonZeroU64,
    pub endpoint: SocketAddr,
    /// From the beginning of the request.
    pub began: Duration,
    /// None while it goes on.
    pub took: Option<Duration>,
    pub ended: Ended,
}

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was not waited for any longer.
    Cancelled,
    /// With an answer that has this status.
    Answered(u16),
    /// Without one; why, as in `x-witgate-reason`.
    Failed(&'static str),
}

impl Trace {
    pub(super) fn new(tracer: Arc<Tracer>, own: TraceParent, began: Instant) -> Box<Self> {
        Box::new(Self {
            tracer,
            own,
            parent: None,
            link: None,
            state: String::new(),
            at: SystemTime::now(),
            began,
            took: Duration::ZERO,
            asked: None,
            client: None,
            listener: None,
            route: None,
            upstream: None,
            secured: false,
            status: None,
            grpc_status: None,
            is_call: false,
            reason: None,
            cut: None,
            tries: Vec::with_capacity(1),
        })
    }

    /// What went wrong; the first who says so is right.
    pub fn failed(&mut self, reason: &'static str) {
        self.reason.get_or_insert(reason);
    }

    /// A try begins. Says its number.
    pub fn tries(&mut self, endpoint: SocketAddr, at: Instant) -> u16 {
        let began = at.saturating_duration_since(self.began);
        self.tries.push(Try { span: span(), endpoint, began, took: None, ended: Ended::Cancelled });
        u16::try_from(self.tries.len() - 1).unwrap_or(u16::MAX)
    }

    /// Tells the endpoint of a try which span its own belong to. Not if the route has taken that away.
    pub fn tell(&self, number: u16, headers: &mut HeaderMap) {
        if let Some(of) = self.tries.get(usize::from(number))
            && headers.contains_key(TRACEPARENT)
        {
            tell(headers, self.own.with_span(of.span));
        }
    }

    /// A try has an answer's head, or none and no hope of it.
    pub fn tried(&mut self, number: u16, ended: Ended, at: Instant) {
        let began = self.began;
        if let Some(of) = self.tries.get_mut(usize::from(number)) {
            of.ended = ended;
            of.took = Some(at.saturating_duration_since(began).saturating_sub(of.began));
        }
    }

    /// The answer of a try is passed on, so that it ends with it.
    pub fn goes_on(&mut self, number: u16) {
        if let Some(of) = self.tries.get_mut(usize::from(number)) {
            of.took = None;
        }
    }

    /// The request is over: with what status it was counted, if there was one, and whether somebody has cut it.
    pub fn finish(mut self: Box<Self>, status: Option<u16>, cut: Option<Fault>) {
        self.took = self.began.elapsed();
        (self.status, self.cut) = (status, cut);
        for of in self.tries.iter_mut().filter(|of| of.took.is_none()) {
            of.took = Some(self.took.saturating_sub(of.began));
            if cut == Some(Fault::Endpoint) {
                of.ended = Ended::Failed("upstream-broke-off");
            }
        }
        self.tracer.clone().push(self);
    }

    /// How many spans it becomes.
    pub fn spans(&self) -> usize {
        1 + self.tries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_try_ends_with_its_answer_or_with_what_became_of_it() {
        let (tracer, mut traces) = Tracer::new(1.0, Vec::new());
        let (tracer, began) = (Arc::new(tracer), Instant::now());
        let mut trace = tracer.begin(&mut HeaderMap::new(), false, began).unwrap();
        let endpoint = "127.0.0.1:1".parse().unwrap();
        let millis = |number| Duration::from_millis(number);
        let [first, second, third] = [0, 10, 20].map(|number| trace.tries(endpoint, began + millis(number)));
        trace.tried(first, Ended::Failed("connect-failed"), began + millis(5));
        trace.tried(second, Ended::Answered(503), began + millis(15));
        trace.tried(third, Ended::Answered(200), began + millis(25));
        trace.goes_on(third);
        trace.finish(Some(200), Some(Fault::Endpoint));

        let trace = traces.try_recv().unwrap();
        let ends: Vec<_> = trace.tries.iter().map(|of| of.ended).collect();
        let broken = Ended::Failed("upstream-broke-off");
        assert_eq!(ends, [Ended::Failed("connect-failed"), Ended::Answered(503), broken]);
        assert_eq!(trace.tries[0].took, Some(millis(5)));
        assert_eq!(trace.tries[1].took, Some(millis(5)));
        assert!(trace.tries.iter().all(|of| of.took.is_some()));
        assert_eq!(trace.spans(), 4);
    }

    #[test]
    fn an_endpoint_hears_of_its_own_try_unless_the_route_says_otherwise() {
        let (tracer, _traces) = Tracer::new(1.0, Vec::new());
        let mut headers = HeaderMap::new();
        let mut trace = Arc::new(tracer).begin(&mut headers, false, Instant::now()).unwrap();
        for _ in 0..2 {
            let number = trace.tries("127.0.0.1:1".parse().unwrap(), Instant::now());
            trace.tell(number, &mut headers);
            let told = TraceParent::of(&headers).unwrap();
            assert_eq!((told.trace, told.span), (trace.own.trace, trace.tries[usize::from(number)].span));
        }
        headers.remove(TRACEPARENT);
        trace.tell(0, &mut headers);
        assert!(headers.is_empty());
    }
}
