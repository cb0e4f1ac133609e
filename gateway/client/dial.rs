//! Making a connection to an endpoint.

use std::{cell::RefCell, future::poll_fn, io, net::SocketAddr, rc::Rc, time::Duration};

use hyper::{
    body::{Body, Bytes},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::oneshot};

use crate::net::{self, Meter, Stream};

/// A connection that can take a request. A task of its own drives it until it closes, which it does when this is
/// dropped.
pub struct Connection<B> {
    pub sender: SendRequest<B>,
    /// What goes through it.
    pub meter: Rc<Meter>,
    /// Whether it has carried a request before: then it may have died unnoticed.
    pub reused: bool,
    switch: Rc<Switch>,
}

/// Where a connection goes when it carries no HTTP any more: its stream, and what was read too far.
type Switch = RefCell<Option<oneshot::Sender<(Stream, Bytes)>>>;

impl<B> Connection<B> {
    /// The stream, once the endpoint has switched protocols. Fails when the connection ends before that. To be asked
    /// for before the request is sent.
    pub fn switched(&self) -> oneshot::Receiver<(Stream, Bytes)> {
        let (sender, receiver) = oneshot::channel();
        self.switch.replace(Some(sender));
        receiver
    }
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

/// Connects. What is written goes out at once, and the kernel finds out when the endpoint has vanished.
pub async fn connect(address: SocketAddr, limit: Duration) -> Result<TcpStream, DialError> {
    let failed = |error| DialError::Failed { address, error };
    let socket = match tokio::time::timeout(limit, TcpStream::connect(address)).await {
        Ok(connected) => connected.map_err(failed)?,
        Err(_) => return Err(DialError::TimedOut { address, limit }),
    };
    socket.set_nodelay(true).and_then(|()| net::keep_alive(&socket)).map_err(failed)?;
    Ok(socket)
}

/// Connects, for HTTP. Must be called where `spawn_local` works.
pub async fn dial<B>(address: SocketAddr, limit: Duration) -> Result<Connection<B>, DialError>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = Stream::new(connect(address, limit).await?);
    let meter = stream.meter().clone();
    let (sender, mut driver) = http1::Builder::new()
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| DialError::Failed { address, error: io::Error::other(error) })?;
    let switch = Rc::<Switch>::default();
    let switching = switch.clone();
    tokio::task::spawn_local(async move {
        match poll_fn(|cx| driver.poll_without_shutdown(cx)).await {
            Ok(()) => {
                if let Some(switched) = switching.take() {
                    let parts = driver.into_parts();
                    // Nobody waits for it any more: it closes.
                    let _ = switched.send((parts.io.into_inner(), parts.read_buf));
                }
            }
            Err(error) => tracing::debug!(endpoint = %address, %error, "Connection ended"),
        }
    });
    Ok(Connection { sender, meter, reused: false, switch })
}
