//! Names become IP addresses, on the control plane: many at a time, and no slow one in the way of the others.

mod names;
mod servers;
mod system;

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::sync::Semaphore;

pub(super) use self::names::{Names, Report, Told};
pub(crate) use self::servers::{Addresses, Reply, Servers, Service};
use self::system::System;
use super::BoxFuture;

/// Names asked about at once, for the whole process.
const AT_ONCE: usize = 128;

/// And of those that came to nothing the last time. They have places of their own, so that a thousand names that
/// nobody answers for do not stand before one that is answered at once.
const FAILING_AT_ONCE: usize = 64;

/// What asking for the addresses of one family came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Found {
        ips: Vec<IpAddr>,
        /// How long that is good for.
        good_for: Duration,
    },
    /// Whoever knows says that there are none, and why.
    Nothing(String),
    /// Nobody who knows has answered.
    Failed(String),
}

/// What a name came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub v4: Outcome,
    pub v6: Outcome,
}

impl From<Reply<IpAddr>> for Outcome {
    fn from(reply: Reply<IpAddr>) -> Self {
        match reply {
            Reply::Found { found: ips, good_for } => Self::Found { ips, good_for },
            Reply::Nothing { why, .. } => Self::Nothing(why),
            Reply::Refused(why) | Reply::Failed(why) => Self::Failed(why),
        }
    }
}

impl From<Addresses> for Answer {
    fn from(Addresses { v4, v6 }: Addresses) -> Self {
        Self { v4: v4.into(), v6: v6.into() }
    }
}

type Lookup = dyn Fn(Arc<str>) -> BoxFuture<'static, Answer> + Send + Sync;

/// Asks about names, as the system is set up to. One per process; cheap to clone.
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

struct Inner {
    lookup: Box<Lookup>,
    system: Arc<System>,
    sound: Semaphore,
    failing: Semaphore,
}

impl Resolver {
    /// Reads `/etc/hosts` and asks the servers of `/etc/resolv.conf`; both are read again when they change.
    pub fn new() -> Self {
        let system = Arc::new(System::default());
        let lookup = {
            let system = system.clone();
            move |name: Arc<str>| -> BoxFuture<'static, Answer> {
                let system = system.clone();
                Box::pin(async move { system.lookup(&name).await })
            }
        };
        Self::make(Box::new(lookup), system)
    }

    /// Asks a function instead of the system.
    pub fn by(lookup: impl Fn(Arc<str>) -> BoxFuture<'static, Answer> + Send + Sync + 'static) -> Self {
        Self::make(Box::new(lookup), Arc::default())
    }

    /// Asks these servers instead of the system, and reads none of its files.
    pub(crate) fn at(servers: Arc<Servers>) -> Self {
        Self::by(move |name| {
            let servers = servers.clone();
            Box::pin(async move { Answer::from(servers.addresses(&name).await) })
        })
    }

    fn make(lookup: Box<Lookup>, system: Arc<System>) -> Self {
        let (sound, failing) = (Semaphore::new(AT_ONCE), Semaphore::new(FAILING_AT_ONCE));
        Self(Arc::new(Inner { lookup, system, sound, failing }))
    }

    /// Asks these servers from now on; those of the system if there are none.
    pub fn set_servers(&self, servers: &[std::net::SocketAddr]) {
        self.0.system.set_servers(servers);
    }

    /// What a name comes to. `failed`: it came to nothing the last time.
    ///
    /// Waits until it is its turn, and then about five seconds at most.
    pub async fn ask(&self, name: Arc<str>, failed: bool) -> Answer {
        let places = if failed { &self.0.failing } else { &self.0.sound };
        // They are never closed.
        let _place = places.acquire().await;
        (self.0.lookup)(name).await
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new()
    }
}

/// Names that a test decides about.
#[cfg(test)]
pub(in crate::registry) mod fake {
    use std::{
        collections::HashMap,
        sync::{Mutex, PoisonError},
    };

    use super::*;

    /// A name that was not set is one that nobody answers for.
    #[derive(Clone, Default)]
    pub struct FakeNames(Arc<Mutex<State>>);

    #[derive(Default)]
    struct State {
        ips: HashMap<String, Vec<IpAddr>>,
        asked: HashMap<String, usize>,
    }

    impl FakeNames {
        pub fn set(&self, name: &str, ips: &[&str]) {
            let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
            self.0.lock().unwrap().ips.insert(name.into(), ips);
        }

        /// From now on nobody answers for it.
        pub fn silence(&self, name: &str) {
            self.0.lock().unwrap().ips.remove(name);
        }

        pub fn asked(&self, name: &str) -> usize {
            self.0.lock().unwrap().asked.get(name).copied().unwrap_or_default()
        }

        pub fn resolver(&self) -> Resolver {
            let state = self.0.clone();
            Resolver::by(move |name| {
                let ips = {
                    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                    *state.asked.entry(name.to_string()).or_default() += 1;
                    state.ips.get(&*name).cloned()
                };
                Box::pin(async move {
                    let Some(ips) = ips else {
                        tokio::time::sleep(Duration::from_secs(5)).await;
                        let failed = Outcome::Failed("no answer".into());
                        return Answer { v4: failed.clone(), v6: failed };
                    };
                    let found = Outcome::Found { ips, good_for: Duration::from_secs(3600) };
                    Answer { v4: found, v6: Outcome::Nothing("the name has no address".into()) }
                })
            })
        }
    }
}
