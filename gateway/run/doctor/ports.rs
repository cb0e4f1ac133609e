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
};

/// Connections out to one endpoint have a port each, and some more wait until theirs may be used again.
const FEW: u16 = 16_384;

/// How the kernel writes that a socket listens.
const LISTENING: &str = "0A";

pub(super) fn look(config: &Config) -> Vec<Finding> {
    let range = system("/proc/sys/net/ipv4/ip_local_port_range");
    let range = range.as_deref().and_then(local_range);
    let reserved = system("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
    let listeners =
        config.listeners.iter().map(|listener| (format!("listener {}", listener.name), listener.address));
    let admin = config.admin.address.map(|address| ("admin".to_owned(), address));
    let registrations =
        config.admin.registrations.as_ref().map(|own| ("admin.registrations".to_owned(), own.address));
    let mut found: Vec<Finding> = listeners
        .chain(admin)
        .chain(registrations)
        .flat_map(|(who, address)| {
            let can = can_listen(&who, address);
            let given_away = range.clone().and_then(|range| may_be_taken(&who, address, range, &reserved));
            [Some(can), given_away]
        })
        .flatten()
        .collect();
    found.extend(range.and_then(|range| few(&range)));
    found
}

/// What the system says in a file.
fn system(file: impl AsRef<Path>) -> Option<String> {
    files::read_text(file.as_ref(), DOCUMENT).ok()
}

fn can_listen(who: &str, address: SocketAddr) -> Finding {
    let place = format!("{who}: {address}");
    let error = |text: String| Finding::error("port", text);
    let Err(failed) = bind(address) else { return Finding::ok("port", format!("{place} is free")) };
    match failed.kind() {
        io::ErrorKind::AddrInUse => match holder(address) {
            Some((_, name)) if name == "witgate" => {
                Finding::ok("port", format!("{place} is that of a gateway that runs"))
            }
            Some((process, name)) => error(format!("{place} is in use by {name}, process {process}"))
                .advice(format!("stop that, or choose another `address` for {who}")),
            None => error(format!("{place} is in use, by a process that may not be looked at"))
                .advice(format!("ask again as root to see whose it is, or choose another `address` for {who}")),
        },
        io::ErrorKind::PermissionDenied => error(format!("{place}: may not listen there, as this user")).advice(
            "run it with AmbientCapabilities=CAP_NET_BIND_SERVICE, as its unit does, or choose a port above 1023",
        ),
        io::ErrorKind::AddrNotAvailable => error(format!("{place}: this machine has no such address"))
            .advice(format!("write one that it has as `address` of {who}; 0.0.0.0 and [::] are all of them")),
        _ => error(format!("{place}: {failed}")).advice(format!("choose another `address` for {who}")),
    }
}

/// As whoever listens does, without listening: nobody may connect to this.
fn bind(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())
}

/// The process that listens at an address, and its name. None if that may not be seen.
fn holder(address: SocketAddr) -> Option<(u32, String)> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| system(table).unwrap_or_default());
    let inodes: Vec<String> = tables
        .iter()
        .flat_map(|table| table.lines().skip(1))
        .filter_map(listening)
        .filter(|(ip, port, _)| *port == address.port() && covers(*ip, address.ip()))
        .map(|(.., inode)| format!("socket:[{inode}]"))
        .collect();
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

/// Whether who listens on `held` is in the way of who wants to listen on `wanted`.
fn covers(held: IpAddr, wanted: IpAddr) -> bool {
    held.is_unspecified() || wanted.is_unspecified() || held.to_canonical() == wanted.to_canonical()
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
    use super::*;

    #[test]
    fn who_listens_is_read_from_the_tables_of_the_kernel() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1";
        assert_eq!(listening(line), Some(("127.0.0.1".parse().unwrap(), 8080, "4711")));
        let six = "   1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 12 1";
        assert_eq!(listening(six), Some(("::1".parse().unwrap(), 80, "12")));
        assert_eq!(listening(&line.replace(" 0A ", " 01 ")), None, "a connection");
        assert_eq!(listening("nonsense"), None);
    }

    #[test]
    fn an_own_listener_of_the_test_is_found() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert_eq!(bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(holder(address).map(|(process, _)| process), Some(std::process::id()));
        drop(taken);
        bind(address).unwrap();
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
