//! The accept loop of one listener on one worker.

use std::{future::Future, io, rc::Rc, time::Duration};

use hyper::{
    Response,
    body::{Body, Bytes},
};
use tokio::net::TcpStream;

use super::{Arrival, Link, connection, listen::Accepting, roster::Roster};

/// The pause after an error that will not go away by itself, such as no file descriptors being left.
const PAUSE: Duration = Duration::from_millis(20);

/// Accepts for ever. Dropping it closes the listener and leaves the connections alone.
pub(super) async fn accept<A, C, F, B>(listening: Accepting, roster: Rc<Roster>, answers: A)
where
    A: Fn(&Link) -> C,
    C: Fn(Arrival) -> F + 'static,
    F: Future<Output = Response<B>> + Unpin + 'static,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    loop {
        // The permit comes before accept, so a full gateway leaves new clients in the kernel's queue instead of
        // closing them. Nobody closes the semaphore.
        let Ok(permit) = listening.permits.clone().acquire_owned().await else { return };
        let (stream, peer) = match listening.socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        let link = Rc::new(Link::new(peer, local(&stream, &listening)));
        let counted = listening.counters.accepted();
        let place = roster.enter(&link, &listening.settings);
        let (answer, max_head) = (answers(&link), listening.settings.max_header_bytes);
        tokio::task::spawn_local(async move {
            let _held = (permit, place, counted);
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(client = %peer, %error, "Client was gone before it was served");
                return;
            }
            connection::serve(stream, link, max_head, answer).await;
        });
    }
}

fn local(stream: &TcpStream, listening: &Accepting) -> std::net::SocketAddr {
    stream.local_addr().unwrap_or(listening.address)
}

/// Waits before the next `accept` where an error would come again at once. A client that went away while it waited
/// concerns nobody.
pub async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if !matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
        tracing::warn!(%error, "Accept failed");
        tokio::time::sleep(PAUSE).await;
    }
}
