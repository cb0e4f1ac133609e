//! What a connection carries after both sides agreed on another protocol: bytes, both ways.

use std::io;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{server::Takeover, upstream::InFlight, wire::Stream};

/// Passes on bytes until both sides have closed. Counts as one request in flight.
pub(super) fn tunnel(upgrade: OnUpgrade, in_flight: InFlight) -> Takeover {
    Box::new(move |client, early| {
        Box::pin(async move {
            let _in_flight = in_flight;
            if let Err(error) = carry(client, early, upgrade).await {
                tracing::debug!(%error, "Upgraded connection ended");
            }
        })
    })
}

async fn carry(mut client: TcpStream, early: Vec<u8>, upgrade: OnUpgrade) -> io::Result<()> {
    let upgraded = upgrade.await.map_err(io::Error::other)?;
    let (mut endpoint, late) = match upgraded.downcast::<TokioIo<Stream>>() {
        Ok(parts) => (parts.io.into_inner().into_inner(), parts.read_buf),
        Err(_) => return Err(io::Error::other("an upgraded connection that is no TCP stream")),
    };
    write(&mut endpoint, &early).await?;
    write(&mut client, &late).await?;
    tokio::io::copy_bidirectional(&mut client, &mut endpoint).await.map(drop)
}

async fn write(to: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() { Ok(()) } else { to.write_all(bytes).await }
}
