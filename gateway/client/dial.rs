//! Making a connection to an endpoint.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::TcpStream;

use crate::{net, tls::HandshakeError};

/// Why there is no connection.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DialError {
    #[error("no connection to {address} within {limit:?}")]
    TimedOut { address: SocketAddr, limit: Duration },
    #[error("cannot connect to {address}: {error}")]
    Failed { address: SocketAddr, error: Arc<io::Error> },
    #[error("cannot connect to {address}: {error}")]
    Tls { address: SocketAddr, error: Arc<HandshakeError> },
    /// The connections that there may be have as many requests as they may have.
    #[error("no stream to {address} within {limit:?}")]
    Busy { address: SocketAddr, limit: Duration },
}

impl DialError {
    /// Whether the gateway ran out of something, ports or files, or has no certificate to show, so that this says
    /// nothing about the endpoint.
    pub fn is_own(&self) -> bool {
        use rustix::io::Errno;
        const OWN: [Errno; 4] = [Errno::ADDRNOTAVAIL, Errno::MFILE, Errno::NFILE, Errno::NOBUFS];
        match self {
            Self::TimedOut { .. } => false,
            Self::Busy { .. } => true,
            Self::Tls { error, .. } => error.is_own(),
            Self::Failed { error, .. } => Errno::from_io_error(error).is_some_and(|no| OWN.contains(&no)),
        }
    }
}

/// Connects. What is written goes out at once, and the kernel finds out when the endpoint has vanished.
pub async fn connect(address: SocketAddr, limit: Duration) -> Result<TcpStream, DialError> {
    let failed = |error| DialError::Failed { address, error: Arc::new(error) };
    let socket = match tokio::time::timeout(limit, TcpStream::connect(address)).await {
        Ok(connected) => connected.map_err(failed)?,
        Err(_) => return Err(DialError::TimedOut { address, limit }),
    };
    net::prepare(&socket).map_err(failed)?;
    Ok(socket)
}
