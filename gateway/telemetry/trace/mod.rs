//! Traces: which requests have one, and what it says of a request and of each of its tries.
//!
//! A [`Trace`] goes with the record of its request. When that is over it is given to an exporter over a bounded queue:
//! no request waits for whoever takes traces, and what finds no room is lost and counted.

mod request;

use std::{
    net::IpAddr,
    num::{NonZeroU64, NonZeroU128},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;
use tokio::sync::mpsc;

pub use self::request::{Asked, Ended, Trace, Try};
use crate::syntax::trace_context::{TRACEPARENT, TRACESTATE, TraceParent};

/// Traces that wait for the exporter.
const ROOM: usize = 8_192;

/// Of a longer `tracestate` nothing is recorded. It is passed on all the same.
const LONGEST_STATE: usize = 512;

/// Spans of all traces since the start, by what became of them.
static EXPORTED: AtomicU64 = AtomicU64::new(0);
static LOST: [AtomicU64; Loss::ALL.len()] = [const { AtomicU64::new(0) }; Loss::ALL.len()];

/// Why spans are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// There were more than the collector takes.
    QueueFull,
    /// The collector did not answer, or said that it cannot take them now.
    Unavailable,
    /// The collector did not want them.
    Refused,
}

impl Loss {
    pub const ALL: [Self; 3] = [Self::QueueFull, Self::Unavailable, Self::Refused];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
        }
    }
}

/// So many spans were taken by a collector.
pub fn exported(spans: usize) {
    EXPORTED.fetch_add(spans as u64, Relaxed);
}

/// So many will never be.
pub fn lost(spans: usize, why: Loss) {
    LOST[why as usize].fetch_add(spans as u64, Relaxed);
}

/// How many were taken, and how many lost, by [`Loss::ALL`].
pub fn counts() -> (u64, [u64; Loss::ALL.len()]) {
    (EXPORTED.load(Relaxed), std::array::from_fn(|why| LOST[why].load(Relaxed)))
}

/// Decides which requests are traced, and takes what was recorded of them.
#[derive(Debug)]
pub struct Tracer {
    /// Of 2^56.
    sampled_below: u64,
    continue_from: Vec<IpNet>,
    queue: mpsc::Sender<Box<Trace>>,
}

impl Tracer {
    /// `sample` is the share of traces that begin here and are recorded. Traces come out of the other end, until the
    /// tracer is gone.
    pub fn new(sample: f64, continue_from: Vec<IpNet>) -> (Self, mpsc::Receiver<Box<Trace>>) {
        let (queue, traces) = mpsc::channel(ROOM);
        let sampled_below = (sample * (1_u64 << 56) as f64) as u64;
        (Self { sampled_below, continue_from, queue }, traces)
    }

    /// Whether the traces of a client are continued, beside those of trusted proxies.
    pub fn continues(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.continue_from.iter().any(|network| network.contains(&client))
    }

    /// Begins the trace of a request, or goes on with the one that it belongs to, as far as `trusted` says that its
    /// client may say so. What endpoints are to be told is in its headers then.
    ///
    /// None: it is not recorded.
    pub fn begin(
        self: &Arc<Self>,
        headers: &mut HeaderMap,
        trusted: bool,
        began: Instant,
    ) -> Option<Box<Trace>> {
        let sent = TraceParent::of(headers);
        if let Some(parent) = sent.filter(|_| trusted) {
            // Whoever takes no part leaves both headers as they are.
            return parent.is_sampled().then(|| {
                let mut trace = Trace::new(self.clone(), parent.with_span(span()), began);
                (trace.parent, trace.state) = (Some(parent.span), state(headers));
                trace
            });
        }
        let trace = NonZeroU128::new(fastrand::u128(..)).unwrap_or(NonZeroU128::MAX);
        // By the id, so that every gateway would decide the same.
        let sampled = trace.get() as u64 & ((1 << 56) - 1) < self.sampled_below;
        let own = TraceParent::new(trace, span(), sampled);
        headers.remove(&TRACESTATE);
        tell(headers, own);
        sampled.then(|| {
            let mut trace = Trace::new(self.clone(), own, began);
            trace.link = sent;
            trace
        })
    }

    /// Takes a trace that is complete. Waits for nothing.
    fn push(&self, trace: Box<Trace>) {
        if let Err(refused) = self.queue.try_send(trace) {
            lost(refused.into_inner().spans(), Loss::QueueFull);
        }
    }
}

/// The id of a new span.
fn span() -> NonZeroU64 {
    NonZeroU64::new(fastrand::u64(..)).unwrap_or(NonZeroU64::MAX)
}

/// Writes `traceparent`.
fn tell(headers: &mut HeaderMap, parent: TraceParent) {
    // Digits and dashes are always a header value.
    if let Ok(value) = HeaderValue::from_bytes(&parent.text()) {
        headers.insert(TRACEPARENT, value);
    }
}

fn state(headers: &HeaderMap) -> String {
    let lines: Vec<&str> =
        headers.get_all(TRACESTATE).into_iter().filter_map(|line| line.to_str().ok()).collect();
    let state = lines.join(",");
    if state.len() > LONGEST_STATE { String::new() } else { state }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    fn begun(sample: f64, trusted: bool, sent: &[(&HeaderName, &str)]) -> (Option<Box<Trace>>, HeaderMap) {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, value.parse().unwrap());
        }
        let tracer = Arc::new(Tracer::new(sample, Vec::new()).0);
        (tracer.begin(&mut headers, trusted, Instant::now()), headers)
    }

    #[test]
    fn a_trace_that_is_sampled_goes_on_and_one_that_is_not_passes_untouched() {
        for sample in [0.0, 1.0] {
            let sent = [(&TRACEPARENT, PARENT), (&TRACESTATE, "a=1"), (&TRACESTATE, "b=2")];
            let (trace, headers) = begun(sample, true, &sent);
            let trace = trace.unwrap();
            let parent = TraceParent::parse(PARENT.as_bytes()).unwrap();
            assert_eq!((trace.own.trace, trace.parent), (parent.trace, Some(parent.span)));
            assert_ne!(trace.own.span, parent.span);
            assert_eq!(trace.state, "a=1,b=2");
            assert_eq!(headers.get_all(TRACESTATE).iter().count(), 2);

            let (trace, headers) = begun(sample, true, &[(&TRACEPARENT, UNSAMPLED), (&TRACESTATE, "a=1")]);
            assert!(trace.is_none());
            assert_eq!(headers[TRACEPARENT], UNSAMPLED);
            assert_eq!(headers[TRACESTATE], "a=1");
        }
    }

    #[test]
    fn what_is_broken_or_from_a_stranger_begins_anew_and_says_so() {
        for (sent, trusted) in [(PARENT, false), ("00-broken", true), ("00-broken", false)] {
            let (trace, headers) = begun(1.0, trusted, &[(&TRACEPARENT, sent), (&TRACESTATE, "a=1")]);
            let trace = trace.unwrap();
            assert_eq!((trace.parent, trace.state.as_str()), (None, ""));
            assert_eq!(trace.link, TraceParent::parse(sent.as_bytes()));
            assert!(Some(trace.own.trace) != trace.link.map(|link| link.trace));
            assert!(!headers.contains_key(TRACESTATE));
            assert_eq!(TraceParent::of(&headers), Some(trace.own));
        }
        let (trace, headers) = begun(1.0, true, &[(&TRACESTATE, "a=1")]);
        assert!(trace.is_some() && !headers.contains_key(TRACESTATE), "it says nothing alone");
    }

    #[test]
    fn whoever_comes_after_is_told_what_was_decided() {
        let (trace, headers) = begun(0.0, true, &[]);
        assert!(trace.is_none());
        assert!(!TraceParent::of(&headers).unwrap().is_sampled());
        let (trace, headers) = begun(0.0, false, &[(&TRACEPARENT, PARENT)]);
        assert!(trace.is_none());
        let told = TraceParent::of(&headers).unwrap();
        assert!(!told.is_sampled() && told.trace != TraceParent::parse(PARENT.as_bytes()).unwrap().trace);
    }

    #[test]
    fn the_share_is_met() {
        let taken = (0..10_000).filter(|_| begun(0.25, false, &[]).0.is_some()).count();
        assert!((2_200..2_800).contains(&taken), "{taken}");
    }

    #[test]
    fn what_finds_no_room_is_lost_and_counted_by_spans() {
        let (tracer, traces) = Tracer::new(1.0, Vec::new());
        let tracer = Arc::new(tracer);
        let before = counts().1[Loss::QueueFull as usize];
        for _ in 0..ROOM + 3 {
            let mut trace = tracer.begin(&mut HeaderMap::new(), false, Instant::now()).unwrap();
            trace.tries("127.0.0.1:1".parse().unwrap(), Instant::now());
            trace.finish(Some(200), None);
        }
        assert_eq!(traces.len(), ROOM);
        assert_eq!(counts().1[Loss::QueueFull as usize] - before, 6);
    }
}
