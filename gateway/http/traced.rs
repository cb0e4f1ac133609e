//! What a trace learns of a request. Nothing here costs anything where there is none.

use std::{sync::Arc, time::Instant};

use http::{Request, Response, Version, header};
use hyper::body::Incoming;

use super::{service::Peer, verdict::Failed};
use crate::{
    config::Scheme,
    syntax::authority,
    telemetry::trace::{Asked, Ended, Trace, Tracer},
};

/// Begins the trace of a request, or goes on with it. None: it is not recorded.
pub(super) fn begin(
    tracer: &Arc<Tracer>,
    peer: &Peer,
    request: &mut Request<Incoming>,
    began: Instant,
) -> Option<Box<Trace>> {
    let trusted = peer.sender.is_trusted() || tracer.continues(peer.sender.address);
    let mut trace = tracer.begin(request.headers_mut(), trusted, began)?;
    let (uri, headers) = (request.uri(), request.headers());
    let authority = authority::sent(uri, headers).map(|sent| Asked::cut(&sent)).unwrap_or_default();
    trace.client = Some(peer.ends.client);
    trace.listener = Some(peer.listener.name.clone());
    trace.asked = Some(Asked {
        method: request.method().clone(),
        path: Asked::cut(uri.path()),
        authority,
        scheme: match peer.sender.scheme(headers) {
            Scheme::Http => "http",
            Scheme::Https => "https",
        },
        version: match request.version() {
            Version::HTTP_2 => "2",
            Version::HTTP_10 => "1.0",
            _ => "1.1",
        },
        user_agent: headers.get(header::USER_AGENT).map(Asked::header),
    });
    Some(trace)
}

/// How a try ended, as far as it is known at the head of its answer.
pub(super) fn ended(outcome: &Result<Response<Incoming>, Failed>) -> Ended {
    match outcome {
        Ok(response) => Ended::Answered(response.status().as_u16()),
        Err(failed) => Ended::Failed(failed.error.facts().1),
    }
}
