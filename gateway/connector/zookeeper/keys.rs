//! The table `zookeeper` of a registry, and what it grants.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    connector::tls::{self, Tls, is_host_and_port},
    document::{Examiner, Secret, Way},
    tls::{Authorities, ClientSettings, PairFiles, ServerName, check_client},
};

/// How the table is written.
pub(crate) const SETTING: &str = "zookeeper = { servers = [\"HOST:2181\"] }";

/// What a plugin may import to use it.
pub(crate) const INTERFACES: &[&str] = &["witgate:zookeeper/zookeeper"];

/// Shipped plugins that are of no use without it.
pub(crate) const USERS: &[&str] = &["zookeeper"];

/// A client for ZooKeeper. The plugin sees neither addresses nor credentials.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("required" = ["servers"]))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ZooKeeper {
    /// `HOST:PORT` of each server. Required, at least one.
    pub servers: Vec<String>,
    /// The user to be, by the scheme `digest`. Default: none.
    pub user: Option<String>,
    /// A file with the user's password. One older than ten seconds is read again for each session, and when something
    /// is refused. Required with `user`.
    pub password_file: Option<String>,
    /// Talk TLS to every server. Default: none.
    pub tls: Option<Tls>,
    /// Milliseconds that making a session with one server may take. Default: 2000.
    pub connect_timeout_ms: u64,
    /// Milliseconds after which ZooKeeper ends a session that it hears nothing of; the server has bounds for it. A
    /// server that is silent for two thirds of that is given up, and what is followed is asked about as often as that.
    /// Default: 10000.
    pub session_timeout_ms: u64,
}

impl Default for ZooKeeper {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            user: None,
            password_file: None,
            tls: None,
            connect_timeout_ms: 2_000,
            session_timeout_ms: 10_000,
        }
    }
}

/// A client for ZooKeeper.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// `host:port`; all with TLS or none.
    pub servers: Vec<String>,
    pub credential: Option<Credential>,
    pub tls: Option<ClientSettings>,
    pub connect_timeout: Duration,
    pub session_timeout: Duration,
}

/// Who the gateway is, by the scheme `digest`.
#[derive(Debug, Clone, PartialEq)]
pub struct Credential {
    pub user: String,
    pub file: PathBuf,
    /// As it was when the configuration was read.
    pub password: Secret,
}

impl Credential {
    /// As ZooKeeper is told it.
    pub(super) fn said(&self, password: &str) -> String {
        format!("{}:{password}", self.user)
    }
}

pub(crate) fn grant(keys: &ZooKeeper, examiner: &mut Examiner<'_>, way: &Way) -> Option<Option<Grant>> {
    let servers = servers(examiner, &way.key("servers"), &keys.servers);
    let credential = credential(keys, examiner, way);
    let tls = keys.tls.as_ref().map(|keys| tls_settings(keys, examiner, &way.key("tls")));
    let connect_timeout = examiner.duration_ms(&way.key("connect_timeout_ms"), keys.connect_timeout_ms);
    let session_timeout = examiner.duration_ms(&way.key("session_timeout_ms"), keys.session_timeout_ms);
    let tls = match tls {
        // The outer absence is a mistake, the inner one no TLS.
        Some(tls) => Some(tls?),
        None => None,
    };
    Some(Some(Grant { servers, credential: credential?, tls, connect_timeout, session_timeout }))
}

fn servers(examiner: &mut Examiner<'_>, way: &Way, texts: &[String]) -> Vec<String> {
    examiner.missing_unless_told(&way.parent().unwrap_or_default(), "servers");
    examiner.not_empty(way);
    for (index, text) in texts.iter().enumerate() {
        if is_host_and_port(text) {
            continue;
        }
        let hint = if text.contains('/') {
            "write `HOST:PORT`; a path below which everything lies goes into `base` of the settings"
        } else if text.contains(',') {
            "write each server as a text of its own"
        } else {
            "write `HOST:PORT`, like `127.0.0.1:2181` or `[::1]:2181`"
        };
        examiner.wrong(&way.index(index), format!("{text:?} is no server of ZooKeeper")).hint(hint);
    }
    texts.to_vec()
}

fn credential(keys: &ZooKeeper, examiner: &mut Examiner<'_>, way: &Way) -> Option<Option<Credential>> {
    let (user, file) = (keys.user.as_deref(), keys.password_file.as_deref());
    match (user, file) {
        (None, None) => Some(None),
        (Some(user), Some(file)) => {
            let (of_user, of_file) = (way.key("user"), way.key("password_file"));
            let password = examiner.secret(&of_file, file);
            let user = examiner.text(&of_user, user)?;
            if user.contains(':') {
                examiner.wrong(&of_user, format!("{user:?} has a colon, which ends the name of a user"));
                return None;
            }
            let (user, file) = (user.to_owned(), examiner.path(&of_file, file)?);
            Some(Some(Credential { user, file, password: password? }))
        }
        (Some(_), None) => examiner.together(way, "user", "password_file"),
        (None, Some(_)) => examiner.together(way, "password_file", "user"),
    }
}

fn tls_settings(keys: &Tls, examiner: &mut Examiner<'_>, way: &Way) -> Option<ClientSettings> {
    let tls = tls::grant(keys, examiner, way)?;
    let server_name = match tls.server_name.as_deref() {
        None => None,
        Some(name) => match ServerName::new(name) {
            Some(name) => Some(name),
            None => {
                examiner.wrong(&way.key("server_name"), format!("{name:?} is no name of a server"));
                return None;
            }
        },
    };
    let certificate = tls.certificate.map(|(certificate, key)| PairFiles { certificate, key }.into());
    let settings = ClientSettings { authorities: Authorities::File(tls.ca_file), certificate, server_name };
    match check_client(&settings) {
        Ok(()) => Some(settings),
        Err(error) => {
            examiner.wrong(way, error.to_string());
            None
        }
    }
}
