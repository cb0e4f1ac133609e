//! A lease, and the only way to write: what is written ends with it.

use std::{num::NonZeroI64, sync::Arc};

use etcd_client::{Error, LeaseKeepAliveStream, LeaseKeeper, PutOptions};

use super::{Client, Session, error::is_lease_gone};
use crate::registry::Failure;

/// Dropping it revokes nothing: the keys stay until the lease expires.
pub struct Lease {
    client: Arc<Client>,
    /// Never 0: etcd would take what is put under it for permanent.
    id: NonZeroI64,
    session: Arc<Session>,
    heartbeats: Option<(LeaseKeeper, LeaseKeepAliveStream)>,
}

impl Lease {
    pub(super) async fn grant(client: Arc<Client>, ttl_seconds: u32) -> Result<Self, Failure> {
        if ttl_seconds == 0 {
            return Err(Failure::Invalid("a lease of 0 seconds".into()));
        }
        let session = client.session().await?;
        let granted = session.within(session.lease().grant(ttl_seconds.into(), None)).await;
        let granted = granted.map_err(|error| client.failed(&session, &error))?;
        let id = NonZeroI64::new(granted.id())
            .ok_or_else(|| Failure::Other("etcd granted a lease without a number".into()))?;
        Ok(Self { client, id, session, heartbeats: None })
    }

    pub fn id(&self) -> i64 {
        self.id.get()
    }

    /// Writes a key under this lease. Unavailable also when the lease has expired.
    pub async fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), Failure> {
        let session = self.session().await?;
        let options = PutOptions::new().with_lease(self.id());
        match session.within(session.kv().put(key, value, Some(options))).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.client.failed(&session, &error)),
        }
    }

    /// Extends the lease; tells the seconds it has now, 0 when it has expired.
    pub async fn keep_alive(&mut self) -> Result<u32, Failure> {
        let session = self.session().await?;
        match session.within(self.beat(&session)).await {
            Ok(seconds) => Ok(seconds),
            Err(error) => {
                self.heartbeats = None;
                if is_lease_gone(&error) { Ok(0) } else { Err(self.client.failed(&session, &error)) }
            }
        }
    }

    /// The stream of heartbeats stays open between them.
    async fn beat(&mut self, session: &Session) -> Result<u32, Error> {
        let (mut keeper, mut stream) = match self.heartbeats.take() {
            Some(open) => open,
            None => session.lease().keep_alive(self.id()).await?,
        };
        keeper.keep_alive().await?;
        let answer = stream.message().await?;
        let answer = answer.ok_or_else(|| Error::WatchError("etcd ended the heartbeats".into()))?;
        self.heartbeats = Some((keeper, stream));
        Ok(answer.ttl().clamp(0, u32::MAX.into()) as u32)
    }

    /// Ends the lease and removes its keys. One that has expired is no error.
    pub async fn revoke(&mut self) -> Result<(), Failure> {
        let session = self.session().await?;
        match session.within(session.lease().revoke(self.id())).await {
            Err(error) if !is_lease_gone(&error) => Err(self.client.failed(&session, &error)),
            _ => Ok(()),
        }
    }

    /// A lease outlives its connection.
    async fn session(&mut self) -> Result<Arc<Session>, Failure> {
        if self.session.has_ended() {
            self.heartbeats = None;
            self.session = self.client.session().await?;
        }
        Ok(self.session.clone())
    }
}
