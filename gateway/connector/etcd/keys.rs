//! The table `etcd` of a registry, and what it grants.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    connector::tls::{self, ClientTls, Tls, is_host_and_port},
    document::{Examiner, Secret, Way},
};

/// How the table is written.
pub(crate) const SETTING: &str = "etcd = { endpoints = [\"HOST:2379\"] }";

/// What a plugin may import to use it.
pub(crate) const INTERFACES: &[&str] = &["witgate:etcd/etcd"];

/// Shipped plugins that are of no use without it.
pub(crate) const USERS: &[&str] = &["etcd"];

/// A client for etcd. The plugin sees neither addresses nor credentials.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("required" = ["endpoints"]))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Etcd {
    /// `HOST:PORT` of each member; `http://` or `https://` may stand before it. Required, at least one.
    pub endpoints: Vec<String>,
    /// The user to log in as. Default: none.
    pub user: Option<String>,
    /// A file with the user's password. Required with `user`.
    pub password_file: Option<String>,
    /// Talk TLS to every endpoint. Default: none.
    pub tls: Option<Tls>,
    /// Milliseconds that connecting to one endpoint may take. Default: 2000.
    pub connect_timeout_ms: u64,
    /// Milliseconds after which a silent watch is asked for a sign of life; as long again without one is a failure.
    /// Default: 10000.
    pub silence_ms: u64,
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            user: None,
            password_file: None,
            tls: None,
            connect_timeout_ms: 2_000,
            silence_ms: 10_000,
        }
    }
}

/// A client for etcd.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// `host:port`; all with TLS or none.
    pub endpoints: Vec<String>,
    pub credentials: Option<(String, Secret)>,
    pub tls: Option<ClientTls>,
    pub connect_timeout: Duration,
    /// A watch that is silent for so long is asked for a sign of life; as long again without one is a failure.
    pub silence: Duration,
}

pub(crate) fn grant(etcd: &Etcd, examiner: &mut Examiner<'_>, way: &Way) -> Option<Option<Grant>> {
    let tls_wanted = examiner.mentions(&way.key("tls"));
    let endpoints = endpoints(examiner, &way.key("endpoints"), &etcd.endpoints, tls_wanted);
    let credentials = credentials(examiner, way, etcd);
    let tls = etcd.tls.as_ref().map(|keys| tls::grant(keys, examiner, &way.key("tls")));
    let connect_timeout = examiner.duration_ms(&way.key("connect_timeout_ms"), etcd.connect_timeout_ms);
    let silence = examiner.duration_ms(&way.key("silence_ms"), etcd.silence_ms);
    let tls = match tls {
        // The outer absence is a mistake, the inner one no TLS.
        Some(tls) => Some(tls?),
        None => None,
    };
    Some(Some(Grant { endpoints, credentials: credentials?, tls, connect_timeout, silence }))
}

fn endpoints(examiner: &mut Examiner<'_>, way: &Way, texts: &[String], tls: bool) -> Vec<String> {
    examiner.missing_unless_told(&way.parent().unwrap_or_default(), "endpoints");
    examiner.not_empty(way);
    let endpoints = texts.iter().enumerate();
    endpoints.filter_map(|(index, text)| endpoint(examiner, &way.index(index), text, tls)).collect()
}

fn endpoint(examiner: &mut Examiner<'_>, way: &Way, text: &str, tls: bool) -> Option<String> {
    let (scheme, rest) = text.split_once("://").map_or((None, text), |(scheme, rest)| (Some(scheme), rest));
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    match (scheme, tls) {
        (None, _) | (Some("http"), false) | (Some("https"), true) => {}
        (Some("http"), true) => {
            examiner
                .wrong(way, format!("{text:?} asks for no TLS, and the table `tls` for TLS"))
                .hint(format!("write `https://{rest}`, or take `tls` away"));
        }
        (Some("https"), false) => {
            examiner
                .wrong(way, format!("{text:?} asks for TLS, and there is no table `tls`"))
                .hint("write tls = { ca_file = \"ca.pem\" } beside `endpoints`");
        }
        (Some(scheme), _) => {
            examiner
                .wrong(way, format!("{text:?} has the scheme `{scheme}`, which etcd does not speak"))
                .hint("write `HOST:PORT`");
        }
    }
    if !is_host_and_port(rest) {
        examiner
            .wrong(way, format!("{text:?} is no endpoint of etcd"))
            .hint("write `HOST:PORT`, like `127.0.0.1:2379` or `[::1]:2379`");
        return None;
    }
    Some(rest.to_owned())
}

fn credentials(examiner: &mut Examiner<'_>, way: &Way, etcd: &Etcd) -> Option<Option<(String, Secret)>> {
    let (user, file) = (etcd.user.as_deref(), etcd.password_file.as_deref());
    let secret = file.map(|file| examiner.secret(&way.key("password_file"), file));
    match (user, secret) {
        (None, None) => Some(None),
        (Some(user), Some(secret)) => {
            let user = examiner.text(&way.key("user"), user);
            Some(Some((user?.to_owned(), secret?)))
        }
        (Some(_), None) => examiner.together(way, "user", "password_file"),
        (None, Some(_)) => examiner.together(way, "password_file", "user"),
    }
}
