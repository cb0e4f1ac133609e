//! What a registry plugin wrote, checked where it enters.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    str::FromStr,
};

use super::usable::{Unusable, usable};

/// A host and a port, as registries write them.
///
/// ```
/// use witgate::registry::HostPort;
///
/// let address: HostPort = "[::1]:8080".parse().unwrap();
/// assert_eq!(address.to_string(), "[::1]:8080");
/// let error = "orders".parse::<HostPort>().unwrap_err();
/// assert_eq!(error.to_string(), "address \"orders\" has no port: write host:port");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPort {
    /// An address that can be an endpoint.
    Ip(SocketAddr),
    /// A name to be resolved, in lower case.
    Name(String, u16),
}

/// Why an address cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("address {0:?} has no port: write host:port")]
    NoPort(String),
    #[error("address {0:?} has no usable port: 1 to 65535")]
    BadPort(String),
    #[error("address {0:?} has no usable host: an IPv4 address, an IPv6 address in brackets, or a name")]
    BadHost(String),
    #[error("address {0:?} {1}")]
    Unusable(String, Unusable),
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (host, port) = text.rsplit_once(':').ok_or_else(|| AddressError::NoPort(text.to_owned()))?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port: Option<u16> = port.parse().ok().filter(|_| digits);
        let port = port.ok_or_else(|| AddressError::BadPort(text.to_owned()))?;
        let bad_host = || AddressError::BadHost(text.to_owned());
        let ip = |address| match usable(address) {
            Ok(address) => Ok(Self::Ip(address)),
            Err(why) => Err(AddressError::Unusable(text.to_owned(), why)),
        };
        if let Some(inner) = host.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or_else(bad_host)?;
            let (inner, scope) = scoped(inner).ok_or_else(bad_host)?;
            let inner: Ipv6Addr = inner.parse().map_err(|_| bad_host())?;
            return ip(SocketAddrV6::new(inner, port, 0, scope).into());
        }
        if let Ok(host) = host.parse::<IpAddr>() {
            return if host.is_ipv4() { ip(SocketAddr::new(host, port)) } else { Err(bad_host()) };
        }
        if port == 0 {
            return Err(AddressError::Unusable(text.to_owned(), Unusable::NoPort));
        }
        is_name(host).then(|| Self::Name(host.to_ascii_lowercase(), port)).ok_or_else(bad_host)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// An IPv6 address and its scope, 0 for none: the number of an interface, or the name of one that this machine has.
fn scoped(text: &str) -> Option<(&str, u32)> {
    let Some((ip, scope)) = text.split_once('%') else { return Some((text, 0)) };
    let number = scope.parse().ok().filter(|_| scope.bytes().all(|byte| byte.is_ascii_digit()));
    let scope = number.or_else(|| {
        let interfaces = if_addrs::get_if_addrs().ok()?;
        interfaces.into_iter().find(|interface| interface.name == scope)?.index
    })?;
    Some((ip, scope))
}

/// A host name as resolvers take it: labels of letters, digits, `-` and `_`, the last not all digits.
fn is_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= 253 && host.split('.').all(label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_read_or_refused_with_their_value() {
        let check = |text: &str, expected: Option<&str>| {
            let read = text.parse::<HostPort>();
            assert_eq!(read.as_ref().ok().map(ToString::to_string).as_deref(), expected, "{text}");
            if let Err(error) = read {
                assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
            }
        };
        check("10.0.0.1:8080", Some("10.0.0.1:8080"));
        check("[::1]:80", Some("[::1]:80"));
        check("Orders.svc_1.local.:80", Some("orders.svc_1.local.:80"));
        check("::1:80", None);
        check("10.0.0.1", None);
        check("10.0.0.1:0", None);
        check("orders:0", None);
        check("0.0.0.0:80", None);
        check("[::ffff:169.254.169.254]:80", None);
        check("[::ffff:10.0.0.1]:80", Some("10.0.0.1:80"));
        check("[fe80::1]:80", None);
        check("[fe80::1%2]:80", Some("[fe80::1%2]:80"));
        check("[fe80::1%no-such-interface]:80", None);
        check("[fe80::1%]:80", None);
        check("[fe80::1%+2]:80", None);
        check("10.0.0.1:+80", None);
        check("10.0.0.1:65536", None);
        check("10.0.0.256:80", None);
        check("http://a:80", None);
        check(":80", None);
        check("[10.0.0.1]:80", None);
        check("a b:80", None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            if let Ok(address) = text.parse::<HostPort>() {
                prop_assert_eq!(address.to_string().parse::<HostPort>(), Ok(address));
            }
        }
    }
}
