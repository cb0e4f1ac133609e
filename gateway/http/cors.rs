//! What pages of other origins may do with a route: what their browsers ask before, and what they are told with an
//! answer (the Fetch standard, 3.3).

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts};

use super::{RequestError, reply::ReplyBody};
use crate::{config, syntax::list};

/// What clients of gRPC-Web send with each call.
const X_GRPC_WEB: HeaderName = HeaderName::from_static("x-grpc-web");

/// What a browser asks about before it sends a call.
const ALLOW_HEADERS: [HeaderName; 4] = [
    header::CONTENT_TYPE,
    X_GRPC_WEB,
    HeaderName::from_static("x-user-agent"),
    HeaderName::from_static("grpc-timeout"),
];

/// How a call went, where nothing else is told.
const EXPOSE_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
];

/// What an endpoint may have said, which is not its to say here.
const ACCESS_CONTROL: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

/// The rules of one route, as they are told to browsers. No worker shares them with another.
pub(super) struct Cors {
    origins: Vec<HeaderValue>,
    allow_headers: HeaderValue,
    expose_headers: HeaderValue,
    max_age: HeaderValue,
    allow_credentials: bool,
}

impl Cors {
    pub(super) fn new(config: &config::GrpcWeb) -> Self {
        Self {
            // Both are checked: an origin is ASCII.
            origins: config.allow_origins.iter().filter_map(|origin| origin.parse().ok()).collect(),
            allow_headers: joined(ALLOW_HEADERS.iter().chain(&config.allow_headers)),
            expose_headers: joined(EXPOSE_HEADERS.iter().chain(&config.expose_headers)),
            max_age: config.max_age.as_secs().into(),
            allow_credentials: config.allow_credentials,
        }
    }

    /// The origin of the page that sends a request, if pages of that may use the answer.
    pub(super) fn listed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        self.origins.iter().find(|listed| *listed == origin).cloned()
    }

    /// The answer to a browser that asks whether a page may send a POST. None where it may be no call, and the page is not
    /// listed: so it is the endpoint's to answer.
    pub(super) fn preflight(&self, head: &Parts) -> Option<Result<Response<ReplyBody>, RequestError>> {
        let asked = || head.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD);
        if head.method != Method::OPTIONS || asked().is_none_or(|method| method != Method::POST.as_str()) {
            return None;
        }
        let Some(origin) = self.listed(&head.headers) else {
            let mut asked = list::of(&head.headers, &header::ACCESS_CONTROL_REQUEST_HEADERS);
            let is_call = asked.any(|name| name.eq_ignore_ascii_case(X_GRPC_WEB.as_str().as_bytes()));
            return is_call.then_some(Err(RequestError::Origin));
        };
        let mut response = Response::new(ReplyBody::Empty);
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        self.allow(origin, headers);
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, self.allow_headers.clone());
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        vary(headers);
        Some(Ok(response))
    }

    /// Says in the head of an answer whether the page that asked may use it, whatever is said of that there.
    pub(super) fn answer(&self, origin: Option<HeaderValue>, headers: &mut HeaderMap) {
        for name in &ACCESS_CONTROL {
            headers.remove(name);
        }
        if let Some(origin) = origin {
            self.allow(origin, headers);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, self.expose_headers.clone());
        }
        vary(headers);
    }

    fn allow(&self, origin: HeaderValue, headers: &mut HeaderMap) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.allow_credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

/// Another origin gets another answer, so that no cache may give it this one.
fn vary(headers: &mut HeaderMap) {
    let said =
        |element: &[u8]| element == b"*" || element.eq_ignore_ascii_case(header::ORIGIN.as_str().as_bytes());
    if !list::of(headers, &header::VARY).any(said) {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
}

fn joined<'a>(names: impl Iterator<Item = &'a HeaderName>) -> HeaderValue {
    let names: Vec<&str> = names.map(HeaderName::as_str).collect();
    // Names of headers are values of one.
    HeaderValue::try_from(names.join(", ")).unwrap_or(HeaderValue::from_static(""))
}
