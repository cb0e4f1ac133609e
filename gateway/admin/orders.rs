//! What the operator orders of an upstream: pin, unpin, roll back, accept, drain, undrain.

use std::{collections::BTreeSet, net::SocketAddr};

use serde::Deserialize;

use super::{answer::Rejection, body};
use crate::{
    catalog::Upstream,
    upstream::{Order, OrderError, RollbackError, SourceStatus},
};

/// The last segment of a path below an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Verb {
    Pin,
    Unpin,
    Rollback,
    Accept,
    Drain,
    Undrain,
}

impl Verb {
    pub(super) fn read(segment: &str) -> Option<Self> {
        Some(match segment {
            "pin" => Self::Pin,
            "unpin" => Self::Unpin,
            "rollback" => Self::Rollback,
            "accept" => Self::Accept,
            "drain" => Self::Drain,
            "undrain" => Self::Undrain,
            _ => return None,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rollback {
    generation: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Accept {
    /// None: whatever any source holds back.
    source: Option<Source>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Endpoints {
    addresses: Vec<String>,
}

impl Endpoints {
    fn read(body: &[u8]) -> Result<BTreeSet<SocketAddr>, Rejection> {
        let Self { addresses } = body::read(body)?;
        if addresses.is_empty() {
            return Err(Rejection::Invalid("addresses names no endpoint".into()));
        }
        let one = |(number, text): (usize, &String)| {
            let no_address = |_| {
                Rejection::Invalid(format!("addresses[{number}] is {text:?}, and no IP address with a port"))
            };
            text.parse().map_err(no_address)
        };
        addresses.iter().enumerate().map(one).collect()
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected the number of a source or the name of its registry")]
enum Source {
    /// Its place in the list of sources, from 0.
    Number(usize),
    Registry(String),
}

/// Carries the order out: when this returns it is in force and on disk.
pub(super) async fn carry_out(upstream: &Upstream, verb: Verb, body: &[u8]) -> Result<(), Rejection> {
    let order = match verb {
        Verb::Pin => body::read_or_empty(body).map(|Nothing {}| Order::Pin)?,
        Verb::Unpin => body::read_or_empty(body).map(|Nothing {}| Order::Unpin)?,
        Verb::Rollback => body::read(body).map(|Rollback { generation }| Order::Rollback { generation })?,
        Verb::Accept => {
            let Accept { source } = body::read_or_empty(body)?;
            let source = source.map(|source| number(source, &upstream.status().sources)).transpose()?;
            Order::Accept { source }
        }
        Verb::Drain => Order::Drain { addresses: Endpoints::read(body)? },
        Verb::Undrain => Order::Undrain { addresses: Endpoints::read(body)? },
    };
    upstream.order(order).await.map_err(|error| rejection(upstream, &error))
}

fn number(source: Source, sources: &[SourceStatus]) -> Result<usize, Rejection> {
    let registry = match source {
        Source::Number(number) => return Ok(number),
        Source::Registry(registry) => registry,
    };
    let mut of_it = sources.iter().enumerate().filter(|(_, source)| *source.name.registry == *registry);
    match (of_it.next(), of_it.next()) {
        (Some((number, _)), None) => Ok(number),
        (None, _) => Err(Rejection::NotFound { kind: "source in registry", name: registry }),
        (Some(_), Some(_)) => Err(Rejection::Invalid(format!(
            "several sources are in registry {registry:?}, give the number of one"
        ))),
    }
}

fn rejection(upstream: &Upstream, error: &OrderError) -> Rejection {
    let text = format!("upstream {}: {error}", upstream.name());
    match error {
        OrderError::NoSource(_) | OrderError::Rollback(RollbackError::NotYet { .. }) => {
            Rejection::Invalid(text)
        }
        OrderError::NoEndpoint(address) => {
            Rejection::NotFound { kind: "endpoint", name: address.to_string() }
        }
        OrderError::NotPinned
        | OrderError::NothingHeld
        | OrderError::NotDraining(_)
        | OrderError::Rollback(_)
        | OrderError::Gone => Rejection::Conflict(text),
        OrderError::NotSaved(_) => Rejection::NotSaved(text),
    }
}
