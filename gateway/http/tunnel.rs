//! What a connection carries after both sides agreed on another protocol: bytes, both ways.

use std::{
    future::{Future, pending},
    io,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use hyper::body::Bytes;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::{Notify, oneshot},
    time::Instant,
};

use super::admission::Held;
use crate::{
    net::{Place, Stream, Watch, Watched},
    server::{Takeover, Upgraded},
    telemetry::Account,
    upstream::{InFlight, Stats},
};

/// Passes on bytes until both sides have closed, or the endpoint has left and its time is over. Counts as one request in
/// flight.
pub(super) fn tunnel(
    switched: oneshot::Receiver<(Stream, Bytes)>,
    in_flight: InFlight,
    leaving: Option<Leaving>,
    account: Rc<Account>,
    held: Held,
) -> Takeover {
    Box::new(move |client, early| {
        Box::pin(async move {
            // Given back last: whoever is let go by it finds the endpoint free.
            let _held = held;
            let _in_flight = in_flight;
            tokio::select! {
                carried = carry(client, early, switched) => if let Err(error) = carried {
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
) -> io::Result<()> {
    let reset = client.is_reset();
    let carried = async {
        let (mut endpoint, late) = switched.await.map_err(io::Error::other)?;
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

/// Tells when something has to end because its endpoint has left.
pub(super) struct Leaving {
    over: Rc<Endpoint>,
    _place: Place,
}

struct Endpoint {
    stats: Arc<Stats>,
    limit: Duration,
    over: Notify,
}

impl Leaving {
    pub(super) fn watch(watch: &Rc<Watch>, stats: Arc<Stats>, limit: Duration) -> Self {
        let over = Rc::new(Endpoint { stats, limit, over: Notify::new() });
        let place = watch.enter(over.clone());
        place.wait(Some(limit));
        Self { over, _place: place }
    }
}

impl Watched for Endpoint {
    fn look(&self, now: Instant) -> bool {
        let over = self.stats.gone_for(now.into_std()).is_some_and(|gone| gone >= self.limit);
        if over {
            self.over.notify_one();
        }
        !over
    }
}

/// Waits until it has to end, for ever if there is no limit.
async fn over(leaving: Option<Leaving>) {
    match leaving {
        Some(leaving) => leaving.over.over.notified().await,
        None => pending().await,
    }
}
