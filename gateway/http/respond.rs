//! What a client is told when something went wrong. Every failure becomes a status here and nowhere else.
//!
//! Each such answer has a short text as its body and the header `x-witgate-reason`, whose values are stable:
//!
//! | reason | status | what happened |
//! |---|---|---|
//! | `no-route` | 404 | no route matches listener, host, path and headers |
//! | `unknown-service` | 404 | the name is no service name here, or the registry knows no such service |
//! | `too-many-services` | 503 | so many services are followed already that no other can be |
//! | `list-not-yet` | 503 | the registry has not told the first list of the service in time |
//! | `no-endpoints` | 503 | the upstream has no endpoints |
//! | `drained` | 503 | instances of the upstream are there, and all of them have weight 0 |
//! | `nothing-suits` | 503 | the selector found no endpoint for this request |
//! | `breaker-open` | 503 | so many requests to the upstream fail that this one was not sent |
//! | `in-flight-limit` | 503 | so many requests are in flight to the upstream, or to each of its endpoints, that there is no room |
//! | `queue-full` | 503 | there is none, and so many requests wait for it already |
//! | `queue-timeout` | 503 | the request has waited for room for `limits.queue_ms` |
//! | `rate-limited` | 429 | the client, or whoever `rate.by` names, sends more than `rate` allows; `Retry-After` says when to come again |
//! | `connect-failed` | 502 | an endpoint refused the connection, and so did the one tried after it |
//! | `tls-failed` | 502 | with an endpoint no TLS could be agreed on, nor with the one tried after it |
//! | `connect-timeout` | 504 | no connection within `timeouts.connect` |
//! | `endpoint-busy` | 503 | the connections of HTTP/2 to the endpoint carry as many requests as they may, for `timeouts.connect_ms` |
//! | `upstream-reset` | 502 | the connection ended before the head of the answer |
//! | `not-switched` | 502 | a client of HTTP/2 asked for a WebSocket, and the endpoint answered as if it had not |
//! | `upstream-transfer-encoding` | 502 | the answer has a transfer coding other than `chunked` |
//! | `upstream-head-too-large` | 502 | the head of the answer is too large, or has over 100 lines |
//! | `bad-upstream-answer` | 502 | what the endpoint sent is no answer to this request |
//! | `response-timeout` | 504 | no head of an answer within `timeouts.response_ms` after the request was sent |
//! | `upstream-write-timeout` | 504 | the endpoint took nothing of the request for `timeouts.write_ms` |
//! | `try-timeout` | 504 | no head of an answer within `retries.per_try_ms`, and there was no other try |
//! | `endpoint-left` | 504 | the instance left the list more than `leave_ms` ago, and had not answered |
//! | `request-timeout` | 504 | the whole took longer than `timeouts.request_ms` |
//! | `request-body-timeout` | 408 | nothing of the body of the request came for `body_timeout_ms` |
//! | `request-aborted` | 400 | the body of the request did not come as announced |
//! | `request-body-too-large` | 413 | the body of the request is longer than `max_body_bytes` |
//! | `request-body-not-base64` | 400 | the body of a gRPC-Web request that is text is no base64 |
//! | `origin-not-listed` | 403 | a browser asks whether a page may send a call of gRPC-Web, and no origin in `grpc_web` is that of the page |
//! | `expectation-failed` | 417 | the request expects something else than `100-continue` |
//! | `loop-detected` | 508 | the request has been here three times, as `CDN-Loop` says |
//! | `shutting-down` | 503 | the gateway is shutting down, and waits for nothing any more |
//! | `internal-error` | 500 | the gateway has lost the answer, which is a fault of it; its log says more |
//! | `connect-not-supported` | 501 | the method is CONNECT |
//! | `protocol-not-supported` | 501 | it is CONNECT of HTTP/2 with a `:protocol` other than `websocket` |
//! | `head-too-large` | 431 | the request head is longer than `max_header_bytes` or has over 100 lines |
//! | `head-timeout` | 408 | the request head did not come within `header_timeout` |
//! | `bad-request-line` | 400 | the first line is no request line of HTTP/1.0 or 1.1 |
//! | `version-not-supported` | 505 | none of HTTP/1.0, HTTP/1.1 and HTTP/2 |
//! | `bad-request-target` | 400 | the target is none of `/path`, `http://host/path` and (of OPTIONS) `*`, or has bytes that no target has |
//! | `target-too-long` | 414 | the target is longer than 65,534 bytes |
//! | `bad-request-header` | 400 | a header line is malformed: folded, a space before the colon, a bare CR or LF |
//! | `bad-request-host` | 400 | `Host` is missing, repeated or invalid |
//! | `bad-request-content-length` | 400 | `Content-Length` is invalid or repeated |
//! | `bad-request-transfer-encoding` | 400 | `Transfer-Encoding` is anything but `chunked` |
//! | `bad-request-both-lengths` | 400 | both of the two above |
//! | `bad-request-framing` | 400 | it cannot be told where the request begins |
//!
//! Those of the second half close the connection: what follows a malformed request cannot be understood.

use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use super::{grpc, reply::ReplyBody, waits::Wait};
use crate::{
    catalog::FindError,
    client::DialError,
    dispatch::NotDispatched,
    selector::PickError,
    server::Refusal,
    telemetry::{Fault, Refused, access::flag},
};

const REASON: HeaderName = HeaderName::from_static("x-witgate-reason");

/// Why a request got no answer from an endpoint.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("no route matches this request")]
    NoRoute,
    #[error(transparent)]
    NotDispatched(#[from] NotDispatched),
    #[error("more requests than the rate of the route, until in {0} s")]
    TooFast(u64),
    #[error("the body of the request is longer than it may be")]
    BodyTooLarge,
    #[error("the body of the request is no base64")]
    NotBase64,
    #[error("a page of an origin that is not listed asks")]
    Origin,
    #[error("no connection: {0}")]
    Dial(#[from] DialError),
    #[error("connection ended before the answer: {0}")]
    Reset(String),
    #[error("not an answer: {0}")]
    BadAnswer(String),
    #[error("the endpoint has an answer, and no WebSocket")]
    NotSwitched,
    #[error("the answer has a transfer coding other than chunked")]
    AnswerCoding,
    #[error("the head of the answer is too large, or has over 100 lines")]
    AnswerTooLarge,
    #[error("waited too long: {0:?}")]
    Expired(Wait),
    #[error("request body ended early: {0}")]
    Aborted(String),
    #[error("the client expects what cannot be fulfilled")]
    Expectation,
    #[error("the request has been here too often")]
    Loop,
    #[error("the answer was lost in the gateway")]
    Lost,
    #[error("request refused: {0}")]
    Refused(#[from] Refusal),
}

/// Status, reason and text.
type Facts = (StatusCode, &'static str, &'static str);

const SHUTTING_DOWN: Facts =
    (StatusCode::SERVICE_UNAVAILABLE, "shutting-down", "the gateway is shutting down");

fn not_dispatched(error: &NotDispatched) -> Facts {
    let unavailable = |reason, text| (StatusCode::SERVICE_UNAVAILABLE, reason, text);
    match error {
        NotDispatched::UnknownService | NotDispatched::Find(FindError::Unknown(_)) => {
            (StatusCode::NOT_FOUND, "unknown-service", "no such service")
        }
        NotDispatched::Find(FindError::TooMany(_)) => {
            unavailable("too-many-services", "too many services are followed")
        }
        NotDispatched::Find(FindError::NotYet(_)) => {
            unavailable("list-not-yet", "the service has no list of instances yet")
        }
        NotDispatched::Find(FindError::Closing) => SHUTTING_DOWN,
        NotDispatched::Pick(PickError::NoEndpoints(_)) | NotDispatched::NoUpstream => {
            unavailable("no-endpoints", "the service has no instances")
        }
        NotDispatched::Pick(PickError::NothingSuits(_)) => {
            unavailable("nothing-suits", "no instance suits this request")
        }
        NotDispatched::Drained => unavailable("drained", "all instances of the service are drained"),
        NotDispatched::Full => not_dispatched(&NotDispatched::Refused(Refused::InFlightLimit)),
        NotDispatched::Refused(refused) => {
            let text = match refused {
                Refused::BreakerOpen => "the service fails",
                Refused::BodyTooLarge => return RequestError::BodyTooLarge.facts(),
                Refused::InFlightLimit | Refused::QueueFull | Refused::QueueTimeout => {
                    "the service has too many requests"
                }
            };
            unavailable(refused.as_str(), text)
        }
    }
}

impl RequestError {
    /// Status, reason and text. The text says no more than a stranger may know.
    pub fn facts(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::NoRoute => (StatusCode::NOT_FOUND, "no-route", "no route matches this request"),
            Self::NotDispatched(error) => not_dispatched(error),
            Self::Expired(Wait::Closing) => SHUTTING_DOWN,
            Self::Origin => {
                (StatusCode::FORBIDDEN, "origin-not-listed", "pages of this origin may not call this")
            }
            Self::TooFast(_) => (StatusCode::TOO_MANY_REQUESTS, "rate-limited", "too many requests"),
            Self::BodyTooLarge => {
                let text = "the request's body is too large";
                (StatusCode::PAYLOAD_TOO_LARGE, Refused::BodyTooLarge.as_str(), text)
            }
            Self::NotBase64 => {
                (StatusCode::BAD_REQUEST, "request-body-not-base64", "the request's body is no base64")
            }
            Self::Dial(DialError::Failed { .. }) => {
                (StatusCode::BAD_GATEWAY, "connect-failed", "the instance could not be reached")
            }
            Self::Dial(DialError::Tls { .. }) => {
                (StatusCode::BAD_GATEWAY, "tls-failed", "no TLS could be agreed on with the instance")
            }
            Self::Dial(DialError::Busy { .. }) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "endpoint-busy",
                "the instance takes no more requests at once",
            ),
            Self::Dial(DialError::TimedOut { .. }) => {
                (StatusCode::GATEWAY_TIMEOUT, "connect-timeout", "the instance could not be reached in time")
            }
            Self::Reset(_) => {
                (StatusCode::BAD_GATEWAY, "upstream-reset", "the instance closed the connection")
            }
            Self::BadAnswer(_) => {
                (StatusCode::BAD_GATEWAY, "bad-upstream-answer", "the instance gave no proper answer")
            }
            Self::NotSwitched => {
                (StatusCode::BAD_GATEWAY, "not-switched", "the instance has no WebSocket here")
            }
            Self::AnswerCoding => {
                (StatusCode::BAD_GATEWAY, "upstream-transfer-encoding", "the instance's answer is coded")
            }
            Self::AnswerTooLarge => {
                (StatusCode::BAD_GATEWAY, "upstream-head-too-large", "the head of the answer is too large")
            }
            Self::Expired(Wait::Upload) => {
                (StatusCode::REQUEST_TIMEOUT, "request-body-timeout", "the request's body took too long")
            }
            Self::Expired(Wait::Room) => (
                StatusCode::GATEWAY_TIMEOUT,
                "upstream-write-timeout",
                "the instance did not take the request",
            ),
            Self::Expired(Wait::Head | Wait::Answer) => {
                (StatusCode::GATEWAY_TIMEOUT, "response-timeout", "the instance did not answer in time")
            }
            Self::Expired(Wait::Try) => {
                (StatusCode::GATEWAY_TIMEOUT, "try-timeout", "the instance did not answer in time")
            }
            Self::Expired(Wait::WholeOfClient | Wait::WholeOfEndpoint) => {
                (StatusCode::GATEWAY_TIMEOUT, "request-timeout", "the request took too long")
            }
            Self::Expired(Wait::Leave) => {
                (StatusCode::GATEWAY_TIMEOUT, "endpoint-left", "the instance left before it answered")
            }
            Self::Aborted(_) => (StatusCode::BAD_REQUEST, "request-aborted", "the request was not complete"),
            Self::Expectation => {
                (StatusCode::EXPECTATION_FAILED, "expectation-failed", "only 100-continue can be expected")
            }
            Self::Loop => (StatusCode::LOOP_DETECTED, "loop-detected", "the request goes round in a circle"),
            Self::Lost => (StatusCode::INTERNAL_SERVER_ERROR, "internal-error", "a fault of the gateway"),
            Self::Refused(refusal) => refused(*refusal),
        }
    }

    /// Whose failure it is, in one place.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Expectation
            | Self::Aborted(_)
            | Self::Refused(_)
            | Self::BodyTooLarge
            | Self::NotBase64 => Fault::Client,
            Self::Expired(wait) => wait.fault(),
            Self::Dial(error) if error.is_own() => Fault::Local,
            Self::Dial(_)
            | Self::Reset(_)
            | Self::BadAnswer(_)
            | Self::AnswerCoding
            | Self::AnswerTooLarge => Fault::Endpoint,
            Self::NoRoute
            | Self::NotDispatched(_)
            | Self::TooFast(_)
            | Self::Origin
            // It is the client who asked for what is not there, and a whole answer says nothing against an endpoint.
            | Self::NotSwitched
            | Self::Loop
            | Self::Lost => Fault::Local,
        }
    }

    /// The letters that the access log has for it.
    pub fn flag(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoRoute => flag::NO_ROUTE,
            Self::NotDispatched(
                NotDispatched::UnknownService | NotDispatched::Find(FindError::Unknown(_)),
            ) => flag::NO_UPSTREAM,
            Self::NotDispatched(NotDispatched::Full | NotDispatched::Refused(_))
            | Self::NotDispatched(NotDispatched::Find(FindError::TooMany(_)))
            | Self::Dial(DialError::Busy { .. }) => flag::OVERFLOW,
            Self::NotDispatched(NotDispatched::Find(FindError::Closing)) | Self::Expired(Wait::Closing) => {
                flag::ENDED_HERE
            }
            Self::NotDispatched(_) => flag::NONE_HEALTHY,
            Self::TooFast(_) => flag::RATE_LIMITED,
            Self::Dial(_) => flag::CONNECT_FAILED,
            Self::Reset(_) => flag::BROKE_OFF,
            Self::BadAnswer(_) | Self::AnswerCoding | Self::AnswerTooLarge => flag::PROTOCOL_OF_ENDPOINT,
            Self::Expired(Wait::Upload) => flag::IDLE,
            Self::Expired(Wait::WholeOfClient | Wait::WholeOfEndpoint) => flag::WHOLE_TIMED_OUT,
            Self::Expired(_) => flag::TIMED_OUT,
            Self::Refused(Refusal::HeadTimeout) => flag::IDLE,
            Self::Refused(_) | Self::Aborted(_) | Self::NotBase64 => flag::PROTOCOL_OF_CLIENT,
            Self::BodyTooLarge
            | Self::Origin
            | Self::NotSwitched
            | Self::Expectation
            | Self::Loop
            | Self::Lost => return None,
        })
    }

    /// As what it is counted, if the gateway refused the request to its upstream.
    pub fn refused(&self) -> Option<Refused> {
        match self {
            Self::NotDispatched(NotDispatched::Refused(refused)) => Some(*refused),
            Self::NotDispatched(NotDispatched::Full) => Some(Refused::InFlightLimit),
            Self::BodyTooLarge => Some(Refused::BodyTooLarge),
            _ => None,
        }
    }

    /// The status that this is counted as.
    pub(super) fn status(&self) -> StatusCode {
        self.facts().0
    }

    /// The answer for the client, whose request may be a call of gRPC.
    pub(super) fn response(&self, is_call: bool) -> Response<ReplyBody> {
        let (status, reason, text) = self.facts();
        let (body, shown) =
            if is_call { (ReplyBody::Empty, StatusCode::OK) } else { (ReplyBody::Text(text), status) };
        let mut response = Response::new(body);
        *response.status_mut() = shown;
        let headers = response.headers_mut();
        headers.insert(REASON, HeaderValue::from_static(reason));
        if is_call {
            grpc::fail(headers, grpc::code(status), reason, text);
        } else {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        }
        if let Self::TooFast(seconds) = self {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(*seconds));
        }
        if self.fault() == Fault::Client {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

fn refused(refusal: Refusal) -> (StatusCode, &'static str, &'static str) {
    let bad = |reason, text| (StatusCode::BAD_REQUEST, reason, text);
    match refusal {
        Refusal::RequestLine => bad("bad-request-line", "malformed request line"),
        Refusal::Target => bad("bad-request-target", "invalid request target"),
        Refusal::TargetTooLong => (StatusCode::URI_TOO_LONG, "target-too-long", "request target too long"),
        Refusal::Version => {
            let text = "only HTTP/1.0, HTTP/1.1 and HTTP/2 are supported";
            (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "version-not-supported", text)
        }
        Refusal::HeaderLine => bad("bad-request-header", "malformed header line"),
        Refusal::Host => bad("bad-request-host", "missing, repeated or invalid host"),
        Refusal::ContentLength => bad("bad-request-content-length", "invalid or repeated content-length"),
        Refusal::TransferEncoding => {
            bad("bad-request-transfer-encoding", "transfer-encoding other than chunked")
        }
        Refusal::BothLengths => bad("bad-request-both-lengths", "both content-length and transfer-encoding"),
        Refusal::Unclear => bad("bad-request-framing", "unclear where the request begins"),
        Refusal::Connect => {
            (StatusCode::NOT_IMPLEMENTED, "connect-not-supported", "CONNECT is not supported")
        }
        Refusal::Protocol => {
            let text = "only WebSocket is supported by CONNECT";
            (StatusCode::NOT_IMPLEMENTED, "protocol-not-supported", text)
        }
        Refusal::HeadTooLarge => {
            (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large", "request head too large")
        }
        Refusal::HeadTimeout => (StatusCode::REQUEST_TIMEOUT, "head-timeout", "request head took too long"),
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Duration};

    use super::*;
    use crate::upstream::UpstreamName;

    /// The letters of each kind of failure, all of which are documented.
    #[test]
    fn a_failure_has_its_letters_in_the_access_log() {
        let (address, limit) = (SocketAddr::from(([127, 0, 0, 1], 1)), Duration::ZERO);
        let main = || UpstreamName::new("main");
        let failed =
            || DialError::Failed { address, error: std::sync::Arc::new(std::io::Error::other("no")) };
        for (error, letters) in [
            (RequestError::NoRoute, Some("NR")),
            (NotDispatched::UnknownService.into(), Some("NC")),
            (NotDispatched::from(FindError::Closing).into(), Some("LR")),
            (NotDispatched::from(PickError::NoEndpoints(main())).into(), Some("UH")),
            (NotDispatched::Drained.into(), Some("UH")),
            (NotDispatched::Full.into(), Some("UO")),
            (NotDispatched::Refused(Refused::BreakerOpen).into(), Some("UO")),
            (DialError::Busy { address, limit }.into(), Some("UO")),
            (RequestError::TooFast(1), Some("RL")),
            (failed().into(), Some("UF")),
            (DialError::TimedOut { address, limit }.into(), Some("UF")),
            (RequestError::Reset("gone".into()), Some("UC")),
            (RequestError::BadAnswer("no".into()), Some("UPE")),
            (RequestError::AnswerTooLarge, Some("UPE")),
            (RequestError::Expired(Wait::Head), Some("UT")),
            (RequestError::Expired(Wait::Leave), Some("UT")),
            (RequestError::Expired(Wait::WholeOfEndpoint), Some("DT")),
            (RequestError::Expired(Wait::Upload), Some("SI")),
            (RequestError::Expired(Wait::Closing), Some("LR")),
            (Refusal::HeadTimeout.into(), Some("SI")),
            (Refusal::Host.into(), Some("DPE")),
            (RequestError::Aborted("gone".into()), Some("DPE")),
            (RequestError::BodyTooLarge, None),
            (RequestError::Loop, None),
        ] {
            assert_eq!(error.flag(), letters, "{error}");
            let documented = include_str!("../../docs/configuration.md");
            assert!(
                letters.is_none_or(|letters| documented.contains(&format!("`{letters}`"))),
                "{letters:?}"
            );
        }
    }
}
