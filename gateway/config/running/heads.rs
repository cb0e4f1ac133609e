//! What a route writes into the heads of requests and answers, and where it sends clients.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};

/// What a route changes in heads.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Heads {
    pub request: HeaderChanges,
    /// In every answer to a request of the route, the gateway's own among them.
    pub response: HeaderChanges,
    pub host: UpstreamHost,
}

/// Headers that are removed, then set, then added.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeaderChanges {
    pub remove: Vec<HeaderName>,
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub add: Vec<(HeaderName, HeaderValue)>,
}

/// The `Host` that an endpoint gets.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum UpstreamHost {
    /// What the client sent.
    #[default]
    Keep,
    /// The endpoint's name, or its address if it has none.
    Endpoint,
    Name(HeaderValue),
}

/// Where a client is sent. What is none stays as it is in the request, but for the port: none is that of the scheme.
#[derive(Debug, Clone, PartialEq)]
pub struct Redirect {
    pub scheme: Option<Scheme>,
    /// In its normal form.
    pub host: Option<Arc<str>>,
    pub port: Option<u16>,
    pub status: StatusCode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that nobody writes.
    pub fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}
