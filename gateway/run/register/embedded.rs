//! Announcing in the embedded registry of a running gateway, over its admin API.

use std::time::Duration;

use http::StatusCode;
use percent_encoding::utf8_percent_encode;
use serde_json::{Value, json};

use super::super::operate::SEGMENT;
use crate::{
    admin::client::{AskError, Client},
    plugin::Announcement,
    registry::{BoxFuture, Failure, Registrar},
};

/// What is announced lives so long without a heartbeat.
const TTL_SECONDS: u32 = 15;

/// Two heartbeats may get lost before the announcement does.
const INTERVAL: Duration = Duration::from_secs(TTL_SECONDS as u64 / 3);

/// One instance, under its address.
pub(super) struct Embedded {
    client: Client,
    path: String,
    body: Value,
}

impl Embedded {
    pub fn new(client: Client, announcement: &Announcement) -> Self {
        let Announcement { service, address, weight, labels } = announcement;
        let encoded = |text| utf8_percent_encode(text, SEGMENT).to_string();
        let path = format!("/api/v1/services/{}/{}", encoded(service), encoded(address));
        let body = json!({
            "address": address,
            "weight": weight,
            "labels": grouped(labels),
            "ttl_seconds": TTL_SECONDS,
        });
        Self { client, path, body }
    }
}

/// An object of lists, as a name may occur more than once.
fn grouped(labels: &[(String, String)]) -> Value {
    let mut object = serde_json::Map::new();
    for (name, value) in labels {
        let values = object.entry(name).or_insert_with(|| json!([]));
        if let Value::Array(values) = values {
            values.push(json!(value));
        }
    }
    object.into()
}

impl Registrar for Embedded {
    fn register(&mut self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async { self.renew().await.map(drop) })
    }

    fn renew(&mut self) -> BoxFuture<'_, Result<Duration, Failure>> {
        Box::pin(async {
            self.client.put(&self.path, &self.body).await?;
            Ok(INTERVAL)
        })
    }

    fn withdraw(&mut self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async {
            self.client.delete(&self.path).await?;
            Ok(())
        })
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        let text = match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        match error {
            AskError::Unreachable { .. } | AskError::Tls { .. } | AskError::TooSlow { .. } => {
                Self::Unavailable(text)
            }
            AskError::NotAGateway { .. } => Self::Other(text),
            AskError::Refused { status, .. } => match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Self::Denied(text),
                StatusCode::BAD_REQUEST => Self::Invalid(text),
                status if status.is_server_error() => Self::Unavailable(text),
                _ => Self::Other(text),
            },
        }
    }
}
