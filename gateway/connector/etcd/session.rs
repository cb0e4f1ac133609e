//! One connection to one member, and how another one comes to take its place.
//!
//! The client library could balance over all members, but then a dead one fails its share of the requests for
//! ever. Here a session is with one member that has shown that it knows a leader; the next is with the next.

use std::{
    future::Future,
    path::Path,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use etcd_client::{
    Certificate, ConnectOptions, Error, Identity, KvClient, LeaseClient, TlsOptions, WatchClient,
};
use tokio::time::Instant;

use super::{
    super::{
        ClientTls, lock,
        sessions::{self, Ended},
    },
    Grant,
    error::{failure, is_auth_off},
};
use crate::{backoff::Lasting, files, registry::Failure};

/// The longest answer taken, in bytes. A list that is longer comes in more pages.
const LONGEST_MESSAGE: usize = 64 << 20;

/// etcd ends a connection that pings more often than every 5 seconds.
const FASTEST_PING: Duration = Duration::from_secs(6);

/// A connection to one member.
pub(super) struct Session {
    client: etcd_client::Client,
    endpoint: String,
    patience: Duration,
    ended: Ended,
}

impl Session {
    pub fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(LONGEST_MESSAGE)
    }

    pub fn watch(&self) -> WatchClient {
        self.client.watch_client().max_decoding_message_size(LONGEST_MESSAGE)
    }

    pub fn lease(&self) -> LeaseClient {
        self.client.lease_client()
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What is asked next takes another session. Those who use this one may go on.
    pub fn end(&self) {
        self.ended.set();
    }

    pub fn has_ended(&self) -> bool {
        self.ended.is_set()
    }

    /// Bounds a request: etcd itself may wait for a quorum for ever.
    pub async fn within<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        within(self.patience, request).await
    }
}

async fn within<T>(limit: Duration, request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let (mut request, mut until) = (pin!(request), Instant::now() + limit);
    loop {
        if let Ok(answer) = tokio::time::timeout_at(until, &mut request).await {
            return answer;
        }
        let now = Instant::now();
        // Whoever comes to this so late was stopped, or had no processor: the answer may be there and not be read yet.
        if now - until <= limit / 4 {
            let text = format!("no answer within {limit:?}");
            return Err(Error::GRpcStatus(tonic::Status::deadline_exceeded(text)));
        }
        until = now + limit / 4;
    }
}

impl sessions::Session for Session {
    fn ended(&self) -> &Ended {
        &self.ended
    }
}

/// Gives out the session that works, and makes another when it does not.
pub(super) struct Sessions {
    registry: Arc<str>,
    grant: Grant,
    all: sessions::Sessions<Session>,
    /// That etcd has no use for the credentials.
    auth_off: Mutex<Lasting>,
}

impl Sessions {
    pub fn new(registry: Arc<str>, grant: Grant) -> Self {
        let all = sessions::Sessions::new(grant.endpoints.clone());
        Self { registry, grant, all, auth_off: Mutex::default() }
    }

    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// The session in use, or a new one.
    pub async fn get(&self) -> Result<Arc<Session>, Failure> {
        let connect = |endpoint: String| async move {
            let client = self.connect_to(&endpoint).await?;
            Ok(Session { client, endpoint, patience: self.grant.silence, ended: Ended::default() })
        };
        let connected =
            |endpoint: &str, _| tracing::info!(registry = %self.registry, endpoint, "Connected to etcd");
        self.all.get(connect, connected).await
    }

    /// Connects, authenticates, and asks for a sign of life from a member that knows its leader.
    async fn connect_to(&self, endpoint: &str) -> Result<etcd_client::Client, Failure> {
        let options = self.options(endpoint).await?;
        let url = format!("{}://{endpoint}", if self.grant.tls.is_some() { "https" } else { "http" });
        within(self.grant.connect_timeout, async {
            let mut client = self.authenticate(&url, options).await?;
            match client.status().await {
                // Whoever refuses is alive.
                Err(Error::GRpcStatus(status))
                    if matches!(
                        status.code(),
                        tonic::Code::PermissionDenied | tonic::Code::Unauthenticated
                    ) => {}
                status => drop(status?),
            }
            Ok(client)
        })
        .await
        .map_err(|error| failure(&error, |text| format!("etcd at {endpoint}: {text}")))
    }

    async fn authenticate(&self, url: &str, options: ConnectOptions) -> Result<etcd_client::Client, Error> {
        let Some((user, password)) = &self.grant.credentials else {
            return etcd_client::Client::connect([url], Some(options)).await;
        };
        let with_user = options.clone().with_user(user, &password.0);
        match etcd_client::Client::connect([url], Some(with_user)).await {
            Err(error) if is_auth_off(&error) => {
                if lock(&self.auth_off).happened("").is_some() {
                    tracing::warn!(registry = %self.registry,
                        "Authentication is not enabled in etcd: connecting without");
                }
                etcd_client::Client::connect([url], Some(options)).await
            }
            client => client,
        }
    }

    async fn options(&self, endpoint: &str) -> Result<ConnectOptions, Failure> {
        let silence = self.grant.silence;
        let options = ConnectOptions::new()
            .with_connect_timeout(self.grant.connect_timeout)
            .with_keep_alive(silence.max(FASTEST_PING), silence)
            // etcd takes pings on a connection without requests for an attack.
            .with_keep_alive_while_idle(false)
            // A member cut off from the others would be silent for ever: with this it says so.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        Ok(match &self.grant.tls {
            Some(tls) => options.with_tls(tls_options(tls, endpoint).await?),
            None => options,
        })
    }
}

async fn tls_options(tls: &ClientTls, endpoint: &str) -> Result<TlsOptions, Failure> {
    let mut options = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&tls.ca_file).await?));
    if let Some((certificate, key)) = &tls.certificate {
        options = options.identity(Identity::from_pem(read(certificate).await?, read(key).await?));
    }
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok(options.domain_name(tls.server_name.as_deref().unwrap_or(host)))
}

async fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let own = path.to_owned();
    let read = tokio::task::spawn_blocking(move || files::read(&own, files::CERTIFICATE)).await;
    let read = read.map_err(|error| Failure::Other(error.to_string()))?;
    read.map_err(|error| Failure::Invalid(format!("{} cannot be read: {error}", path.display())))
}
