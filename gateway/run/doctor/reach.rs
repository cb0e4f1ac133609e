//! Whether somebody takes connections at an address, and what time it is there.

use std::{io, sync::Arc, time::SystemTime};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::registries::PATIENCE;
use crate::tls::{Client, ClientSettings, Files, Protocol};

/// The head of an answer is not longer.
const HEAD: u64 = 16 << 10;

/// One server of a registry.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// `HOST:PORT`.
    pub address: String,
    pub speaks: Speaks,
}

/// What a server is spoken to by.
#[derive(Debug, Clone)]
pub(super) enum Speaks {
    /// HTTP, so that it can be asked for the time; with TLS if there are settings for that.
    Http(Option<ClientSettings>),
    Other,
}

/// What became of a connection.
#[derive(Debug)]
pub(super) struct Reached {
    pub place: Place,
    /// Why nobody is there.
    pub outcome: Result<(), NotReached>,
    /// How many seconds the clock there is ahead of this machine's, if it was said.
    pub ahead: Option<i64>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum NotReached {
    #[error("the name of {0} is not resolved: {1}")]
    Name(String, io::Error),
    #[error("nobody takes connections at {0}: {1}")]
    Connect(String, io::Error),
    #[error("no TLS at {0}: {1}")]
    Tls(String, String),
    #[error("no connection to {0} within {PATIENCE:?}")]
    TimedOut(String),
}

/// Connects, and asks for the time where that can be asked.
pub(super) async fn reach(place: Place, files: Arc<Files>) -> Reached {
    let address = place.address.clone();
    let client = |settings| files.client(settings);
    let (outcome, ahead) = match timeout(PATIENCE, connect(&address)).await {
        Err(_) => (Err(NotReached::TimedOut(address)), None),
        Ok(Err(error)) => (Err(error), None),
        Ok(Ok(stream)) => match &place.speaks {
            Speaks::Other => (Ok(()), None),
            Speaks::Http(tls) => {
                let asked = ask(stream, &address, tls.as_ref().map(client));
                match timeout(PATIENCE, asked).await {
                    Ok(Ok(date)) => (Ok(()), date.map(ahead)),
                    Ok(Err(error)) => (Err(error), None),
                    // That it does not answer is told by whoever asks for a service.
                    Err(_) => (Ok(()), None),
                }
            }
        },
    };
    Reached { place, outcome, ahead }
}

async fn connect(address: &str) -> Result<TcpStream, NotReached> {
    let found = tokio::net::lookup_host(address).await;
    let found: Vec<_> = found.map_err(|error| NotReached::Name(address.into(), error))?.collect();
    TcpStream::connect(&found[..]).await.map_err(|error| NotReached::Connect(address.into(), error))
}

async fn ask(
    stream: TcpStream,
    address: &str,
    tls: Option<Arc<Client>>,
) -> Result<Option<SystemTime>, NotReached> {
    let Some(tls) = tls else { return Ok(date(stream, address).await) };
    let failed = |error: String| NotReached::Tls(address.into(), error);
    let peer = stream.peer_addr().map_err(|error| failed(error.to_string()))?.ip();
    let host = address.rsplit_once(':').map(|(host, _)| host);
    let shaken = tls.connect(stream, peer, tls.own_name(host), Protocol::Http1).await;
    Ok(date(shaken.map_err(|error| failed(error.to_string()))?, address).await)
}

/// The time that an answer says, whatever else it says. Nothing secret is sent, and nothing is changed.
async fn date<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, address: &str) -> Option<SystemTime> {
    let request = format!("GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let (mut answer, mut part) = (Vec::new(), [0; 1024]);
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") && (answer.len() as u64) < HEAD {
        match stream.read(&mut part).await {
            Ok(read) if read > 0 => answer.extend_from_slice(&part[..read]),
            _ => break,
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    let (_, date) = fields.find(|(name, _)| name.eq_ignore_ascii_case("date"))?;
    httpdate::parse_http_date(date.trim()).ok()
}

fn ahead(there: SystemTime) -> i64 {
    let here = SystemTime::now();
    match there.duration_since(here) {
        Ok(ahead) => ahead.as_secs().cast_signed(),
        Err(behind) => -behind.duration().as_secs().cast_signed(),
    }
}
