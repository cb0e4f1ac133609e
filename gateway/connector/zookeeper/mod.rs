//! A client for ZooKeeper: follow the children of a node, with their data.
//!
//! It never gives an empty answer for an error. It is our own, and small: the client that Rust has for ZooKeeper brings
//! an event loop beside tokio, takes frames of any length, and loses watches when it connects again.

mod error;
mod feed;
mod host;
mod keys;
mod presence;
mod session;
mod wire;

use std::{sync::Arc, time::Duration};

pub use self::{
    error::Error,
    feed::Feed,
    keys::{Credential, Grant},
    presence::Presence,
    session::{Farewell, Session},
    wire::{Body, op},
};
pub(crate) use self::{
    host::{Lent, Shared, add_to_linker, share},
    keys::{INTERFACES, SETTING, USERS, ZooKeeper as Keys, grant},
};
use super::{fresh::FreshSecret, sessions::Sessions};
use crate::{registry::Failure, tls};

/// One ZooKeeper as one registry's table names it. Everything that follows it shares a session, which is made when
/// first needed, ends when nothing needs it, and is made anew when it fails.
pub struct Client {
    registry: Arc<str>,
    grant: Grant,
    tls: Option<Arc<tls::Client>>,
    sessions: Sessions<Session>,
    password: Option<Arc<FreshSecret>>,
}

impl Client {
    /// Contacts nobody yet. `registry` is its name in logs; `tls` is there if the grant asks for it.
    pub fn new(registry: Arc<str>, grant: Grant, tls: Option<Arc<tls::Client>>) -> Arc<Self> {
        let sessions = Sessions::new(grant.servers.clone());
        let fresh = |one: &Credential| FreshSecret::new(one.file.clone(), one.password.clone());
        let password = grant.credential.as_ref().map(fresh);
        Arc::new(Self { registry, grant, tls, sessions, password })
    }

    pub fn granted(&self) -> &Grant {
        &self.grant
    }

    /// Follows the children of a node, with their data or without. The feed lists and watches by itself; failures come
    /// out of it.
    ///
    /// Dropping the feed ends the watch.
    pub fn follow(self: &Arc<Self>, path: String, with_data: bool) -> Feed {
        Feed::start(self.clone(), path, with_data)
    }

    /// Opens a session of its own to write with, of at least so many seconds.
    pub async fn open(self: &Arc<Self>, timeout_seconds: u32) -> Result<Presence, Failure> {
        Presence::open(self.clone(), timeout_seconds).await
    }

    /// The session in use, or a new one.
    async fn session(&self) -> Result<Arc<Session>, Failure> {
        let open = |endpoint: String| self.open_at(endpoint, self.grant.session_timeout, Farewell::Said);
        let connected = |endpoint: &str, _| {
            tracing::info!(registry = %self.registry, endpoint, "Connected to ZooKeeper");
        };
        self.sessions.get(open, connected).await
    }

    /// A session with any of the servers that nobody shares.
    async fn connect(&self, session_timeout: Duration, farewell: Farewell) -> Result<Session, Failure> {
        let (mut unavailable, first) = (Vec::new(), fastrand::usize(..self.grant.servers.len().max(1)));
        for server in self.grant.servers.iter().cycle().skip(first).take(self.grant.servers.len()) {
            match self.open_at(server.clone(), session_timeout, farewell).await {
                Err(Failure::Unavailable(text)) => unavailable.push(text),
                session => return session,
            }
        }
        Err(Failure::Unavailable(unavailable.join("; ")))
    }

    async fn open_at(
        &self,
        endpoint: String,
        session_timeout: Duration,
        farewell: Farewell,
    ) -> Result<Session, Failure> {
        let secret = self.secret().await;
        let grant = Grant { session_timeout, ..self.grant.clone() };
        let opened = Session::open(&endpoint, &grant, self.tls.as_deref(), secret.as_deref(), farewell).await;
        opened.map_err(|error| error.failure(|text| at(&endpoint, &text)))
    }

    /// What the error means, and at which node if that says more. A session that may be at fault is not used again, and
    /// one that may not do what it was asked to do says who the gateway is by now.
    async fn failed(&self, session: &Session, error: &Error, path: &str) -> Failure {
        if error.ends_session() {
            session.end();
        }
        let failure = error.failure(|text| at(session.endpoint(), &text));
        if matches!(failure, Failure::Denied(_))
            && let Some(secret) = self.other_secret().await
            && !session.has_said(&secret)
            && session.authenticate(&secret).await.is_err()
        {
            session.end();
        }
        match failure {
            Failure::Denied(text) => Failure::Denied(format!("{text}: {path}")),
            Failure::Invalid(text) => Failure::Invalid(format!("{text}: {path}")),
            Failure::Unavailable(text) if matches!(error, Error::Code(_)) => {
                Failure::Unavailable(format!("{text}: {path}"))
            }
            failure => failure,
        }
    }

    /// The secret as its file has it, when something was refused.
    async fn other_secret(&self) -> Option<String> {
        self.password.as_ref()?.refused();
        self.secret().await
    }

    /// `user:password`, with the password as it is now: it is exchanged while the gateway runs.
    async fn secret(&self) -> Option<String> {
        let (credential, password) = self.grant.credential.as_ref().zip(self.password.as_ref())?;
        Some(credential.said(&password.current().await.0))
    }
}

/// ZooKeeper does not look at a path that is only read: it takes a wrong one for a node that is not there.
fn check_path(path: &str) -> Result<(), Failure> {
    let wrong = |part: &str| matches!(part, "" | "." | "..") || part.contains(char::is_control);
    match path.strip_prefix('/') {
        Some("") => Ok(()),
        Some(parts) if !parts.split('/').any(wrong) => Ok(()),
        _ => Err(Failure::Invalid(format!("{path:?} is no path of a node"))),
    }
}

fn at(endpoint: &str, text: &str) -> String {
    format!("ZooKeeper at {endpoint}: {text}")
}
