//! Bodies of requests: bounded in length and time, and JSON.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::answer::Rejection;

/// The longest body, in bytes.
const LONGEST: usize = 64 * 1024;

/// How long a body may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Rejection> {
    serde_json::from_slice(body).map_err(|error| Rejection::Invalid(format!("body: {error}")))
}

/// The same, where no body says as much as an empty object.
pub(super) fn read_or_empty<T: DeserializeOwned>(body: &[u8]) -> Result<T, Rejection> {
    read(if body.trim_ascii().is_empty() { b"{}" } else { body })
}

/// Waits for the whole body, for a bounded time.
pub(super) async fn collect(body: Incoming) -> Result<Bytes, Rejection> {
    let body = timeout(PATIENCE, Limited::new(body, LONGEST).collect());
    let body = body.await.map_err(|_| Rejection::TooSlow(PATIENCE))?.map_err(|error| match error
        .downcast_ref::<LengthLimitError>(
    ) {
        Some(_) => Rejection::TooLong(LONGEST),
        None => Rejection::Invalid(format!("body broke off: {error}")),
    })?;
    Ok(body.to_bytes())
}
