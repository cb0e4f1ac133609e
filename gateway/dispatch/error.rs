//! Why something is not sent to any endpoint.

use crate::{catalog::FindError, selector::PickError, telemetry::Refused};

/// Why something is sent nowhere. None of it is a fault of an endpoint.
#[derive(Debug, thiserror::Error)]
pub enum NotDispatched {
    #[error("no such service")]
    UnknownService,
    #[error("route leads to no upstream")]
    NoUpstream,
    #[error("service not found: {0}")]
    Find(#[from] FindError),
    #[error("no endpoint: {0}")]
    Pick(#[from] PickError),
    #[error("every endpoint is drained")]
    Drained,
    #[error("every endpoint that suits has as many requests as it may have")]
    Full,
    #[error("not sent: {}", .0.as_str())]
    Refused(Refused),
}
