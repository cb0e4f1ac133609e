//! Where endpoints come from: the seam where Wasm plugins and test fakes meet, and the tasks that drive it.

mod announce;
mod check;
mod claims;
mod own;
mod pace;
mod resolve;
mod usable;
mod watch;

pub use announce::{Registrar, Registration, Standing};
pub use check::{AddressError, HostPort};
pub use claims::Intake;
pub use own::OwnAddresses;
pub(crate) use pace::Ceiling;
pub(crate) use resolve::{Addresses, Reply, Servers, Service};
pub use resolve::{Answer, Outcome, Resolver};
pub use usable::{Unusable, usable};
pub use watch::{Watch, watch};

use std::{future::Future, pin::Pin};

use crate::bindings::wit;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a registry could not be read. None of them changes a list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("registry unavailable: {0}")]
    Unavailable(String),
    #[error("registry refused the credentials: {0}")]
    Denied(String),
    #[error("registry holds or was asked something invalid: {0}")]
    Invalid(String),
    #[error("registry failed: {0}")]
    Other(String),
    /// The plugin itself failed: a trap, a deadline, a limit. Its instance is gone.
    #[error("registry plugin failed: {0}")]
    Plugin(String),
}

impl Failure {
    /// What happened, without its kind.
    pub fn text(&self) -> &str {
        match self {
            Self::Unavailable(text)
            | Self::Denied(text)
            | Self::Invalid(text)
            | Self::Other(text)
            | Self::Plugin(text) => text,
        }
    }

    /// The word for logs, metrics and the API.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Denied(_) => "denied",
            Self::Invalid(_) => "invalid",
            Self::Other(_) => "other",
            Self::Plugin(_) => "plugin",
        }
    }
}

/// A registry with its settings and what the host holds for it.
pub trait Registry: Send + Sync {
    /// Begins to follow a service. Dropping the future or the subscription ends the instance behind it.
    fn follow<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Box<dyn Subscription>, Failure>>;

    /// Who resolves the names in its lists; none: the system does.
    fn resolver(&self) -> Option<Resolver> {
        None
    }

    /// Waits until another version of what is behind this is in force than the one followed last. A subscription
    /// still open then is to be replaced by a new one.
    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

/// One service being followed.
pub trait Subscription: Send {
    /// Waits for the next news; the first is complete. After a failure the subscription is dead.
    fn next(&mut self) -> BoxFuture<'_, Result<wit::News, Failure>>;
}
