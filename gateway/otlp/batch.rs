//! Traces that are sent together: as many as most collectors take at once.

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::mpsc;

use super::{
    messages::{Export, Resource, ResourceSpans, Scope, ScopeSpans, Span},
    spans,
};
use crate::telemetry::trace::Trace;

/// Traces in one batch.
const MOST: usize = 512;

/// A batch of so many bytes takes no further trace. Receivers of gRPC take messages of 4 MiB, unless they are told
/// otherwise, and what stands in spans is as long as clients like.
const LARGE: usize = 1 << 20;

#[derive(Debug, Default)]
pub(super) struct Batch {
    traces: usize,
    spans: Vec<Span>,
    bytes: usize,
}

impl Batch {
    pub(super) fn is_full(&self) -> bool {
        self.traces >= MOST || self.bytes >= LARGE
    }

    pub(super) fn add(&mut self, trace: &Trace) {
        self.traces += 1;
        for span in spans::of(trace) {
            self.bytes += span.encoded_len();
            self.spans.push(span);
        }
    }

    /// Takes what is there, until it is full.
    pub(super) fn fill(&mut self, traces: &mut mpsc::Receiver<Box<Trace>>) {
        while !self.is_full()
            && let Ok(trace) = traces.try_recv()
        {
            self.add(&trace);
        }
    }

    /// As it is sent, and how many spans that are.
    pub(super) fn encode(self, resource: &Resource) -> (Bytes, usize) {
        let count = self.spans.len();
        let scope = Scope { name: "witgate".into(), version: env!("CARGO_PKG_VERSION").into() };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans: self.spans }];
        let resource_spans = vec![ResourceSpans { resource: Some(resource.clone()), scope_spans }];
        (Export { resource_spans }.encode_to_vec().into(), count)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use http::{HeaderMap, Method};

    use super::*;
    use crate::telemetry::trace::{Asked, Tracer};

    /// Batches of so many traces whose texts are as long as they can be, or short: the traces in each, and its bytes.
    fn batches(count: usize, long: bool) -> Vec<(usize, usize)> {
        let (tracer, mut traces) = Tracer::new(1.0, Vec::new());
        let tracer = Arc::new(tracer);
        let text = |of: &str| if long { Asked::cut(&of.repeat(10_000)) } else { of.to_owned() };
        for _ in 0..count {
            let mut trace = tracer.begin(&mut HeaderMap::new(), false, Instant::now()).unwrap();
            trace.asked = Some(Asked {
                method: Method::from_bytes("M".repeat(if long { 50_000 } else { 1 }).as_bytes()).unwrap(),
                path: text("/"),
                authority: text("a"),
                scheme: "http",
                version: "2",
                user_agent: Some(text("u")),
            });
            trace.is_call = true;
            for _ in 0..3 {
                trace.tries("127.0.0.1:1".parse().unwrap(), Instant::now());
            }
            trace.finish(Some(200), None);
        }
        let mut batches = Vec::new();
        while !traces.is_empty() {
            let mut batch = Batch::default();
            batch.fill(&mut traces);
            let taken = batch.traces;
            let (bytes, spans) = batch.encode(&Resource { attributes: Vec::new() });
            assert_eq!(spans, 4 * taken);
            batches.push((taken, bytes.len()));
        }
        batches
    }

    #[test]
    fn a_batch_has_so_many_traces_and_so_many_bytes() {
        let short: Vec<_> = batches(MOST + 1, false).into_iter().map(|(traces, _)| traces).collect();
        assert_eq!(short, [MOST, 1]);
        let long = batches(MOST, true);
        assert_eq!(long.iter().map(|(traces, _)| traces).sum::<usize>(), MOST);
        assert!(long.len() > 1 && long.iter().all(|(_, bytes)| *bytes < LARGE + (64 << 10)), "{long:?}");
    }
}
