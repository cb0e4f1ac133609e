//! The gateway's own listeners, which no registry may name as an endpoint.
//!
//! A request forwarded to a listener of the gateway comes back, and one forwarded to the admin listener comes from
//! this machine: whoever may register would be the operator. Lists in the configuration may name them, since the
//! operator wrote those.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use super::usable::embedded;

/// How long the addresses of this machine are taken to be what they were.
const LOCAL_FOR: Duration = Duration::from_secs(1);

/// Where the gateway listens, as bound. Cheap to clone; empty by default.
#[derive(Debug, Clone, Default)]
pub struct OwnAddresses(Arc<Own>);

#[derive(Debug, Default)]
struct Own {
    bound: RwLock<Bound>,
    local: Mutex<Option<(Instant, HashSet<IpAddr>)>>,
}

#[derive(Debug, Default)]
struct Bound {
    /// With one address each.
    addresses: HashSet<SocketAddr>,
    /// Ports that are listened on at every address of this machine.
    everywhere: HashSet<u16>,
}

impl OwnAddresses {
    /// The addresses that the listeners have, port 0 replaced by what it became.
    pub fn new(bound: impl IntoIterator<Item = SocketAddr>) -> Self {
        let own = Self::default();
        own.set(bound);
        own
    }

    /// There are others now, for everybody who has a clone of this.
    pub fn set(&self, bound: impl IntoIterator<Item = SocketAddr>) {
        let (everywhere, bound): (Vec<_>, Vec<_>) =
            bound.into_iter().partition(|address| address.ip().to_canonical().is_unspecified());
        let bound =
            bound.into_iter().map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()));
        let bound = Bound {
            addresses: bound.collect(),
            everywhere: everywhere.iter().map(SocketAddr::port).collect(),
        };
        *self.0.bound.write().unwrap_or_else(PoisonError::into_inner) = bound;
    }

    /// Whether a connection to this address would arrive at the gateway itself.
    pub fn contains(&self, address: SocketAddr) -> bool {
        let port = address.port();
        let ip = address.ip().to_canonical();
        let translated = match ip {
            IpAddr::V6(ip) => embedded(ip).map(IpAddr::V4),
            IpAddr::V4(_) => None,
        };
        let bound = self.0.bound.read().unwrap_or_else(PoisonError::into_inner);
        [Some(ip), translated].into_iter().flatten().any(|ip| {
            bound.addresses.contains(&SocketAddr::new(ip, port))
                || (bound.everywhere.contains(&port) && (ip.is_loopback() || self.is_local(ip)))
        })
    }

    /// Whether this machine has the address. Asks the system at most once a second.
    fn is_local(&self, ip: IpAddr) -> bool {
        let mut local = self.0.local.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match &*local {
            Some((read, addresses)) if now < *read + LOCAL_FOR => addresses.contains(&ip),
            _ => {
                let addresses = addresses_of_this_machine();
                let found = addresses.contains(&ip);
                *local = Some((now, addresses));
                found
            }
        }
    }
}

fn addresses_of_this_machine() -> HashSet<IpAddr> {
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces.iter().map(|interface| interface.ip().to_canonical()).collect(),
        Err(error) => {
            tracing::warn!(%error, "Cannot read the addresses of this machine, only loopback ones are known");
            HashSet::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn own(bound: &[&str]) -> OwnAddresses {
        OwnAddresses::new(bound.iter().map(|text| text.parse().unwrap()))
    }

    fn check(own: &OwnAddresses, text: &str, expected: bool) {
        assert_eq!(own.contains(text.parse().unwrap()), expected, "{text}");
    }

    #[test]
    fn a_listener_is_its_address_in_every_form() {
        let own = own(&["127.0.0.1:9901", "[::1]:9902", "[::ffff:10.0.0.1]:80"]);
        for text in ["127.0.0.1:9901", "[::ffff:127.0.0.1]:9901", "[64:ff9b::127.0.0.1]:9901", "[::1]:9902"] {
            check(&own, text, true);
        }
        check(&own, "10.0.0.1:80", true);
        for text in ["127.0.0.1:9902", "127.0.0.2:9901", "[::1]:9901", "10.0.0.2:80"] {
            check(&own, text, false);
        }
    }

    #[test]
    fn a_listener_on_every_address_is_all_of_this_machine() {
        for wildcard in ["0.0.0.0:8080", "[::]:8080"] {
            let own = own(&[wildcard]);
            for text in ["127.0.0.1:8080", "127.9.8.7:8080", "[::1]:8080", "[::ffff:127.0.0.1]:8080"] {
                check(&own, text, true);
                check(&own, &text.replace("8080", "8081"), false);
            }
            for ip in addresses_of_this_machine() {
                assert!(own.contains(SocketAddr::new(ip, 8080)), "{ip}");
            }
            // Addresses for documentation are nobody's.
            check(&own, "192.0.2.1:8080", false);
            check(&own, "[2001:db8::1]:8080", false);
        }
    }

    proptest! {
        #[test]
        fn nothing_is_ours_on_a_port_we_do_not_listen_on(ip in any::<IpAddr>(), port in 1u16..8080) {
            let own = own(&["0.0.0.0:8080", "127.0.0.1:9901"]);
            prop_assert!(!own.contains(SocketAddr::new(ip, port)));
        }
    }
}
