//! One connection to a collector, and what comes of a batch that is sent over it.

use std::{fmt, sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message as _;
use tokio::task::JoinHandle;

use super::{OLDEST, messages::Exported};
use crate::{
    config::{OtlpProtocol, Tracing},
    connector::http::{Current, DialError, dial},
    net::Wire,
    syntax::grpc::Code,
    tls::{self, Protocol},
};

/// The part of an answer that is looked at, in bytes.
const LONGEST: usize = 64 << 10;

/// The type of what is sent by HTTP, and of an answer to it.
const PROTOBUF: &str = "application/x-protobuf";

/// Before a message of gRPC: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Statuses of gRPC after which the same may be sent again.
const PASSING: [Code; 6] = [
    Code::Cancelled,
    Code::DeadlineExceeded,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unavailable,
    Code::DataLoss,
];

const USER_AGENT: &str = concat!("witgate/", env!("CARGO_PKG_VERSION"));

/// Why a batch was not taken.
#[derive(Debug)]
pub(super) enum SendError {
    /// It may be sent again, not before that time if there is one.
    Later { why: String, after: Option<Duration> },
    /// It will never be taken.
    Refused(String),
}

impl SendError {
    fn later(why: impl fmt::Display) -> Self {
        Self::Later { why: why.to_string(), after: None }
    }
}

pub(super) struct Collector {
    settings: Arc<Tracing>,
    tls: Option<Arc<tls::Client>>,
    token: Option<Current>,
    open: Option<Open>,
}

/// Dropping it closes the connection.
struct Open {
    sender: Sender,
    task: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Collector {
    pub(super) fn new(settings: Arc<Tracing>, tls: Option<Arc<tls::Client>>) -> Self {
        let token = settings.token.clone().map(Current::new);
        Self { settings, tls, token, open: None }
    }

    /// Sends a batch, and says how many of its spans were not taken, and why if the collector does. What is not
    /// answered within the time limit has failed.
    pub(super) async fn send(&mut self, batch: &Bytes) -> Result<(usize, String), SendError> {
        let sent = tokio::time::timeout(self.settings.timeout, self.send_within(batch)).await;
        let sent = sent.unwrap_or_else(|_| {
            Err(SendError::later(format_args!("no answer within {:?}", self.settings.timeout)))
        });
        if matches!(sent, Err(SendError::Later { .. })) {
            self.open = None;
        }
        sent
    }

    async fn send_within(&mut self, batch: &Bytes) -> Result<(usize, String), SendError> {
        let request = self.request(batch).await;
        if self.open.as_mut().is_none_or(|open| open.sender.is_closed()) {
            self.open = None;
            self.open = Some(self.dial().await.map_err(SendError::later)?);
        }
        let Some(open) = &mut self.open else { return Err(SendError::later("no connection")) };
        let response = open.sender.send(request).await.map_err(|error| SendError::later(whole(&error)))?;
        match self.settings.protocol {
            OtlpProtocol::Grpc => of_grpc(response).await,
            OtlpProtocol::Http => of_http(response).await,
        }
    }

    async fn request(&self, batch: &Bytes) -> Request<Full<Bytes>> {
        let Tracing { endpoint, protocol, .. } = &*self.settings;
        let (body, kind, uri) = match protocol {
            OtlpProtocol::Grpc => (framed(batch), "application/grpc", endpoint.uri().clone()),
            OtlpProtocol::Http => {
                let path = endpoint.uri().path_and_query().cloned();
                (batch.clone(), PROTOBUF, path.map(Into::into).unwrap_or_default())
            }
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        match protocol {
            OtlpProtocol::Grpc => headers.insert(header::TE, HeaderValue::from_static("trailers")),
            OtlpProtocol::Http => headers.insert(header::HOST, endpoint.authority().clone()),
        };
        if let Some(token) = &self.token {
            token.add_to(headers).await;
        }
        request
    }

    async fn dial(&self) -> Result<Open, OpenError> {
        let Tracing { endpoint, protocol, timeout, .. } = &*self.settings;
        let spoken = match protocol {
            OtlpProtocol::Grpc => Protocol::Http2,
            OtlpProtocol::Http => Protocol::Http1,
        };
        // Each address has its part of the time that there is for the batch.
        let limit = |addresses| *timeout / addresses;
        let place = (endpoint.host(), endpoint.port());
        let wire = dial(place, self.tls.as_deref(), spoken, limit).await?;
        Ok(open(wire, *protocol).await?)
    }
}

async fn open(wire: Box<dyn Wire>, protocol: OtlpProtocol) -> Result<Open, hyper::Error> {
    let wire = TokioIo::new(wire);
    // How a connection ends is told by the request that runs over it.
    Ok(match protocol {
        OtlpProtocol::Http => {
            let (sender, connection) = http1::handshake(wire).await?;
            Open { sender: Sender::Http1(sender), task: tokio::spawn(async move { drop(connection.await) }) }
        }
        OtlpProtocol::Grpc => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new());
            let (sender, connection) = builder.handshake(wire).await?;
            Open { sender: Sender::Http2(sender), task: tokio::spawn(async move { drop(connection.await) }) }
        }
    })
}

impl Sender {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{}", whole(.0))]
    Hyper(#[from] hyper::Error),
}

/// With what caused it.
fn whole(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// A message of gRPC.
fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    framed.freeze()
}

async fn of_http(response: Response<Incoming>) -> Result<(usize, String), SendError> {
    let (head, body) = response.into_parts();
    match head.status {
        status if status.is_success() => {
            let body = Limited::new(body, LONGEST).collect().await;
            // Some say that they have taken all by nothing, or in words of their own.
            if !is_protobuf(&head.headers) {
                return Ok((0, String::new()));
            }
            taken(&body.map_err(SendError::later)?.to_bytes())
        }
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            let why = format!("the collector answers {}", head.status.as_u16());
            Err(SendError::Later { why, after: retry_after(&head.headers) })
        }
        status => Err(SendError::Refused(format!("the collector answers {}", status.as_u16()))),
    }
}

async fn of_grpc(response: Response<Incoming>) -> Result<(usize, String), SendError> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(SendError::later(format_args!("the collector answers {}", head.status.as_u16())));
    }
    let status = |headers: &HeaderMap| {
        let code: u32 = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
        let text = headers.get("grpc-message").and_then(|text| text.to_str().ok()).unwrap_or_default();
        Some((code, text.to_owned()))
    };
    let body = Limited::new(body, LONGEST).collect().await.map_err(SendError::later)?;
    let told = status(&head.headers).or_else(|| body.trailers().and_then(status));
    let Some((code, text)) = told else {
        return Err(SendError::later("the collector does not speak gRPC"));
    };
    match code {
        0 => taken(body.to_bytes().get(PREFIX..).unwrap_or_default()),
        code if Code::of(code).is_some_and(|code| PASSING.contains(&code)) => {
            Err(SendError::later(format_args!("the collector answers with status {code} of gRPC: {text}")))
        }
        code => Err(SendError::Refused(format!("the collector answers with status {code} of gRPC: {text}"))),
    }
}

fn is_protobuf(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(PROTOBUF))
}

/// What an answer says of the spans that it did not take.
fn taken(message: &[u8]) -> Result<(usize, String), SendError> {
    let answer = Exported::decode(message)
        .map_err(|error| SendError::Refused(format!("the answer is none of a collector: {error}")))?;
    let partial = answer.partial_success.unwrap_or_default();
    Ok((usize::try_from(partial.rejected_spans).unwrap_or_default(), partial.error_message))
}

/// No longer than a batch lives: whoever is asked again in a year is never asked again.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(OLDEST))
}
