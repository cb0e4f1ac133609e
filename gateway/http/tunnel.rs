//! What a connection carries after both sides agreed on another protocol: bytes, both ways.

use std::io;

use hyper::body::Bytes;
use tokio::{io::AsyncWriteExt, sync::oneshot};

use crate::{net::Stream, server::Takeover, upstream::InFlight};

/// Passes on bytes until both sides have closed. Counts as one request in flight.
pub(super) fn tunnel(switched: oneshot::Receiver<(Stream, Bytes)>, in_flight: InFlight) -> Takeover {
    Box::new(move |client, early| {
        Box::pin(async move {
            let _in_flight = in_flight;
            if let Err(error) = carry(client, early, switched).await {
                tracing::debug!(%error, "Upgraded connection ended");
            }
        })
    })
}

async fn carry(
    mut client: Stream,
    early: Vec<u8>,
    switched: oneshot::Receiver<(Stream, Bytes)>,
) -> io::Result<()> {
    let (mut endpoint, late) = switched.await.map_err(io::Error::other)?;
    write(&mut endpoint, &early).await?;
    write(&mut client, &late).await?;
    tokio::io::copy_bidirectional(&mut client, &mut endpoint).await.map(drop)
}

async fn write(to: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() { Ok(()) } else { to.write_all(bytes).await }
}
