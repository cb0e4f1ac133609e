//! What is known of one request when it is over.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderValue;

use super::{KnownMethod, RouteTimes, Took, UpstreamMetrics, access::Entry, trace::Trace};

/// Whose failure something was. Each failure is exactly one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The gateway's: its refusals and limits, and what it ran out of.
    Local,
    /// It stalled, went away, or sent what cannot be understood.
    Client,
    /// It refused, stalled, broke off, or answered what is no answer. Nothing else reaches its statistics and its
    /// health.
    Endpoint,
}

/// Where the requests of an upstream are counted, on one worker; or those that reach none.
#[derive(Debug, Clone)]
pub struct Account {
    pub metrics: Arc<UpstreamMetrics>,
    pub worker: usize,
    /// Where their times are, by the route that they took; none: they took none.
    pub times: Option<Arc<RouteTimes>>,
}

impl Account {
    /// Something was ended because its endpoint had left.
    pub fn left(&self) {
        self.metrics.left(self.worker);
    }
}

/// The record of one request: begun with its head, complete when its answer has ended. Dropping it counts the
/// request, so that one whose future is dropped is counted too.
#[derive(Debug)]
pub struct Record {
    pub started: Instant,
    /// Where it is counted; replaced once its upstream is known.
    pub account: Rc<Account>,
    /// The status for the client, and when it was known.
    answer: Option<(u16, Instant)>,
    end: End,
    pub method: KnownMethod,
    /// What its line in the access log will say, if its listener has one.
    pub entry: Option<Box<Entry>>,
    /// Its id, if requests have one.
    pub request_id: Option<Box<HeaderValue>>,
    /// What is recorded of it, if it is traced.
    pub trace: Option<Box<Trace>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nobody has said. When the record is dropped like that, the client has gone.
    Open,
    Whole,
    Cut(Fault),
}

impl Record {
    pub fn new(started: Instant, account: Rc<Account>) -> Self {
        Self {
            started,
            account,
            answer: None,
            end: End::Open,
            method: KnownMethod::default(),
            entry: None,
            request_id: None,
            trace: None,
        }
    }

    /// The head of the answer is known.
    pub fn answered(&mut self, status: u16, at: Instant) {
        self.answer = Some((status, at));
    }

    /// The answer has come to its end.
    pub fn ended(&mut self) {
        if self.end == End::Open {
            self.end = End::Whole;
        }
    }

    /// The answer will not come to its end. The first who says so is right.
    pub fn cut(&mut self, fault: Fault) {
        if self.end == End::Open {
            self.end = End::Cut(fault);
        }
    }

    /// How long the head of the answer took.
    fn took(&self) -> Option<Duration> {
        self.answer.map(|(_, at)| at.saturating_duration_since(self.started))
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Account { metrics, worker, times } = &*self.account;
        if let (Some((status, _)), Some(took)) = (self.answer, self.took()) {
            let took = Took::of(took);
            metrics.answered(*worker, status, took);
            if let Some(times) = times {
                times.answered(*worker, self.method, status, took);
            }
        }
        let cut = match self.end {
            End::Whole => None,
            End::Open => Some(Fault::Client),
            End::Cut(fault) => Some(fault),
        };
        if let Some(fault) = cut {
            metrics.cut(*worker, fault);
        }
        if let Some(entry) = &mut self.entry {
            entry.request_id = self.request_id.take().map(|id| *id);
            entry.finish(self.answer.map(|(status, _)| status), cut);
        }
        if let Some(trace) = self.trace.take() {
            trace.finish(self.answer.map(|(status, _)| status), cut);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_counted_once_however_it_ends() {
        let metrics = Arc::new(UpstreamMetrics::new(1));
        let account = Rc::new(Account { metrics: metrics.clone(), worker: 0, times: None });
        let record = || Record::new(Instant::now(), account.clone());
        let answered = || {
            let mut record = record();
            record.answered(200, Instant::now());
            record
        };
        answered().ended();
        // The client goes, with an answer on its way or without.
        drop(answered());
        drop(record());
        let mut broken = answered();
        broken.cut(Fault::Endpoint);
        broken.ended();
        drop(broken);
        record().cut(Fault::Local);
        let mut first = record();
        first.cut(Fault::Client);
        first.cut(Fault::Endpoint);
        drop(first);

        let counts = metrics.counts();
        assert_eq!((counts.statuses[1], counts.latencies.count()), (3, 3));
        assert_eq!(counts.cut, [3, 1, 1], "the first who says so is right");
    }
}
