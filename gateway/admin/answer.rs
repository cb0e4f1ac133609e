//! How answers look, and which status each refusal has.

use std::{io, net::IpAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::{
    Method, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Serialize;

use super::feeds::Feed;
use crate::telemetry::{
    Readiness,
    text::{is_visible, shown},
};

/// All of it at once, or one that goes on.
pub(super) type Body = Either<Full<Bytes>, Feed>;

/// Why a request is not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rejection {
    #[error(
        "nothing at {0:?}; there are the dashboard at /, /healthz, /readyz, /metrics, and below /api/v1/ overview, \
         upstreams, plugins, listeners, configuration and services"
    )]
    NoResource(String),
    #[error("no {kind} {name:?}")]
    NotFound { kind: &'static str, name: String },
    #[error("{method} is not for this path; allowed: {allowed}")]
    WrongMethod { method: Method, allowed: &'static str },
    #[error("{path:?} of {of} is not spoken here; there are {spoken}")]
    NotSpoken { path: String, of: &'static str, spoken: &'static str },
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
    #[error(
        "the token is wrong: the right one is in the file that `token_file` names, or for reading `read_token_file`"
    )]
    WrongToken,
    #[error("the token is the one for reading, and changes need another")]
    TokenForReading,
    #[error("a page of {0:?} may not change anything here")]
    ForeignOrigin(String),
    #[error("a page of {0} may not follow anything here")]
    ForeignViewer(String),
    #[error(
        "host {0:?} is not this gateway: use its address, or localhost, or add the host to `hosts` in its configuration"
    )]
    ForeignHost(String),
    #[error("a request names one host: {0}")]
    Host(&'static str),
    #[error(
        "what came through a proxy ({header}, from {peer}) may not change anything here unless `trusted_proxies` has {peer}"
    )]
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
            Self::NoToken(_) | Self::WrongToken | Self::TokenForReading => StatusCode::UNAUTHORIZED,
            Self::ForeignOrigin(_) | Self::ForeignViewer(_) | Self::ThroughProxy { .. } => {
                StatusCode::FORBIDDEN
            }
            Self::ForeignHost(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::NotSaved(_) | Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Full(_) => StatusCode::INSUFFICIENT_STORAGE,
            Self::NotSpoken { .. } => StatusCode::NOT_IMPLEMENTED,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(super) fn into_response(self) -> Response<Body> {
        #[derive(Serialize)]
        struct Error {
            error: String,
        }
        let mut response = json(&Error { error: shown(&self).to_string() });
        *response.status_mut() = self.status();
        match self {
            Self::WrongMethod { allowed, .. } => {
                response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            }
            Self::NoToken(_) | Self::WrongToken | Self::TokenForReading => {
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

/// 200 with `value` as a JSON object.
pub(super) fn json(value: &impl Serialize) -> Response<Body> {
    with_json(document(value))
}

/// `value` as a JSON object in one line, with its end for whoever reads it in a terminal.
pub(super) fn document(value: &impl Serialize) -> Bytes {
    let mut text = Vec::with_capacity(128);
    // Only a map whose keys are no text fails to become JSON, and no answer has one.
    if value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Visible)).is_err() {
        text.clear();
    }
    text.push(b'\n');
    text.into()
}

pub(super) fn with_json(document: Bytes) -> Response<Body> {
    with_type(document, "application/json")
}

/// An answer that goes on with one document after the other.
pub(super) fn events(feed: Feed) -> Response<Body> {
    let mut response = Response::new(Either::Right(feed));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A proxy like nginx would collect it.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

pub(super) fn whole(bytes: impl Into<Bytes>) -> Body {
    Either::Left(Full::new(bytes.into()))
}

/// Escapes what a terminal would obey or hide, and JSON alone would not.
struct Visible;

impl serde_json::ser::Formatter for Visible {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        let mut plain = 0;
        for (at, c) in text.char_indices().filter(|(_, c)| !is_visible(*c)) {
            writer.write_all(&text.as_bytes()[plain..at])?;
            c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?;
            plain = at + c.len_utf8();
        }
        writer.write_all(&text.as_bytes()[plain..])
    }
}

pub(super) fn with_type(text: impl Into<Bytes>, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(whole(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) fn nothing() -> Response<Body> {
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_the_same_text_and_nothing_that_a_terminal_obeys() {
        let text = "a\n\u{1b}\u{9b}31m\u{7f}\u{202e}\u{e0041}\u{2028}ö\"\\😀";
        let mut written = Vec::new();
        text.serialize(&mut serde_json::Serializer::with_formatter(&mut written, Visible)).unwrap();
        let written = String::from_utf8(written).unwrap();
        assert_eq!(written, r#""a\n\u001b\u009b31m\u007f\u202e\udb40\udc41\u2028ö\"\\😀""#);
        assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
    }
}
