//! Who the gateway is to a registry: the one header that a plugin never sees.

use std::{path::PathBuf, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};

use crate::{connector::fresh::FreshSecret, document::Secret};

/// A secret, where it comes from, and how it is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Credential {
    pub kind: Kind,
    /// None: it stands in a file of another kind, and is no other until the configuration is read again.
    pub file: Option<PathBuf>,
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

/// A credential in use.
pub(crate) struct Current {
    kind: Kind,
    secret: Arc<FreshSecret>,
}

impl Current {
    pub fn new(credential: Credential) -> Self {
        let Credential { kind, file, secret } = credential;
        Self { kind, secret: FreshSecret::new(file, secret) }
    }

    /// Puts it in the place of whatever stands there.
    pub async fn add_to(&self, headers: &mut HeaderMap) {
        self.kind.add(&self.secret.current().await.0, headers);
    }

    /// The registry has answered that it will not have this one.
    pub fn refused(&self) {
        self.secret.refused();
    }
}

impl Kind {
    /// Puts a secret in the place of whatever stands there.
    pub(super) fn add(&self, secret: &str, headers: &mut HeaderMap) {
        let (name, mut value) = self.header(secret);
        value.set_sensitive(true);
        headers.insert(name, value);
    }

    fn header(&self, secret: &str) -> (HeaderName, HeaderValue) {
        let (name, text) = match self {
            Self::Bearer => (AUTHORIZATION, format!("Bearer {secret}")),
            Self::Header(name) => (name.clone(), secret.to_owned()),
            Self::Basic(user) => {
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

    async fn sent(current: &Current) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("x-token", HeaderValue::from_static("of the plugin"));
        current.add_to(&mut headers).await;
        let sent: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        assert!(headers.values().any(HeaderValue::is_sensitive));
        sent.join(", ")
    }

    #[tokio::test]
    async fn each_kind_is_sent_as_its_servers_expect() {
        for (kind, expected) in [
            (Kind::Bearer, "x-token: of the plugin, authorization: Bearer s"),
            (Kind::Basic("u".into()), "x-token: of the plugin, authorization: Basic dTpz"),
            (Kind::Header(HeaderName::from_static("x-token")), "x-token: s"),
        ] {
            let current = Current::new(Credential { kind, file: None, secret: Secret("s".into()) });
            assert_eq!(sent(&current).await, expected);
        }
    }
}
