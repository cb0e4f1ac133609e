//! A client that keeps its connection, as most clients do.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// One client. Connects when it has to.
pub struct Session {
    address: SocketAddr,
    connection: Option<SendRequest<Full<Bytes>>>,
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
        let has_host = request.headers_ref().is_some_and(|headers| headers.contains_key("host"));
        let request = if has_host { request } else { request.header("host", self.address.to_string()) };
        let request = request.body(Full::new(body))?;
        let connection = self.connection().await?;
        let (head, body) = connection.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    async fn connection(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, std::io::Error> {
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
