//! Making a connection to an endpoint.

use std::{io, net::SocketAddr, time::Duration};

use hyper::{
    body::{Body, Bytes},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::wire::Stream;

/// A connection that can take a request.
pub struct Connection<B> {
    pub sender: SendRequest<B>,
    /// Whether it has carried a request before: then it may have died unnoticed.
    pub reused: bool,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("no connection to {address} within {limit:?}")]
    TimedOut { address: SocketAddr, limit: Duration },
    #[error("cannot connect to {address}: {error}")]
    Failed { address: SocketAddr, error: io::Error },
}

impl DialError {
    /// Whether the gateway ran out of something, ports or files, so that this says nothing about the endpoint.
    pub fn is_own(&self) -> bool {
        use rustix::io::Errno;
        const OWN: [Errno; 4] = [Errno::ADDRNOTAVAIL, Errno::MFILE, Errno::NFILE, Errno::NOBUFS];
        match self {
            Self::TimedOut { .. } => false,
            Self::Failed { error, .. } => Errno::from_io_error(error).is_some_and(|no| OWN.contains(&no)),
        }
    }
}

/// Connects. What is written to the stream goes out at once.
pub async fn connect(address: SocketAddr, limit: Duration) -> Result<Stream, DialError> {
    let failed = |error| DialError::Failed { address, error };
    let socket = match tokio::time::timeout(limit, TcpStream::connect(address)).await {
        Ok(connected) => connected.map_err(failed)?,
        Err(_) => return Err(DialError::TimedOut { address, limit }),
    };
    socket.set_nodelay(true).map_err(failed)?;
    Ok(Stream::new(socket))
}

/// Connects, for HTTP. Must be called where `spawn_local` works: a task of its own drives the connection until it closes, which it
/// does when it is dropped here and nothing is under way.
pub async fn dial<B>(address: SocketAddr, limit: Duration) -> Result<Connection<B>, DialError>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = connect(address, limit).await?;
    let (sender, driver) = http1::Builder::new()
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| DialError::Failed { address, error: io::Error::other(error) })?;
    tokio::task::spawn_local(async move {
        if let Err(error) = driver.with_upgrades().await {
            tracing::debug!(endpoint = %address, %error, "Connection ended");
        }
    });
    Ok(Connection { sender, reused: false })
}
