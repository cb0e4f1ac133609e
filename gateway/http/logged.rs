//! What the access log learns of a request, and its trace of why it failed. Nothing here costs anything where there is
//! none.

use std::{sync::Arc, time::Instant};

use http::{Request, Response, Version};
use hyper::body::{Body as _, Incoming};

use super::{RequestError, grpc, reply::ReplyBody, service::Peer};
use crate::{
    server::ConnInfo,
    telemetry::{
        Record,
        access::{AccessLog, Entry, Failure},
    },
};

/// Begins what the line of a request will say. None: its head was not understood.
pub(super) fn entry(
    log: &Arc<AccessLog>,
    peer: &Peer,
    connection: &ConnInfo,
    began: Instant,
    request: Option<&Request<Incoming>>,
) -> Box<Entry> {
    let protocol = match request.map(Request::version) {
        Some(Version::HTTP_2) => "HTTP/2",
        Some(Version::HTTP_10) => "HTTP/1.0",
        Some(_) => "HTTP/1.1",
        None => "HTTP",
    };
    let (worker, listener) = (peer.worker.index, &peer.listener.name);
    let mut entry = Entry::new(log, worker, began, listener, connection.peer(), protocol);
    if let Some(request) = request {
        entry.asks(request.method().as_str(), request.uri(), request.headers());
    }
    entry.server_name = connection.tls().and_then(|tls| tls.name.as_deref().map(str::to_owned));
    entry
}

/// Why no endpoint has answered.
pub(super) fn failed(record: &mut Record, error: &RequestError) {
    if let Some(entry) = &mut record.entry {
        explain(entry, error);
    }
    if let Some(trace) = &mut record.trace {
        trace.failed(error.facts().1);
        if trace.is_call {
            trace.grpc_status = Some(grpc::code(error.status()) as u32);
        }
    }
}

/// Has a line say why something failed.
pub fn explain(entry: &mut Entry, error: &RequestError) {
    let reason = error.facts().1;
    entry.failed(Failure { flag: error.flag(), reason });
    if matches!(error, RequestError::Dial(_) | RequestError::Reset(_) | RequestError::BadAnswer(_)) {
        entry.transport_failure = Some(error.to_string());
    }
}

/// An answer of the gateway's own is on its way.
pub(super) fn sends(record: &mut Record, response: &Response<ReplyBody>) {
    if let Some(entry) = &mut record.entry {
        entry.sent = response.body().size_hint().exact().unwrap_or_default();
    }
}
