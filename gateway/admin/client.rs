//! Asks the admin API of a running gateway, for the command line.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    config::Secret,
    net::Wire,
    tls::{self, HandshakeError, Protocol},
};

/// How long an answer may take. Orders are written to disk before they are answered.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest answer that is read: an upstream with a hundred thousand endpoints is half as long.
const LONGEST: usize = 64 << 20;

/// Why there is no answer that says yes.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("no gateway answers at {address}, which is what --admin says")]
    Unreachable { address: String, source: io::Error },
    #[error("no TLS with {address}")]
    Tls { address: String, source: HandshakeError },
    #[error("the gateway at {address} did not answer within {within:?}")]
    TooSlow { address: String, within: Duration },
    #[error("{address} did not answer like a gateway: {reason}")]
    NotAGateway { address: String, reason: String },
    #[error("{error}")]
    Refused { status: StatusCode, error: String },
}

/// The admin API at `host:port`.
#[derive(Clone)]
pub struct Client {
    pub address: String,
    /// None: without TLS.
    pub tls: Option<Arc<tls::Client>>,
    pub token: Option<Secret>,
}

impl Client {
    pub async fn get(&self, path: &str) -> Result<Value, AskError> {
        self.ask(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, AskError> {
        self.ask(Method::POST, path, Some(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Result<Value, AskError> {
        self.ask(Method::PUT, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Result<Value, AskError> {
        self.ask(Method::DELETE, path, None).await
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, AskError> {
        let address = || self.address.clone();
        let asked = timeout(PATIENCE, self.exchange(method, path, body)).await;
        asked.map_err(|_| AskError::TooSlow { address: address(), within: PATIENCE })?
    }

    async fn connect(&self) -> Result<Box<dyn Wire>, AskError> {
        let address = || self.address.clone();
        let unreachable = |source| AskError::Unreachable { address: address(), source };
        let stream = TcpStream::connect(&self.address).await.map_err(unreachable)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let peer = stream.peer_addr().map_err(unreachable)?.ip();
        let shaken = tls.connect(stream, peer, None, Protocol::Http1).await;
        let stream = shaken.map_err(|source| AskError::Tls { address: address(), source })?;
        Ok(Box::new(stream))
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, AskError> {
        let odd = |reason: String| AskError::NotAGateway { address: self.address.clone(), reason };
        let stream = self.connect().await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| odd(error.to_string()))?;
        // Ends with the sender; what goes wrong on it is told by the answer.
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.address);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.0));
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| odd(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(|error| odd(error.to_string()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        let body = body.map_err(|error| odd(error.to_string()))?.to_bytes();
        if status == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        let value: Value = serde_json::from_slice(&body).map_err(|_| odd(format!("status {status}")))?;
        if status.is_success() {
            return Ok(value);
        }
        let error = value["error"].as_str().map_or_else(|| format!("status {status}"), str::to_owned);
        let error = match status {
            StatusCode::UNAUTHORIZED if self.token.is_none() => {
                format!("{error}: name a file with the token by --token-file")
            }
            StatusCode::UNAUTHORIZED => {
                format!("{error}; what was sent is in the file that --token-file names")
            }
            _ => error,
        };
        Err(AskError::Refused { status, error })
    }
}
