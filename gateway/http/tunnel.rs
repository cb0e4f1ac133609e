//! What a connection carries after both sides agreed on another protocol: bytes, both ways.

use std::{future::Future, io, rc::Rc};

use hyper::body::Bytes;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::oneshot,
};

use crate::{
    dispatch::{Held, Leaving, over},
    net::Stream,
    server::{Takeover, Upgraded},
    telemetry::{Account, access::Entry},
    upstream::InFlight,
};

/// Passes on bytes until both sides have closed, or the endpoint has left and its time is over. Counts as one request in
/// flight.
pub(super) fn tunnel(
    switched: oneshot::Receiver<(Stream, Bytes)>,
    in_flight: InFlight,
    leaving: Option<Leaving>,
    account: Rc<Account>,
    held: Held,
    mut entry: Option<Box<Entry>>,
) -> Takeover {
    Box::new(move |client, early| {
        Box::pin(async move {
            // Given back last: whoever is let go by it finds the endpoint free.
            let _held = held;
            let _in_flight = in_flight;
            tokio::select! {
                carried = carry(client, early, switched, entry.as_deref_mut()) => if let Err(error) = carried {
                    tracing::debug!(%error, "Upgraded connection ended");
                },
                () = over(leaving) => account.left(),
            }
        })
    })
}

/// Where one side breaks off, the other is reset: what it has got is not all that was meant for it.
async fn carry(
    mut client: Upgraded,
    early: Vec<u8>,
    switched: oneshot::Receiver<(Stream, Bytes)>,
    entry: Option<&mut Entry>,
) -> io::Result<()> {
    let reset = client.is_reset();
    let carried = async {
        let (mut endpoint, late) = switched.await.map_err(io::Error::other)?;
        if let Some(entry) = entry {
            let (meter, late) = (endpoint.meter().clone(), late.len() as u64);
            let (read, written) = (meter.read(), meter.written());
            entry.counts_by(Box::new(move || (meter.written() - written, meter.read() - read + late)));
        }
        let carried = unless(reset, async {
            write(&mut endpoint, &early).await?;
            write(&mut client, &late).await?;
            tokio::io::copy_bidirectional(&mut client, &mut endpoint).await.map(drop)
        });
        let carried = carried.await;
        if carried.is_err() {
            endpoint.reset_on_close()?;
        }
        carried
    };
    let carried = carried.await;
    if carried.is_err() {
        client.reset();
    }
    carried
}

async fn unless(
    reset: impl Future<Output = ()>,
    carried: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    tokio::select! {
        carried = carried => carried,
        () = reset => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() { Ok(()) } else { to.write_all(bytes).await }
}
