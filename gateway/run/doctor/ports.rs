//! Whether the gateway can listen where it should, and if not, who does.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    path::Path,
};

use socket2::{Domain, Socket, Type};

use super::finding::Finding;
use crate::{
    config::Config,
    files::{self, DOCUMENT},
    server,
};

/// Connections out to one endpoint have a port each, and some more wait until theirs may be used again.
const FEW: u16 = 16_384;

/// How the kernel writes that a socket listens.
const LISTENING: &str = "0A";

/// What `[::]` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unspecified {
    /// IPv6 alone: a listener for clients.
    OneFamily,
    /// What the system says, which is IPv4 as well unless somebody changed that: the administration.
    BothFamilies,
}

/// Who wants to listen where.
struct Wanted {
    who: String,
    address: SocketAddr,
    unspecified: Unspecified,
}

pub(super) fn look(config: &Config) -> Vec<Finding> {
    let range = system("/proc/sys/net/ipv4/ip_local_port_range");
    let range = range.as_deref().and_then(local_range);
    let reserved = system("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
    let mut found = Vec::new();
    for wanted in wanted(config) {
        found.push(can_listen(&wanted));
        let Wanted { who, address, .. } = &wanted;
        found.extend(range.clone().and_then(|range| may_be_taken(who, *address, range, &reserved)));
    }
    found.extend(range.and_then(|range| few(&range)));
    found
}

fn wanted(config: &Config) -> impl Iterator<Item = Wanted> {
    let of_clients = config.listeners.iter().map(|listener| Wanted {
        who: format!("listener {}", listener.name),
        address: listener.address,
        unspecified: Unspecified::OneFamily,
    });
    let registrations = config.admin.registrations.as_ref().map(|own| ("admin.registrations", own.address));
    let of_admin = config.admin.address.map(|address| ("admin", address)).into_iter().chain(registrations);
    of_clients.chain(of_admin.map(|(who, address)| Wanted {
        who: who.to_owned(),
        address,
        unspecified: Unspecified::BothFamilies,
    }))
}

/// What the system says in a file.
fn system(file: impl AsRef<Path>) -> Option<String> {
    files::read_text(file.as_ref(), DOCUMENT).ok()
}

fn can_listen(wanted: &Wanted) -> Finding {
    match bind(wanted) {
        Ok(()) => Finding::ok("port", format!("{}: {} is free", wanted.who, wanted.address)),
        Err(failed) => cannot(wanted, &failed, || holder(wanted)),
    }
}

/// What this user may not do or see, the one who runs the gateway may.
fn cannot(wanted: &Wanted, failed: &io::Error, holder: impl FnOnce() -> Option<(u32, String)>) -> Finding {
    let Wanted { who, address, .. } = wanted;
    let place = format!("{who}: {address}");
    let error = |text: String| Finding::error("port", text);
    let warning = |text: String| Finding::warning("port", text);
    match failed.kind() {
        io::ErrorKind::AddrInUse => match holder() {
            Some((_, name)) if name == "witgate" => {
                Finding::ok("port", format!("{place} is that of a gateway that runs"))
            }
            Some((process, name)) => error(format!("{place} is in use by {name}, process {process}"))
                .advice(format!("stop that, or choose another `address` for {who}")),
            None => warning(format!("{place} is in use, by a process that this user may not look at")).advice(
                format!(
                    "ask again as root to see whether it is a gateway that runs; if not, choose another `address` for {who}"
                ),
            ),
        },
        io::ErrorKind::PermissionDenied => warning(format!("{place}: may not listen there, as this user"))
            .advice(
                "run it with AmbientCapabilities=CAP_NET_BIND_SERVICE, as its unit does, or choose a port above 1023",
            ),
        io::ErrorKind::AddrNotAvailable => error(format!("{place}: this machine has no such address"))
            .advice(format!("write one that it has as `address` of {who}; 0.0.0.0 and [::] are all of them")),
        _ => error(format!("{place}: {failed}")).advice(format!("choose another `address` for {who}")),
    }
}

/// As whoever listens does, without listening: nobody may connect to this.
fn bind(wanted: &Wanted) -> io::Result<()> {
    let address = wanted.address;
    if wanted.unspecified == Unspecified::OneFamily {
        return server::probe(address).map(drop);
    }
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// The process that listens where somebody else wants to, and its name. None if that may not be seen.
fn holder(wanted: &Wanted) -> Option<(u32, String)> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| system(table).unwrap_or_default());
    let inodes = in_the_way(tables.iter().flat_map(|table| table.lines().skip(1)), wanted);
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|process| Some((process.file_name().to_str()?.parse::<u32>().ok()?, process.path())))
        .filter(|(_, path)| {
            let files = fs::read_dir(path.join("fd")).into_iter().flatten().flatten();
            files
                .filter_map(|file| fs::read_link(file.path()).ok())
                .any(|link| inodes.iter().any(|inode| link.as_os_str() == inode.as_str()))
        })
        .map(|(id, path)| (id, system(path.join("comm")).unwrap_or_default().trim().to_owned()))
        .next()
}

/// The sockets among these lines of tables of the kernel because of which nobody else can listen there.
fn in_the_way<'a>(lines: impl Iterator<Item = &'a str>, wanted: &Wanted) -> Vec<String> {
    let held: Vec<_> =
        lines.filter_map(listening).filter(|(_, port, _)| *port == wanted.address.port()).collect();
    let those = |covers: &dyn Fn(IpAddr) -> bool| -> Vec<String> {
        let those = held.iter().filter(|(ip, ..)| covers(*ip));
        those.map(|(.., inode)| format!("socket:[{inode}]")).collect()
    };
    let ip = wanted.address.ip().to_canonical();
    let same = those(&|held| {
        let held = held.to_canonical();
        held.is_ipv4() == ip.is_ipv4() && (held == ip || held.is_unspecified() || ip.is_unspecified())
    });
    if !same.is_empty() {
        return same;
    }
    // Whether a socket for `[::]` is one for IPv4, too, is not told: it is, if nobody else can be.
    those(&|held| match held.to_canonical() {
        IpAddr::V6(held) => ip.is_ipv4() && held.is_unspecified(),
        IpAddr::V4(_) => {
            ip.is_ipv6() && ip.is_unspecified() && wanted.unspecified == Unspecified::BothFamilies
        }
    })
}

/// A line of a table of the kernel: where somebody listens, and the number of the socket.
fn listening(line: &str) -> Option<(IpAddr, u16, &str)> {
    let mut fields = line.split_whitespace();
    let (address, state) = (fields.nth(1)?, fields.nth(1)?);
    let inode = fields.nth(5)?;
    let (ip, port) = address.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of four bytes, each in the order of this machine.
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        _ => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let bytes: Vec<u8> = words.concat();
            Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()
        }
    };
    (state == LISTENING).then_some((ip, port, inode))
}

/// The ports that connections out are given.
fn local_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut ports = text.split_whitespace().map(str::parse);
    Some(ports.next()?.ok()?..=ports.next()?.ok()?)
}

/// Whether a connection out may have got the port before the gateway listens there.
fn may_be_taken(
    who: &str,
    address: SocketAddr,
    range: RangeInclusive<u16>,
    reserved: &str,
) -> Option<Finding> {
    let port = address.port();
    if !range.contains(&port) || is_reserved(port, reserved) {
        return None;
    }
    let (first, last) = (range.start(), range.end());
    let text = format!("{who}: port {port} is one that connections out are given ({first} to {last})");
    let advice = format!("choose a lower port, or set net.ipv4.ip_local_reserved_ports = {port}");
    Some(Finding::warning("port", text).advice(advice))
}

fn is_reserved(port: u16, reserved: &str) -> bool {
    reserved.trim().split(',').any(|part| match part.split_once('-') {
        Some((first, last)) => {
            first.parse().is_ok_and(|first: u16| first <= port)
                && last.parse().is_ok_and(|last: u16| port <= last)
        }
        None => part.parse() == Ok(port),
    })
}

fn few(range: &RangeInclusive<u16>) -> Option<Finding> {
    let count = range.end().saturating_sub(*range.start());
    (count < FEW).then(|| {
        let text = format!("{count} ports are for connections out, which is how many each instance can have");
        Finding::warning("port", text).advice("widen net.ipv4.ip_local_port_range, as far as 1024 to 65535")
    })
}

#[cfg(test)]
mod tests {
    use super::{super::finding, *};

    #[test]
    fn who_listens_is_read_from_the_tables_of_the_kernel() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1";
        assert_eq!(listening(line), Some(("127.0.0.1".parse().unwrap(), 8080, "4711")));
        let six = "   1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 12 1";
        assert_eq!(listening(six), Some(("::1".parse().unwrap(), 80, "12")));
        assert_eq!(listening(&line.replace(" 0A ", " 01 ")), None, "a connection");
        assert_eq!(listening("nonsense"), None);
    }

    fn wanted(address: impl Into<SocketAddr>, unspecified: Unspecified) -> Wanted {
        Wanted { who: "listener web".into(), address: address.into(), unspecified }
    }

    #[test]
    fn an_own_listener_of_the_test_is_found() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        for unspecified in [Unspecified::OneFamily, Unspecified::BothFamilies] {
            let wanted = wanted(taken.local_addr().unwrap(), unspecified);
            assert_eq!(bind(&wanted).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            assert_eq!(holder(&wanted).map(|(process, _)| process), Some(std::process::id()));
        }
        let address = taken.local_addr().unwrap();
        drop(taken);
        bind(&wanted(address, Unspecified::OneFamily)).unwrap();
    }

    #[test]
    fn a_listener_for_ipv6_goes_beside_one_for_ipv4_and_the_administration_does_not() {
        let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let address = (Ipv6Addr::UNSPECIFIED, taken.local_addr().unwrap().port());
        let listener = wanted(address, Unspecified::OneFamily);
        bind(&listener).unwrap();
        assert_eq!(holder(&listener), None);
        let admin = wanted(address, Unspecified::BothFamilies);
        assert_eq!(bind(&admin).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(holder(&admin).map(|(process, _)| process), Some(std::process::id()));
    }

    #[test]
    fn who_is_in_the_way_is_of_the_same_family_or_of_both() {
        let line = |address: &str, inode: u32| {
            format!("0: {address}:0050 0:0 0A 00000000:00000000 00:00000000 00000000 0 0 {inode} 1")
        };
        let (any4, one4) = (line("00000000", 1), line("0100007F", 2));
        let (any6, one6) = (line(&"0".repeat(32), 3), line("00000000000000000000000001000000", 4));
        for (held, address, unspecified, expected) in [
            (vec![&any4, &any6], "0.0.0.0:80", Unspecified::OneFamily, "1"),
            (vec![&any4, &any6], "[::]:80", Unspecified::OneFamily, "3"),
            (vec![&any4], "[::]:80", Unspecified::OneFamily, ""),
            (vec![&any4], "[::]:80", Unspecified::BothFamilies, "1"),
            (vec![&any4], "[::1]:80", Unspecified::BothFamilies, ""),
            (vec![&any6], "127.0.0.1:80", Unspecified::OneFamily, "3"),
            (vec![&one6], "127.0.0.1:80", Unspecified::OneFamily, ""),
            (vec![&one6], "0.0.0.0:80", Unspecified::OneFamily, ""),
            (vec![&one4, &one6], "0.0.0.0:80", Unspecified::OneFamily, "2"),
            (vec![&one4, &one6], "127.0.0.2:80", Unspecified::OneFamily, ""),
            (vec![&one4], "127.0.0.1:81", Unspecified::OneFamily, ""),
        ] {
            let wanted = wanted(address.parse::<SocketAddr>().unwrap(), unspecified);
            let expected: Vec<_> =
                expected.split_whitespace().map(|inode| format!("socket:[{inode}]")).collect();
            assert_eq!(
                in_the_way(held.iter().map(|line| line.as_str()), &wanted),
                expected,
                "{address} {held:?}"
            );
        }
    }

    #[test]
    fn what_only_this_user_may_not_is_a_warning() {
        let wanted = wanted(([0, 0, 0, 0], 80), Unspecified::OneFamily);
        let told = |kind: io::ErrorKind, holder: Option<(u32, String)>| {
            finding::told(&[cannot(&wanted, &kind.into(), || holder)]).text
        };
        for (told, expected) in [
            (told(io::ErrorKind::PermissionDenied, None), "▲ warning"),
            (told(io::ErrorKind::AddrInUse, None), "▲ warning"),
            (told(io::ErrorKind::AddrInUse, Some((1, "nginx".into()))), "✕ error"),
            (told(io::ErrorKind::AddrInUse, Some((1, "witgate".into()))), "✓ ok"),
            (told(io::ErrorKind::AddrNotAvailable, None), "✕ error"),
        ] {
            assert!(told.starts_with(expected), "{told}");
        }
    }

    #[test]
    fn a_port_that_connections_are_given_is_told_unless_it_is_reserved() {
        let range = local_range("32768\t60999\n").unwrap();
        let told = |port: u16, reserved: &str| {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            may_be_taken("admin", address, range.clone(), reserved).is_some()
        };
        assert!(told(40_000, "") && told(60_999, "8080,39000-39999\n"));
        assert!(!told(8_080, "") && !told(40_000, "8080,39000-40000\n") && !told(40_000, "40000\n"));
        assert!(few(&(32_768..=40_000)).is_some() && few(&range).is_none());
    }
}
