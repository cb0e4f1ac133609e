//! A collector of traces, by OpenTelemetry's own messages: over gRPC with tonic, over HTTP with hyper.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, body::Bytes, body::Incoming, header::HeaderValue, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};
use tonic::{
    Status,
    transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

use super::{
    gateway::until,
    otlp::{
        collector::trace::v1::{
            ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
        common::v1::{KeyValue, any_value::Value},
        trace::v1::{Span, span::SpanKind},
    },
};

/// What it does with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Take,
    /// Takes all but so many.
    TakeBut(i64),
    /// Takes it, and says so by HTTP with this status, a type and a body.
    TakeBy(u16, &'static str, &'static str),
    /// A status of HTTP, or that of gRPC which is like it.
    Fail(u16),
    /// By HTTP, that it cannot take it, and is to be asked again after so many seconds.
    After(u64),
    /// Nothing, for ever.
    Hang,
}

#[derive(Debug, Clone)]
struct State {
    answer: Arc<Mutex<Answer>>,
    spans: Arc<Mutex<Vec<Received>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

/// A span, and who sent it.
#[derive(Debug, Clone)]
pub struct Received {
    pub resource: Vec<KeyValue>,
    pub span: Span,
}

impl Received {
    /// The text of an attribute, whatever it is.
    pub fn attribute(&self, name: &str) -> Option<String> {
        attribute(&self.span.attributes, name)
    }

    pub fn of_resource(&self, name: &str) -> Option<String> {
        attribute(&self.resource, name)
    }

    pub fn is_server(&self) -> bool {
        self.span.kind() == SpanKind::Server
    }

    pub fn is_client(&self) -> bool {
        self.span.kind() == SpanKind::Client
    }

    pub fn is_error(&self) -> bool {
        self.span.status.as_ref().is_some_and(|status| status.code == 2)
    }

    /// As it stands in `traceparent`.
    pub fn context(&self) -> String {
        format!("{}-{}", hex(&self.span.trace_id), hex(&self.span.span_id))
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(of: &[KeyValue], name: &str) -> Option<String> {
    let mut found = of.iter().filter(|pair| pair.key == name);
    let value = found.next()?.value.as_ref()?.value.as_ref()?;
    assert!(found.next().is_none(), "{name} several times");
    Some(match value {
        Value::StringValue(text) => text.clone(),
        Value::BoolValue(flag) => flag.to_string(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    })
}

/// Stops when it is dropped.
pub struct Collector {
    pub address: SocketAddr,
    state: State,
    task: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    pub async fn grpc() -> Self {
        Self::by_grpc("127.0.0.1:0".parse().unwrap(), None).await
    }

    /// The same at this address.
    pub async fn grpc_at(address: SocketAddr) -> Self {
        Self::by_grpc(address, None).await
    }

    /// The same with TLS, by a certificate and its key.
    pub async fn grpc_with_tls(certificate: &str, key: &str) -> Self {
        Self::by_grpc("127.0.0.1:0".parse().unwrap(), Some(Identity::from_pem(certificate, key))).await
    }

    async fn by_grpc(address: SocketAddr, identity: Option<Identity>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State::new();
        let service = TraceServiceServer::new(state.clone());
        let mut server = Server::builder();
        if let Some(identity) = identity {
            server = server.tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
        }
        let serve = server.add_service(service).serve_with_incoming(TcpIncoming::from(listener));
        Self { address, state, task: tokio::spawn(async move { serve.await.unwrap() }) }
    }

    pub async fn http() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State::new();
        let answering = state.clone();
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = answering.clone();
                open.spawn(async move {
                    let service = service_fn(move |request| {
                        let state = state.clone();
                        async move { Ok::<_, Infallible>(state.by_http(request).await) }
                    });
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, state, task }
    }

    pub fn answers(&self, answer: Answer) {
        *self.state.answer.lock().unwrap() = answer;
    }

    /// The tokens that were sent, one for each batch, and `-` where there was none.
    pub fn tokens(&self) -> Vec<String> {
        self.state.asked.lock().unwrap().clone()
    }

    pub fn spans(&self) -> Vec<Received> {
        self.state.spans.lock().unwrap().clone()
    }

    /// Waits for so many spans, which are those of the request before their tries, by their beginning.
    pub async fn until(&self, count: usize) -> Vec<Received> {
        until(&format!("{count} spans"), || async { self.spans().len() >= count }).await;
        let mut spans = self.spans();
        assert_eq!(spans.len(), count, "{spans:#?}");
        spans.sort_by_key(|of| (of.span.start_time_unix_nano, !of.is_server()));
        spans
    }
}

impl State {
    fn new() -> Self {
        Self { answer: Arc::new(Mutex::new(Answer::Take)), spans: Arc::default(), asked: Arc::default() }
    }

    /// Takes a batch unless it is to fail.
    async fn take(&self, batch: ExportTraceServiceRequest, token: String) -> Result<i64, u16> {
        let answer = *self.answer.lock().unwrap();
        self.asked.lock().unwrap().push(token);
        let rejected = match answer {
            Answer::Take | Answer::TakeBy(..) => 0,
            Answer::TakeBut(rejected) => rejected,
            Answer::Fail(status) => return Err(status),
            Answer::After(_) => return Err(503),
            Answer::Hang => std::future::pending().await,
        };
        let mut spans = self.spans.lock().unwrap();
        for of in batch.resource_spans {
            let resource = of.resource.unwrap().attributes;
            for scope in of.scope_spans {
                assert_eq!(scope.scope.unwrap().name, "witgate");
                spans.extend(
                    scope.spans.into_iter().map(|span| Received { resource: resource.clone(), span }),
                );
            }
        }
        Ok(rejected)
    }

    async fn by_http(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/traces"));
        assert_eq!(request.headers()["content-type"], "application/x-protobuf");
        let token = request.headers().get("x-token").map_or("-", |token| token.to_str().unwrap()).to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut response = Response::new(Full::default());
        match self.take(ExportTraceServiceRequest::decode(body).unwrap(), token).await {
            Ok(rejected) => {
                *response.body_mut() = Full::new(taken(rejected).encode_to_vec().into());
                let kind = HeaderValue::from_static("application/x-protobuf");
                response.headers_mut().insert("content-type", kind);
            }
            Err(status) => *response.status_mut() = status.try_into().unwrap(),
        }
        match *self.answer.lock().unwrap() {
            Answer::After(seconds) => drop(response.headers_mut().insert("retry-after", seconds.into())),
            Answer::TakeBy(status, kind, body) => {
                *response.status_mut() = status.try_into().unwrap();
                *response.body_mut() = Full::new(body.into());
                response.headers_mut().insert("content-type", HeaderValue::from_static(kind));
            }
            _ => {}
        }
        response
    }
}

fn taken(rejected_spans: i64) -> ExportTraceServiceResponse {
    let partial = ExportTracePartialSuccess { rejected_spans, error_message: "some were not wanted".into() };
    ExportTraceServiceResponse { partial_success: (rejected_spans > 0).then_some(partial) }
}

#[tonic::async_trait]
impl TraceService for State {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, Status> {
        let token =
            request.metadata().get("authorization").map_or("-", |token| token.to_str().unwrap()).to_owned();
        match self.take(request.into_inner(), token).await {
            Ok(rejected) => Ok(tonic::Response::new(taken(rejected))),
            Err(429 | 503) => Err(Status::unavailable("later")),
            Err(_) => Err(Status::invalid_argument("never")),
        }
    }
}

/// Accepts connections, and neither reads nor answers; or answers with what is none.
pub async fn nonsense(answer: &'static [u8]) -> (SocketAddr, JoinHandle<()>) {
    use tokio::io::AsyncWriteExt as _;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            open.spawn(async move {
                let _ = stream.write_all(answer).await;
                tokio::time::sleep(Duration::from_secs(600)).await;
                drop(stream);
            });
        }
    });
    (address, task)
}
