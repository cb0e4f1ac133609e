//! Who the gateway is to a registry: the one header that a plugin never sees.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use tokio::time::{Instant, timeout};

use crate::{connector::lock, document::Secret, files};

/// A secret is read again when it is older.
const FRESH: Duration = Duration::from_secs(10);

/// How long a request waits for that. What there was is sent if a file system hangs.
const READING: Duration = Duration::from_secs(2);

/// A secret, where it comes from, and how it is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Credential {
    pub kind: Kind,
    pub file: PathBuf,
    /// As it was when the configuration was read.
    pub secret: Secret,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Bearer,
    Header(HeaderName),
    /// By basic authentication, as this user.
    Basic(String),
}

/// A credential in use. Tokens are exchanged while the gateway runs, so the file is read now and then; one that cannot
/// be read leaves the secret that there was.
pub(crate) struct Current {
    credential: Credential,
    read: Mutex<Read>,
}

struct Read {
    secret: Secret,
    /// When it was read, or is.
    at: Instant,
    /// One thread reads at a time, however long that takes it.
    reading: bool,
}

impl Current {
    pub fn new(credential: Credential) -> Arc<Self> {
        let read = Read { secret: credential.secret.clone(), at: Instant::now(), reading: false };
        Arc::new(Self { credential, read: Mutex::new(read) })
    }

    /// Puts it in the place of whatever stands there.
    pub async fn add_to(self: &Arc<Self>, headers: &mut HeaderMap) {
        if self.begins_to_read() {
            let current = self.clone();
            let reading = tokio::task::spawn_blocking(move || current.read_again());
            let _ = timeout(READING, reading).await;
        }
        let (name, mut value) = self.header();
        value.set_sensitive(true);
        headers.insert(name, value);
    }

    /// Whether it is time to read the file, and nobody does.
    fn begins_to_read(&self) -> bool {
        let mut read = lock(&self.read);
        let begins = !read.reading && read.at.elapsed() > FRESH;
        if begins {
            (read.at, read.reading) = (Instant::now(), true);
        }
        begins
    }

    fn read_again(&self) {
        let text = files::read_text(&self.credential.file, files::SECRET);
        let mut read = lock(&self.read);
        read.reading = false;
        let text = text.ok().map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            read.secret = Secret(text);
        }
    }

    fn header(&self) -> (HeaderName, HeaderValue) {
        let secret = lock(&self.read).secret.0.clone();
        let (name, text) = match &self.credential.kind {
            Kind::Bearer => (AUTHORIZATION, format!("Bearer {secret}")),
            Kind::Header(name) => (name.clone(), secret),
            Kind::Basic(user) => {
                (AUTHORIZATION, format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{secret}"))))
            }
        };
        // What cannot be in a header is not sent, and the registry says that it knows nobody without one.
        (name, HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sent(current: &Arc<Current>) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("x-token", HeaderValue::from_static("of the plugin"));
        current.add_to(&mut headers).await;
        let sent: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        assert!(headers.values().any(HeaderValue::is_sensitive));
        sent.join(", ")
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_is_exchanged_is_sent_soon_and_one_that_is_gone_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "one\n").unwrap();
        let kind = Kind::Header(HeaderName::from_static("x-token"));
        let current = Current::new(Credential { kind, file: file.clone(), secret: Secret("one".into()) });
        assert_eq!(sent(&current).await, "x-token: one");
        std::fs::write(&file, "two\n").unwrap();
        tokio::time::advance(FRESH * 2).await;
        assert_eq!(sent(&current).await, "x-token: two");
        std::fs::remove_file(&file).unwrap();
        tokio::time::advance(FRESH * 2).await;
        assert_eq!(sent(&current).await, "x-token: two");
    }

    #[tokio::test(start_paused = true)]
    async fn one_reads_at_a_time_and_nobody_else_waits_for_it() {
        let secret = || Secret("s".into());
        let credential = Credential { kind: Kind::Bearer, file: PathBuf::new(), secret: secret() };
        let current = Current::new(credential);
        assert!(!current.begins_to_read(), "it is new");
        tokio::time::advance(FRESH * 2).await;
        assert!(current.begins_to_read());
        tokio::time::advance(FRESH * 2).await;
        assert!(!current.begins_to_read(), "that one has not ended");
        current.read_again();
        assert!(current.begins_to_read());
    }

    #[tokio::test]
    async fn each_kind_is_sent_as_its_servers_expect() {
        for (kind, expected) in [
            (Kind::Bearer, "x-token: of the plugin, authorization: Bearer s"),
            (Kind::Basic("u".into()), "x-token: of the plugin, authorization: Basic dTpz"),
            (Kind::Header(HeaderName::from_static("x-token")), "x-token: s"),
        ] {
            let current = Current::new(Credential { kind, file: PathBuf::new(), secret: Secret("s".into()) });
            assert_eq!(sent(&current).await, expected);
        }
    }
}
