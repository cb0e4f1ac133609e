//! A client that keeps its connection, as most clients do.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::{
    body::{Body, Frame, SizeHint},
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// One client. Connects when it has to.
pub struct Session {
    address: SocketAddr,
    connection: Option<SendRequest<Upload>>,
}

/// The body of a request: with its length where that is said before, or in chunks.
pub struct Upload {
    parts: VecDeque<Bytes>,
    length: Option<u64>,
}

impl Upload {
    pub fn whole(body: Bytes) -> Self {
        let length = Some(body.len() as u64);
        Self { parts: if body.is_empty() { VecDeque::new() } else { [body].into() }, length }
    }

    /// No part may be empty.
    pub fn chunks(parts: impl IntoIterator<Item = Bytes>) -> Self {
        Self { parts: parts.into_iter().collect(), length: None }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = self.parts.pop_front();
        if let (Some(part), Some(length)) = (&part, &mut self.length) {
            *length -= part.len() as u64;
        }
        Poll::Ready(part.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty() && self.length.is_some()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Why the gateway answered for itself, if it did.
    pub fn reason(&self) -> Option<&str> {
        self.headers.get("x-witgate-reason")?.to_str().ok()
    }
}

impl Session {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(Request::get(path), Bytes::new()).await
    }

    pub async fn put(&mut self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(Request::put(path).header("content-type", "application/json"), body.into()).await
    }

    pub async fn delete(&mut self, path: &str) -> Answer {
        self.send(Request::builder().method(Method::DELETE).uri(path), Bytes::new()).await
    }

    /// Sends a request. Panics when there is no answer: a gateway always has one.
    pub async fn send(&mut self, request: http::request::Builder, body: Bytes) -> Answer {
        self.try_send(request, body).await.unwrap_or_else(|error| panic!("{}: {error}", self.address))
    }

    /// Sends a request; an error says that there was no answer.
    pub async fn try_send(
        &mut self,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        self.try_upload(request, Upload::whole(body)).await
    }

    /// The same with any body.
    pub async fn try_upload(
        &mut self,
        request: http::request::Builder,
        body: Upload,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let has_host = request.headers_ref().is_some_and(|headers| headers.contains_key("host"));
        let request = if has_host { request } else { request.header("host", self.address.to_string()) };
        let request = request.body(body)?;
        let connection = self.connection().await?;
        let (head, body) = connection.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    async fn connection(&mut self) -> Result<&mut SendRequest<Upload>, std::io::Error> {
        let usable = match &mut self.connection {
            Some(connection) => connection.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            let stream = TcpStream::connect(self.address).await?;
            let (connection, driver) =
                handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
            tokio::spawn(driver);
            self.connection = Some(connection);
        }
        self.connection.as_mut().ok_or_else(|| std::io::Error::other("no connection"))
    }
}
