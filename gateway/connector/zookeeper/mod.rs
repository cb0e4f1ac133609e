//! A client for ZooKeeper: follow the children of a node, with their data.
//!
//! It never gives an empty answer for an error. It is our own, and small: the client that Rust has for ZooKeeper brings
//! an event loop beside tokio, takes frames of any length, and loses watches when it connects again.

mod error;
mod feed;
mod host;
mod keys;
mod session;
mod wire;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

pub use self::{
    error::Error,
    feed::Feed,
    keys::{Credential, Grant},
    session::Session,
    wire::{Body, op},
};
pub(crate) use self::{
    host::{Lent, Shared, add_to_linker, share},
    keys::{INTERFACES, SETTING, USERS, ZooKeeper as Keys, grant},
};
use super::{lock, sessions::Sessions};
use crate::{files, registry::Failure, tls};

/// How long reading the password may take. What there was is used if a file system hangs.
const READING: Duration = Duration::from_secs(2);

/// One ZooKeeper as one registry's table names it. Everything that follows it shares a session, which is made when first
/// needed, ends when nothing needs it, and is made anew when it fails.
pub struct Client {
    registry: Arc<str>,
    grant: Grant,
    tls: Option<Arc<tls::Client>>,
    sessions: Sessions<Session>,
    /// `user:password`, as it was said last.
    secret: Mutex<Option<String>>,
}

impl Client {
    /// Contacts nobody yet. `registry` is its name in logs; `tls` is there if the grant asks for it.
    pub fn new(registry: Arc<str>, grant: Grant, tls: Option<Arc<tls::Client>>) -> Arc<Self> {
        let sessions = Sessions::new(grant.servers.clone());
        let secret = Mutex::new(grant.credential.as_ref().map(|one| one.said(&one.password.0)));
        Arc::new(Self { registry, grant, tls, sessions, secret })
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

    /// The session in use, or a new one.
    pub async fn session(&self) -> Result<Arc<Session>, Failure> {
        let connect = |endpoint: String| async move {
            self.renew_secret().await;
            let secret = lock(&self.secret).clone();
            let opened = Session::open(&endpoint, &self.grant, self.tls.as_deref(), secret.as_deref()).await;
            opened.map_err(|error| error.failure(|text| at(&endpoint, &text)))
        };
        let connected = |endpoint: &str, _| {
            tracing::info!(registry = %self.registry, endpoint, "Connected to ZooKeeper");
        };
        self.sessions.get(connect, connected).await
    }

    /// What the error means. A session that may be at fault is not used again, and one that may not do what it was asked
    /// to do says who the gateway is by now.
    async fn failed(&self, session: &Session, error: &Error) -> Failure {
        if error.ends_session() {
            session.end();
        }
        let failure = error.failure(|text| at(session.endpoint(), &text));
        if matches!(failure, Failure::Denied(_)) && self.renew_secret().await {
            let secret = lock(&self.secret).clone().unwrap_or_default();
            if session.authenticate(&secret).await.is_err() {
                session.end();
            }
        }
        failure
    }

    /// Reads the password again, and tells whether it is another one. Passwords are exchanged while the gateway runs; one
    /// that cannot be read leaves what there was.
    async fn renew_secret(&self) -> bool {
        let Some(credential) = &self.grant.credential else { return false };
        let file: PathBuf = credential.file.clone();
        let reading = tokio::task::spawn_blocking(move || files::read_text(&file, files::SECRET).ok());
        let Ok(Ok(Some(text))) = tokio::time::timeout(READING, reading).await else { return false };
        let password = text.trim_end_matches(['\r', '\n']);
        let said = Some(credential.said(password)).filter(|_| !password.is_empty());
        let mut secret = lock(&self.secret);
        let renewed = said.is_some() && *secret != said;
        if renewed {
            *secret = said;
        }
        renewed
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
