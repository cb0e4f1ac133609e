//! Which addresses can be an endpoint at all, whoever names them.
//!
//! The one rule for all registries and for lists in the configuration. The shipped plugins are compiled with this file,
//! too, so that `witgate check` says the same of a list as the gateway that reads it; therefore it uses nothing but
//! the standard library.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

/// Why an address cannot be an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// Port 0 asks for any port, and is none.
    NoPort,
    /// `0.0.0.0`, `::`, and all of `0.0.0.0/8`: nobody in particular.
    Unspecified,
    Multicast,
    Broadcast,
    /// Where clouds hand out the credentials of the machine to whoever asks from it.
    Metadata,
    /// `fe80::1` is another machine on every network.
    NoScope,
    /// A scope with an address that is the same everywhere.
    NeedlessScope,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPort => "has port 0, which nobody can connect to",
            Self::Unspecified => "names no host that others could connect to",
            Self::Multicast => "is a multicast address, which nobody can connect to",
            Self::Broadcast => "is a broadcast address, which nobody can connect to",
            Self::Metadata => "is where a cloud keeps the credentials of this machine",
            Self::NoScope => "is link-local and needs a scope: [fe80::1%2]:80 or [fe80::1%eth0]:80",
            Self::NeedlessScope => "has a scope, which only link-local addresses have",
        })
    }
}

/// What answers with credentials or configuration inside a cloud, to whoever asks from a machine in it.
const METADATA_V4: [Ipv4Addr; 8] = [
    // AWS, Google, Azure, Oracle, OpenStack, DigitalOcean, Hetzner and others.
    Ipv4Addr::new(169, 254, 169, 254),
    // AWS: credentials of tasks (ECS) and of pods (EKS).
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    // Tencent.
    Ipv4Addr::new(169, 254, 0, 23),
    // Scaleway.
    Ipv4Addr::new(169, 254, 42, 42),
    // Alibaba.
    Ipv4Addr::new(100, 100, 100, 200),
    // Oracle Cloud Classic.
    Ipv4Addr::new(192, 0, 0, 192),
    // Azure: the certificates and the configuration of the machine.
    Ipv4Addr::new(168, 63, 129, 16),
];

const METADATA_V6: [Ipv6Addr; 6] = [
    // AWS, and its credentials of pods.
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    // Google.
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    // Oracle.
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    // Scaleway.
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
    // OpenStack.
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
];

/// The address in the one form in which it is compared: IPv4 as IPv4, nothing beside host, port and the scope of a
/// link-local address. Or why it cannot be an endpoint.
pub fn usable(address: SocketAddr) -> Result<SocketAddr, Unusable> {
    let (ip, scope) = match address {
        SocketAddr::V4(address) => (IpAddr::V4(*address.ip()), 0),
        SocketAddr::V6(address) => (IpAddr::V6(*address.ip()).to_canonical(), address.scope_id()),
    };
    // Even a scope does not help what is refused anyway, so that the reason given is the one to act on.
    match ip {
        IpAddr::V4(ip) => usable_v4(ip)?,
        IpAddr::V6(ip) => usable_v6(ip)?,
    }
    let link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    match (link_local, scope) {
        (true, 0) => return Err(Unusable::NoScope),
        (false, 1..) => return Err(Unusable::NeedlessScope),
        _ if address.port() == 0 => return Err(Unusable::NoPort),
        _ => {}
    }
    Ok(match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, address.port(), 0, scope).into(),
    })
}

fn usable_v4(ip: Ipv4Addr) -> Result<(), Unusable> {
    match ip {
        ip if ip.octets()[0] == 0 => Err(Unusable::Unspecified),
        ip if ip.is_multicast() => Err(Unusable::Multicast),
        ip if ip.is_broadcast() => Err(Unusable::Broadcast),
        ip if METADATA_V4.contains(&ip) => Err(Unusable::Metadata),
        _ => Ok(()),
    }
}

fn usable_v6(ip: Ipv6Addr) -> Result<(), Unusable> {
    match ip {
        ip if ip.is_unspecified() => Err(Unusable::Unspecified),
        ip if ip.is_multicast() => Err(Unusable::Multicast),
        ip if METADATA_V6.contains(&ip) => Err(Unusable::Metadata),
        // What a translator on the way makes an IPv4 address of is one.
        ip => embedded(ip).map_or(Ok(()), usable_v4),
    }
}

/// The IPv4 address in an IPv6 address that networks translate to it: NAT64 (`64:ff9b::/96`), 6to4 (`2002::/16`), and
/// the old `::a.b.c.d`. The form `::ffff:a.b.c.d` is IPv4 itself.
pub fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match ip.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        [0, 0, 0, 0, 0, 0, 0, 1] => None,
        [0, 0, 0, 0, 0, 0, high, low] => v4(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: Result<&str, Unusable>) {
        let read = usable(text.parse().unwrap());
        assert_eq!(read, expected.map(|text| text.parse().unwrap()), "{text}");
    }

    #[test]
    fn what_can_be_connected_to_can_be_an_endpoint() {
        for text in
            ["10.0.0.1:80", "127.0.0.1:1", "169.254.1.1:80", "[::1]:80", "[2001:db8::1]:80", "[fe80::1%2]:80"]
        {
            check(text, Ok(text));
        }
        check("[::ffff:10.0.0.1]:80", Ok("10.0.0.1:80"));
        check("[64:ff9b::10.0.0.1]:80", Ok("[64:ff9b::10.0.0.1]:80"));
    }

    #[test]
    fn what_cannot_is_refused_in_every_form() {
        for (text, why) in [
            ("0.0.0.0:80", Unusable::Unspecified),
            ("0.1.2.3:80", Unusable::Unspecified),
            ("[::]:80", Unusable::Unspecified),
            ("[::%1]:80", Unusable::Unspecified),
            ("[::ffff:0.0.0.0]:80", Unusable::Unspecified),
            ("10.0.0.1:0", Unusable::NoPort),
            ("[::1]:0", Unusable::NoPort),
            ("224.0.0.1:80", Unusable::Multicast),
            ("239.255.255.255:80", Unusable::Multicast),
            ("[ff02::1]:80", Unusable::Multicast),
            ("[ff02::1%2]:80", Unusable::Multicast),
            ("[::ffff:224.0.0.1]:80", Unusable::Multicast),
            ("255.255.255.255:80", Unusable::Broadcast),
            ("[::ffff:255.255.255.255]:80", Unusable::Broadcast),
            ("169.254.169.254:80", Unusable::Metadata),
            ("[::ffff:169.254.169.254]:80", Unusable::Metadata),
            ("[::ffff:a9fe:a9fe]:80", Unusable::Metadata),
            ("[::169.254.169.254]:80", Unusable::Metadata),
            ("[64:ff9b::169.254.169.254]:80", Unusable::Metadata),
            ("[2002:a9fe:a9fe::1]:80", Unusable::Metadata),
            ("[fd00:ec2::254]:80", Unusable::Metadata),
            ("[fe80::a9fe:a9fe%2]:80", Unusable::Metadata),
            ("100.100.100.200:80", Unusable::Metadata),
            ("[fe80::1]:80", Unusable::NoScope),
            ("[2001:db8::1%2]:80", Unusable::NeedlessScope),
            ("[::1%1]:80", Unusable::NeedlessScope),
        ] {
            check(text, Err(why));
        }
    }

    proptest! {
        #[test]
        fn what_is_usable_stays_what_it_is(ip in any::<IpAddr>(), port in any::<u16>()) {
            if let Ok(address) = usable(SocketAddr::new(ip, port)) {
                prop_assert_eq!(usable(address), Ok(address));
                prop_assert!(port != 0 && address.ip() == ip.to_canonical());
            }
        }

        #[test]
        fn an_ipv4_address_is_judged_alike_in_every_form(ip in any::<Ipv4Addr>(), port in 1u16..) {
            let plain = usable(SocketAddr::new(ip.into(), port));
            prop_assert_eq!(usable(SocketAddr::new(ip.to_ipv6_mapped().into(), port)), plain);
            let translated = Ipv6Addr::from(0x64_ff9b_u128 << 96 | u128::from(u32::from(ip)));
            prop_assert_eq!(usable(SocketAddr::new(translated.into(), port)).err(), plain.err());
        }
    }
}
