//! A client of HTTP/2 that shows what came over a stream, and one that sends frames as they are.

use std::{net::SocketAddr, ops::RangeInclusive};

use h2::{
    Reason, RecvStream, SendStream,
    client::{Builder, ResponseFuture, SendRequest},
};
use http::{HeaderMap, Method, Request, Response};
use hyper::body::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};

use super::client::LONG;

/// How a connection begins.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One connection. Closed when it is dropped.
pub struct Http2 {
    pub sender: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
}

/// What came over a stream.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.get_all(name).iter();
        let first = all.next();
        assert!(all.next().is_none(), "{name} several times in {:?}", self.headers);
        first.map(|value| value.to_str().unwrap())
    }

    /// Why the gateway answered by itself.
    pub fn reason(&self) -> Option<&str> {
        self.header("x-witgate-reason")
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Http2 {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::with(address, &Builder::new()).await
    }

    pub async fn with(address: SocketAddr, builder: &Builder) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream, builder).await
    }

    /// Over what is a connection already.
    pub async fn over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        builder: &Builder,
    ) -> Self {
        let (sender, connection) = builder.handshake(stream).await.unwrap();
        Self { sender, driver: tokio::spawn(connection) }
    }

    /// Sends a head, and perhaps goes on with a body.
    pub async fn send(&mut self, request: Request<()>, ends: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let mut ready = in_time(self.sender.clone().ready()).await.expect("a connection that takes requests");
        ready.send_request(request, ends).unwrap()
    }

    pub async fn request(&mut self, request: Request<()>) -> Answer {
        let (response, _) = self.send(request, true).await;
        answer(response).await.unwrap()
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.request(get(path)).await
    }

    pub async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Answer {
        let (response, mut stream) = self.send(to(Method::POST, path), false).await;
        stream.send_data(body.into(), true).unwrap();
        answer(response).await.unwrap()
    }

    /// How the connection ended.
    pub async fn ended(&mut self) -> Result<(), h2::Error> {
        in_time(&mut self.driver).await.unwrap()
    }
}

pub async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(LONG, future).await.expect("it happens in time")
}

pub fn to(method: Method, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://test{path}")).body(()).unwrap()
}

pub fn get(path: &str) -> Request<()> {
    to(Method::GET, path)
}

/// The whole answer, or how its stream ended without one.
pub async fn answer(response: ResponseFuture) -> Result<Answer, h2::Error> {
    let (head, body) = in_time(response).await?.into_parts();
    let (body, trailers) = in_time(read(body)).await?;
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, trailers })
}

pub async fn head(response: ResponseFuture) -> Response<RecvStream> {
    in_time(response).await.unwrap()
}

pub async fn read(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len()).unwrap();
        all.extend_from_slice(&piece);
    }
    Ok((all, body.trailers().await?))
}

/// With what a stream was reset.
pub fn reset<T: std::fmt::Debug>(ended: Result<T, h2::Error>) -> Reason {
    let error = ended.expect_err("the stream is reset");
    error.reason().unwrap_or_else(|| panic!("{error}"))
}

/// A frame on stream 0 or another one.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A connection on which frames go out as they are. What comes back is read by kind.
pub struct Frames(pub TcpStream);

impl Frames {
    /// With the preface and empty settings sent.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).await.unwrap();
        Self(stream)
    }

    /// Sends until it is done or the connection is closed.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = in_time(self.0.write_all(bytes)).await;
    }

    /// The next frame: its kind, flags, stream and payload. None at the end of the connection.
    pub async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut header = [0; 9];
        in_time(self.0.read_exact(&mut header)).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        in_time(self.0.read_exact(&mut payload)).await.ok()?;
        Some((kind, flags, u32::from_be_bytes(stream), payload))
    }

    /// Waits for a frame of one of these kinds. None at the end of the connection.
    pub async fn find(&mut self, kinds: RangeInclusive<u8>) -> Option<(u8, u8, u32, Vec<u8>)> {
        loop {
            let found = self.next().await?;
            if kinds.contains(&found.0) {
                return Some(found);
            }
        }
    }

    /// Waits until the gateway closes the connection.
    pub async fn closed(&mut self) {
        while self.next().await.is_some() {}
    }
}
