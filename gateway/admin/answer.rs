//! How answers look, and which status each refusal has.

use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Serialize;

use crate::telemetry::Readiness;

pub(super) type Body = Full<Bytes>;

/// Why a request is not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rejection {
    #[error(
        "nothing at {0:?}; there are /healthz, /readyz, /metrics, /api/v1/upstreams, /api/v1/plugins and \
         /api/v1/services"
    )]
    NoResource(String),
    #[error("no {kind} {name:?}")]
    NotFound { kind: &'static str, name: String },
    #[error("{method} is not for this path; allowed: {allowed}")]
    WrongMethod { method: Method, allowed: &'static str },
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    NotSaved(String),
    #[error("{0}")]
    Full(String),
    #[error("body is longer than {0} bytes")]
    TooLong(usize),
    #[error("body did not arrive within {0:?}")]
    TooSlow(Duration),
    #[error("{0} the header Authorization: Bearer TOKEN")]
    NoToken(&'static str),
    #[error("the token is wrong")]
    WrongToken,
    #[error("a page of {0:?} may not change anything here")]
    ForeignOrigin(String),
    #[error(
        "host {0:?} is not this gateway: use its address, or localhost, or name the host in the configuration"
    )]
    ForeignHost(String),
    #[error("a request names one host: {0}")]
    Host(&'static str),
    #[error("what came through a proxy ({header}, from {peer}) may not change anything here")]
    ThroughProxy { header: String, peer: IpAddr },
    #[error("the gateway is busy with other requests")]
    Busy,
    #[error("the answer could not be made")]
    Failed,
}

impl Rejection {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoResource(_) | Self::NotFound { .. } => StatusCode::NOT_FOUND,
            Self::WrongMethod { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Invalid(_) | Self::Host(_) => StatusCode::BAD_REQUEST,
            Self::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::NoToken(_) | Self::WrongToken => StatusCode::UNAUTHORIZED,
            Self::ForeignOrigin(_) | Self::ThroughProxy { .. } => StatusCode::FORBIDDEN,
            Self::ForeignHost(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::NotSaved(_) | Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Full(_) => StatusCode::INSUFFICIENT_STORAGE,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(super) fn into_response(self) -> Response<Body> {
        #[derive(Serialize)]
        struct Error {
            error: String,
        }
        let mut response = json(&Error { error: self.to_string() });
        *response.status_mut() = self.status();
        match self {
            Self::WrongMethod { allowed, .. } => {
                response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            }
            Self::NoToken(_) | Self::WrongToken => {
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Busy => {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

#[derive(Serialize)]
pub(super) struct Status {
    pub(super) status: &'static str,
}

pub(super) fn readiness(readiness: &Readiness) -> Response<Body> {
    let status = readiness.as_str();
    let mut response = json(&Status { status });
    if status != "ready" {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

/// 200 with `value` as a JSON object, and a line end for whoever reads it in a terminal.
pub(super) fn json(value: &impl Serialize) -> Response<Body> {
    // Only a map whose keys are no text fails to become JSON, and no answer has one.
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    with_type(text, "application/json")
}

pub(super) fn with_type(text: impl Into<Bytes>, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) fn nothing() -> Response<Body> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
