//! Names in lists become socket addresses, on the control plane.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    time::Duration,
};

use super::HostPort;

/// How long one name may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Resolves the names of one source, and remembers the last good answer for each: a failing resolver changes nothing.
#[derive(Debug, Default)]
pub struct Resolver {
    good: HashMap<(String, u16), Vec<SocketAddr>>,
}

impl Resolver {
    /// The addresses of a host; the last good ones when the resolver fails, none when there never were any.
    ///
    /// Waits for the system's resolver, at most five seconds, unless the host is an address already.
    pub async fn resolve(&mut self, host: &HostPort) -> Vec<SocketAddr> {
        let (name, port) = match host {
            HostPort::Ip(ip, port) => return vec![SocketAddr::new(*ip, *port)],
            HostPort::Name(name, port) => (name.clone(), *port),
        };
        let key = (name.clone(), port);
        let answer = tokio::time::timeout(TIMEOUT, tokio::net::lookup_host((name, port))).await;
        match answer {
            Ok(Ok(addresses)) => {
                let addresses: Vec<SocketAddr> = addresses.collect::<BTreeSet<_>>().into_iter().collect();
                if !addresses.is_empty() {
                    self.good.insert(key.clone(), addresses);
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(host = %host, %error, "Name not resolved, last good answer kept")
            }
            Err(_) => tracing::warn!(host = %host, "Resolver silent, last good answer kept"),
        }
        self.good.get(&key).cloned().unwrap_or_default()
    }

    /// Forgets names that no endpoint uses any more.
    pub fn keep(&mut self, used: impl Fn(&str, u16) -> bool) {
        self.good.retain(|(name, port), _| used(name, *port));
    }
}
