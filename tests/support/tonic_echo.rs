//! A service of gRPC by tonic, without generated code: its messages are bytes, and it has a method for each kind of
//! call.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use http::uri::PathAndQuery;
use hyper::body::{Buf, Bytes};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    client,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{BoxFuture, Service, tokio_stream},
    server::{self, NamedService},
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};

/// More than a message of 4 MiB takes.
const LARGEST: usize = 8 << 20;

/// Messages as they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put(to, item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Answers calls as a function says.
struct Handler<F>(F);

impl<F, R, A, T> Service<Request<R>> for Handler<F>
where
    F: FnMut(Request<R>) -> A,
    A: Future<Output = Result<T, Status>>,
{
    type Response = T;
    type Error = Status;
    type Future = A;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<R>) -> A {
        (self.0)(request)
    }
}

/// What the server has to tell a test.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// A call of this path began, with so much time if its client says.
    Began(String, Option<String>),
    /// It was given up before its answer was ready.
    Dropped,
}

#[derive(Clone)]
struct Echo(mpsc::UnboundedSender<Told>);

/// Tells when it is dropped.
struct Guard(mpsc::UnboundedSender<Told>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.send(Told::Dropped);
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

type Messages = tokio_stream::wrappers::UnboundedReceiverStream<Result<Bytes, Status>>;

fn messages() -> (mpsc::UnboundedSender<Result<Bytes, Status>>, Messages) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, Messages::new(receiver))
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let timeout = request.headers().get("grpc-timeout");
        let timeout = timeout.map(|timeout| timeout.to_str().unwrap().to_owned());
        self.0.send(Told::Began(method.clone(), timeout)).unwrap();
        let mut grpc = server::Grpc::new(Raw).max_decoding_message_size(LARGEST);
        let told = self.0.clone();
        Box::pin(async move {
            Ok(match &*method {
                "Unary" => grpc.unary(Handler(unary), request).await,
                "Upload" => grpc.client_streaming(Handler(upload), request).await,
                "Download" => grpc.server_streaming(Handler(download), request).await,
                "Chat" => grpc.streaming(Handler(chat), request).await,
                "Hang" => {
                    let guard = Guard(told);
                    let hang = move |_: Request<Bytes>| {
                        let _held = &guard;
                        std::future::pending::<Result<Response<Bytes>, Status>>()
                    };
                    grpc.unary(Handler(hang), request).await
                }
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// Fails with the status that the client asks for, before there is an answer.
async fn unary(request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
    let Some(code) = request.metadata().get("x-fail") else {
        let mut response = Response::new(request.into_inner());
        response.metadata_mut().insert("x-head", "1".parse().unwrap());
        return Ok(response);
    };
    let code: i32 = code.to_str().unwrap().parse().unwrap();
    let mut status =
        Status::with_details(code.into(), "100 % d\u{e9}j\u{e0}", Bytes::from_static(&[0, 255, 7]));
    status.metadata_mut().insert("x-why", "because".parse().unwrap());
    Err(status)
}

/// Says how many messages there were, and of how many bytes.
async fn upload(request: Request<Streaming<Bytes>>) -> Result<Response<Bytes>, Status> {
    let (mut messages, mut count, mut bytes) = (request.into_inner(), 0, 0);
    while let Some(message) = messages.message().await? {
        (count, bytes) = (count + 1, bytes + message.len());
    }
    Ok(Response::new(format!("{count} of {bytes}").into()))
}

/// Sends as many messages as it is asked for, each as long as the next number says, and then the status in the last.
async fn download(request: Request<Bytes>) -> Result<Response<Messages>, Status> {
    let asked = String::from_utf8(request.into_inner().to_vec()).unwrap();
    let numbers: Vec<usize> = asked.split(' ').map(|number| number.parse().unwrap()).collect();
    let (sender, messages) = messages();
    for _ in 0..numbers[0] {
        sender.send(Ok(vec![b'x'; numbers[1]].into())).unwrap();
    }
    if numbers[2] > 0 {
        sender.send(Err(Status::new((numbers[2] as i32).into(), "in the end"))).unwrap();
    }
    Ok(Response::new(messages))
}

/// Answers each message by itself.
async fn chat(request: Request<Streaming<Bytes>>) -> Result<Response<Messages>, Status> {
    let (mut asked, (sender, messages)) = (request.into_inner(), messages());
    tokio::spawn(async move {
        while let Ok(Some(message)) = asked.message().await {
            let _ = sender.send(Ok([b"re: ", &message[..]].concat().into()));
        }
    });
    Ok(Response::new(messages))
}

/// A server of that. Stops when it is dropped.
pub struct TonicEcho {
    pub address: SocketAddr,
    pub told: mpsc::UnboundedReceiver<Told>,
    task: JoinHandle<()>,
}

impl Drop for TonicEcho {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TonicEcho {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, told) = mpsc::unbounded_channel();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let task = tokio::spawn(async move {
            Server::builder().add_service(Echo(sender)).serve_with_incoming(incoming).await.unwrap();
        });
        Self { address, told, task }
    }

    /// What it says next.
    pub async fn tells(&mut self) -> Told {
        super::http2::in_time(self.told.recv()).await.unwrap()
    }
}

/// Dials whatever is at this address now, as a client behind a balancer of connections does.
#[derive(Clone)]
pub struct Dialer(pub Arc<Mutex<SocketAddr>>);

impl Service<http::Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = std::io::Error;
    type Future = BoxFuture<Self::Response, std::io::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let address = *self.0.lock().unwrap();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(stream))
        })
    }
}

/// A client of the service, over a channel of tonic's.
#[derive(Clone)]
pub struct EchoClient(client::Grpc<Channel>);

impl EchoClient {
    pub fn new(address: SocketAddr) -> Self {
        Self::over(Dialer(Arc::new(Mutex::new(address))))
    }

    pub fn over(dialer: Dialer) -> Self {
        let channel = Endpoint::from_static("http://test").connect_with_connector_lazy(dialer);
        Self(client::Grpc::new(channel).max_decoding_message_size(LARGEST))
    }

    fn path(method: &str) -> PathAndQuery {
        format!("/test.Echo/{method}").parse().unwrap()
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.0.ready().await.map_err(|error| Status::unavailable(error.to_string()))
    }

    pub async fn unary(&mut self, method: &str, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        self.ready().await?;
        self.0.unary(request, Self::path(method), Raw).await
    }

    pub async fn upload(&mut self, messages: Vec<Bytes>) -> Result<Bytes, Status> {
        self.ready().await?;
        let request = Request::new(tokio_stream::iter(messages));
        Ok(self.0.client_streaming(request, Self::path("Upload"), Raw).await?.into_inner())
    }

    pub async fn download(&mut self, asks: &str) -> Result<Streaming<Bytes>, Status> {
        self.ready().await?;
        let request = Request::new(Bytes::copy_from_slice(asks.as_bytes()));
        Ok(self.0.server_streaming(request, Self::path("Download"), Raw).await?.into_inner())
    }

    /// The messages for the server go through the channel.
    pub async fn chat(&mut self) -> Result<(mpsc::UnboundedSender<Bytes>, Streaming<Bytes>), Status> {
        self.ready().await?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let messages = tokio_stream::wrappers::UnboundedReceiverStream::new(receiver);
        let answer = self.0.streaming(Request::new(messages), Self::path("Chat"), Raw).await?;
        Ok((sender, answer.into_inner()))
    }
}

/// A request whose client waits so long.
pub fn with_timeout(message: &'static str, timeout: Duration) -> Request<Bytes> {
    let mut request = Request::new(Bytes::from(message));
    request.set_timeout(timeout);
    request
}
