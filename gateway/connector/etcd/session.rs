//! One connection to one member, and how another one comes to take its place.
//!
//! The client library could balance over all members, but then a dead one fails its share of the requests for
//! ever. Here a session is with one member that has shown that it knows a leader; the next is with the next.

use std::{
    future::Future,
    path::Path,
    pin::pin,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use etcd_client::{
    Certificate, ConnectOptions, Error, Identity, KvClient, LeaseClient, TlsOptions, WatchClient,
};
use tokio::time::Instant;

use super::{
    super::{ClientTls, lock},
    Grant,
    error::{failure, is_auth_off},
};
use crate::{
    backoff::{Backoff, Lasting},
    files,
    registry::Failure,
};

/// The longest answer taken, in bytes. A list that is longer comes in more pages.
const LONGEST_MESSAGE: usize = 64 << 20;

/// etcd ends a connection that pings more often than every 5 seconds.
const FASTEST_PING: Duration = Duration::from_secs(6);

/// Pauses between attempts to connect, however many ask: each of them has its own pauses beside.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection to one member.
pub(super) struct Session {
    client: etcd_client::Client,
    endpoint: String,
    patience: Duration,
    ended: Arc<AtomicBool>,
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
        self.ended.store(true, Relaxed);
    }

    pub fn has_ended(&self) -> bool {
        self.ended.load(Relaxed)
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

/// Gives out the session that works, and makes another when it does not.
pub(super) struct Sessions {
    registry: Arc<str>,
    grant: Grant,
    /// Held by those who use it, so that an unused connection closes.
    current: Mutex<Weak<Session>>,
    attempts: tokio::sync::Mutex<Attempts>,
    /// That etcd has no use for the credentials.
    auth_off: Mutex<Lasting>,
}

struct Attempts {
    /// The endpoint to try first.
    first: usize,
    /// Whether the last session has ended for a reason, and not because nobody needed it.
    ended: Arc<AtomicBool>,
    failed: Option<(Instant, Failure)>,
    backoff: Backoff,
    /// When the next attempt may be made.
    due: Instant,
    connected: Lasting,
}

impl Sessions {
    pub fn new(registry: Arc<str>, grant: Grant) -> Self {
        // Many gateways start at once after an outage; not all of them with the first member.
        let first = fastrand::usize(..grant.endpoints.len().max(1));
        let attempts = Attempts {
            first,
            ended: Arc::default(),
            failed: None,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            due: Instant::now(),
            connected: Lasting::default(),
        };
        Self {
            registry,
            grant,
            current: Mutex::default(),
            attempts: tokio::sync::Mutex::new(attempts),
            auth_off: Mutex::default(),
        }
    }

    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// The session in use, or a new one.
    ///
    /// Many may ask at once; one connects, and all get its session or its failure. Soon after a failure, and after a
    /// session that ended soon, that one waits first.
    pub async fn get(&self) -> Result<Arc<Session>, Failure> {
        if let Some(session) = self.current() {
            return Ok(session);
        }
        let asked = Instant::now();
        let mut attempts = self.attempts.lock().await;
        if let Some(session) = self.current() {
            return Ok(session);
        }
        if let Some((when, failure)) = &attempts.failed
            && *when >= asked
        {
            return Err(failure.clone());
        }
        if std::mem::take(&mut attempts.ended).load(Relaxed) {
            attempts.pause();
        }
        tokio::time::sleep_until(attempts.due).await;
        match self.connect(&mut attempts.first).await {
            Ok(session) => {
                let session = Arc::new(session);
                *lock(&self.current) = Arc::downgrade(&session);
                attempts.failed = None;
                attempts.ended = session.ended.clone();
                attempts.backoff.works();
                if attempts.connected.happened(session.endpoint()).is_some() {
                    tracing::info!(registry = %self.registry, endpoint = session.endpoint(), "Connected to etcd");
                }
                Ok(session)
            }
            Err(failure) => {
                attempts.pause();
                attempts.failed = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    fn current(&self) -> Option<Arc<Session>> {
        lock(&self.current).upgrade().filter(|session| !session.has_ended())
    }

    /// Tries each endpoint once, and begins with the next one the next time.
    async fn connect(&self, first: &mut usize) -> Result<Session, Failure> {
        let mut unavailable = Vec::new();
        for _ in 0..self.grant.endpoints.len() {
            let endpoint = &self.grant.endpoints[*first % self.grant.endpoints.len()];
            *first = first.wrapping_add(1);
            match self.connect_to(endpoint).await {
                Ok(client) => {
                    return Ok(Session {
                        client,
                        endpoint: endpoint.clone(),
                        patience: self.grant.silence,
                        ended: Arc::default(),
                    });
                }
                Err(Failure::Unavailable(text)) => unavailable.push(text),
                // The others would say the same.
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::Unavailable(unavailable.join("; ")))
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

impl Attempts {
    fn pause(&mut self) {
        self.due = Instant::now() + self.backoff.pause();
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
