//! Where instances and checks are: Consul's clients name them by ids that are their own among all services.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::registration::is_ours;
use crate::{
    connector::memory::{Memory, Registration},
    telemetry::text::shown,
};

/// Names that are remembered at most: about as many as there may be instances.
const MOST: usize = 100_000;

/// What is looked for by its id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::admin) enum Named {
    Instance(String),
    Check(String),
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(id) => write!(f, "service ID {:?}", shown(id).to_string()),
            Self::Check(id) => write!(f, "check ID {:?}", shown(id).to_string()),
        }
    }
}

impl Named {
    fn is(&self, id: &str, registration: &Registration) -> bool {
        match self {
            Self::Instance(wanted) => id == wanted,
            Self::Check(wanted) => {
                is_ours(registration) && registration.checks.iter().any(|check| check.id == *wanted)
            }
        }
    }
}

/// Where it is: the service and the id of an instance.
type Places = HashMap<Named, (Arc<str>, Arc<str>)>;

/// Remembers what was found, since each heartbeat asks.
#[derive(Default)]
pub(super) struct Directory(Mutex<Places>);

impl Directory {
    /// The service and the id of an instance, and what is registered. Of instances with one id in several services that
    /// which Consul's API registered.
    pub(super) fn find(
        &self,
        memory: &Memory,
        named: &Named,
    ) -> Option<(Arc<str>, Arc<str>, Arc<Registration>)> {
        let registered = |(service, id): (Arc<str>, Arc<str>)| {
            let instance = memory.instance(&service, &id)?;
            Some((service, id, instance.registration))
        };
        let known = self.known().get(named).cloned();
        let still = known.and_then(registered).filter(|(_, id, of)| is_ours(of) && named.is(id, of));
        if still.is_some() {
            return still;
        }
        let ours = memory.find(|id, of| is_ours(of) && named.is(id, of));
        let found = ours.or_else(|| match named {
            Named::Instance(_) => memory.find(|id, of| named.is(id, of)),
            Named::Check(_) => None,
        });
        let mut known = self.known();
        match &found {
            Some(found) => {
                if known.len() >= MOST {
                    known.clear();
                }
                known.insert(named.clone(), found.clone());
            }
            None => drop(known.remove(named)),
        }
        drop(known);
        found.and_then(registered)
    }

    fn known(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
