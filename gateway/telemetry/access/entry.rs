//! What a line will say, as it becomes known.

use std::{
    borrow::Cow,
    cell::Cell,
    fmt,
    net::SocketAddr,
    num::NonZeroU128,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

use super::{AccessLog, Format, Settings, line};
use crate::{
    syntax::{authority, grpc::Code, query, trace_context::TraceParent},
    telemetry::Fault,
    upstream::UpstreamName,
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// In the place of what is left out.
const HIDDEN: &str = "***";

/// Everything, as a name of a query's parameter.
const ALL: &str = "*";

/// Letters that say what went wrong, as Envoy has them.
pub mod flag {
    pub const CONNECT_FAILED: &str = "UF";
    pub const NONE_HEALTHY: &str = "UH";
    pub const OVERFLOW: &str = "UO";
    pub const TIMED_OUT: &str = "UT";
    /// The time for the whole request was over.
    pub const WHOLE_TIMED_OUT: &str = "DT";
    /// One side paused for too long.
    pub const IDLE: &str = "SI";
    /// The endpoint closed the connection, or reset the stream.
    pub const BROKE_OFF: &str = "UC";
    pub const PROTOCOL_OF_ENDPOINT: &str = "UPE";
    pub const PROTOCOL_OF_CLIENT: &str = "DPE";
    pub const NO_ROUTE: &str = "NR";
    /// No upstream for the name that was asked for.
    pub const NO_UPSTREAM: &str = "NC";
    pub const CLIENT_LEFT: &str = "DC";
    pub const RATE_LIMITED: &str = "RL";
    /// The gateway ended it.
    pub const ENDED_HERE: &str = "LR";
}

/// Why there is no answer of an endpoint, or no whole one.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    /// One of [`flag`]; none where no letter fits.
    pub flag: Option<&'static str>,
    /// As in `x-witgate-reason`.
    pub reason: &'static str,
}

/// Lives on one worker. Dropped, it is written.
pub struct Entry {
    log: Arc<AccessLog>,
    worker: usize,
    pub(super) at: SystemTime,
    began: Instant,
    pub(super) listener: Arc<str>,
    pub(super) client: SocketAddr,
    pub(super) protocol: &'static str,
    pub(super) method: Option<String>,
    pub(super) path: Option<String>,
    pub(super) authority: Option<String>,
    pub(super) forwarded_for: Option<HeaderValue>,
    pub(super) user_agent: Option<HeaderValue>,
    pub request_id: Option<HeaderValue>,
    /// The trace that it belongs to.
    pub trace: Option<NonZeroU128>,
    /// The name that the client asked for in TLS.
    pub server_name: Option<String>,
    pub route: Option<Arc<str>>,
    pub upstream: Option<UpstreamName>,
    pub endpoint: Option<SocketAddr>,
    pub attempts: u32,
    /// From the beginning of the last attempt to the head of its answer.
    pub endpoint_took: Option<Duration>,
    /// Bytes of the client's body, or of its connection.
    pub received: Rc<Cell<u64>>,
    /// Bytes of the body for the client, or of its connection.
    pub sent: u64,
    pub grpc_status: Option<u32>,
    /// What was wrong with the connection to the endpoint.
    pub transport_failure: Option<String>,
    pub(super) failure: Option<Failure>,
    pub(super) status: u16,
    pub(super) took: Duration,
    counter: Option<Counter>,
}

/// Says how many bytes have come from a client, and how many went to it.
pub type Counter = Box<dyn Fn() -> (u64, u64)>;

impl Entry {
    pub fn new(
        log: &Arc<AccessLog>,
        worker: usize,
        began: Instant,
        listener: &Arc<str>,
        client: SocketAddr,
        protocol: &'static str,
    ) -> Box<Self> {
        Box::new(Self {
            log: log.clone(),
            worker,
            at: SystemTime::now(),
            began,
            listener: listener.clone(),
            client,
            protocol,
            method: None,
            path: None,
            authority: None,
            forwarded_for: None,
            user_agent: None,
            request_id: None,
            trace: None,
            server_name: None,
            route: None,
            upstream: None,
            endpoint: None,
            attempts: 0,
            endpoint_took: None,
            received: Rc::default(),
            sent: 0,
            grpc_status: None,
            transport_failure: None,
            failure: None,
            status: 0,
            took: Duration::ZERO,
            counter: None,
        })
    }

    /// What a request of HTTP asks for.
    pub fn asks(&mut self, method: &str, target: &Uri, headers: &HeaderMap) {
        self.method = Some(method.to_owned());
        self.path = Some(self.without_secrets(target));
        self.trace = TraceParent::of(headers).map(|parent| parent.trace);
        self.authority = authority::sent(target, headers).map(Cow::into_owned);
        let visible = |name: HeaderName| {
            let value = headers.get(&name)?;
            Some(if self.log.hides(&name) { HeaderValue::from_static(HIDDEN) } else { value.clone() })
        };
        (self.forwarded_for, self.user_agent) = (visible(FORWARDED_FOR), visible(header::USER_AGENT));
    }

    /// What a call of rpcx asks for.
    pub fn calls(&mut self, path: String, method: String) {
        (self.path, self.method) = (Some(path), Some(method));
    }

    fn without_secrets(&self, target: &Uri) -> String {
        let hidden = &self.log.settings.hide_query;
        match target.query() {
            Some(query) if !hidden.is_empty() => {
                let hides = |name: &str| hidden.iter().any(|hidden| hidden == ALL || hidden == name);
                format!("{}?{}", target.path(), query::masked(query, HIDDEN, hides))
            }
            Some(query) => format!("{}?{query}", target.path()),
            None => target.path().to_owned(),
        }
    }

    /// What goes through is counted by somebody else, until the line is written.
    pub fn counts_by(&mut self, counter: Counter) {
        self.counter = Some(counter);
    }

    /// Another attempt begins.
    pub fn tries(&mut self, endpoint: SocketAddr) {
        self.endpoint = Some(endpoint);
        self.attempts += 1;
    }

    /// What went wrong; the first who says so is right.
    pub fn failed(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    /// With what status it was counted, if there was one, and whether somebody has cut it.
    pub fn finish(&mut self, status: Option<u16>, cut: Option<Fault>) {
        self.status = status.unwrap_or_default();
        let (flag, reason) = match cut {
            None => return,
            Some(Fault::Client) => (flag::CLIENT_LEFT, "client-left"),
            Some(Fault::Endpoint) => (flag::BROKE_OFF, "upstream-broke-off"),
            Some(Fault::Local) => (flag::ENDED_HERE, "ended-by-gateway"),
        };
        self.failed(Failure { flag: Some(flag), reason });
    }

    /// Whether there is a line, whatever the share of those that went well.
    fn is_error(&self) -> bool {
        let call_failed = self.grpc_status.and_then(Code::of).is_some_and(Code::is_servers_fault);
        self.failure.is_some() || self.status >= 500 || call_failed
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("path", &self.path)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let Settings { format, sample, .. } = self.log.settings;
        if !(self.is_error() || sample >= 1.0 || fastrand::f64() < sample) {
            return;
        }
        self.took = self.began.elapsed();
        if let Some(counter) = &self.counter {
            let (received, sent) = counter();
            self.received.set(received);
            self.sent = sent;
        }
        let line = match format {
            Format::Text => line::text(self),
            Format::Json => line::json(self),
        };
        self.log.sink.push(self.worker, line.as_bytes());
    }
}
