//! The links that are listened and spoken on: one for each interface, with a socket for each family of addresses.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::Arc,
};

use if_addrs::{IfAddr, Interface};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet};

const PORT: u16 = 5353;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

/// The longest message there may be (RFC 6762, 17).
const LONGEST: usize = 9_000;

/// A packet, and the index of the interface where it came from.
pub type Heard = (u32, Vec<u8>);

/// An interface as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interfaced {
    pub name: String,
    pub addresses: Vec<IfAddr>,
}

/// Whether it is one of these names or, when there are none, leads to other machines. A link between two has no
/// multicast.
pub fn is_wanted(names: &[String], interface: &Interface) -> bool {
    let of_names = if names.is_empty() { !interface.is_loopback() } else { names.contains(&interface.name) };
    of_names && !interface.is_p2p
}

/// Those that are up and wanted, by their index.
pub fn interfaces(names: &[String]) -> io::Result<BTreeMap<u32, Interfaced>> {
    let mut found = BTreeMap::<u32, Interfaced>::new();
    for interface in if_addrs::get_if_addrs()? {
        if !is_wanted(names, &interface) || !interface.is_oper_up() {
            continue;
        }
        let Interface { name, addr, index: Some(index), .. } = interface else { continue };
        let of = found.entry(index).or_insert_with(|| Interfaced { name, addresses: Vec::new() });
        of.addresses.push(addr);
    }
    for of in found.values_mut() {
        of.addresses.sort_by_key(IfAddr::ip);
    }
    Ok(found)
}

impl Interfaced {
    /// Whether the address is on the network of this link.
    pub fn reaches(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|address| match (address, ip) {
            (IfAddr::V4(own), IpAddr::V4(ip)) => (own.ip & own.netmask) == (ip & own.netmask),
            (IfAddr::V6(own), IpAddr::V6(ip)) => (own.ip & own.netmask) == (ip & own.netmask),
            _ => false,
        })
    }

    /// Whether it leads to this machine alone.
    pub fn is_loopback(&self) -> bool {
        self.addresses.iter().all(IfAddr::is_loopback)
    }
}

/// Dropping it leaves the link.
pub struct Link {
    pub at: Interfaced,
    sockets: Vec<(Arc<UdpSocket>, SocketAddr)>,
    _readers: JoinSet<()>,
}

impl Link {
    /// Listens on an interface. What is heard goes to `heard`; while nobody takes it, the kernel keeps what it has
    /// room for.
    pub fn open(index: u32, at: Interfaced, heard: &mpsc::Sender<Heard>) -> io::Result<Self> {
        let mut sockets = Vec::new();
        let mut failed = None;
        let v4 = at.addresses.iter().find_map(|address| match address {
            IfAddr::V4(own) => Some(own.ip),
            IfAddr::V6(_) => None,
        });
        let has_v6 = at.addresses.iter().any(|address| matches!(address, IfAddr::V6(_)));
        let wanted = [v4.map(|own| listen_v4(index, own)), has_v6.then(|| listen_v6(index))];
        for socket in wanted.into_iter().flatten() {
            match socket {
                Ok((socket, group)) => sockets.push((Arc::new(socket), group)),
                Err(error) => failed = Some(error),
            }
        }
        // One family is enough.
        if let (true, Some(error)) = (sockets.is_empty(), failed) {
            return Err(error);
        }
        let mut readers = JoinSet::new();
        for (socket, _) in &sockets {
            readers.spawn(read(socket.clone(), index, at.clone(), heard.clone()));
        }
        Ok(Self { at, sockets, _readers: readers })
    }

    /// Says it to everybody on the link. What the kernel has no room for is as good as lost on the way.
    pub fn say(&self, packet: &[u8]) {
        for (socket, group) in &self.sockets {
            let _ = socket.try_send_to(packet, *group);
        }
    }
}

async fn read(socket: Arc<UdpSocket>, index: u32, at: Interfaced, heard: mpsc::Sender<Heard>) {
    let mut buffer = vec![0; LONGEST];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(read) => read,
            Err(error) => {
                tracing::debug!(interface = at.name, %error, "Reading of mDNS failed");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        // Only neighbours may speak, and those who respond do so from the port (RFC 6762, 11 and 6).
        let is_response = buffer.get(2).is_some_and(|flags| flags & 0x80 != 0);
        // A link-local address may be on any link, and Linux gives what comes on one to all who have joined the group
        // of IPv6 on another.
        let elsewhere = match from {
            SocketAddr::V6(from) => from.ip().is_unicast_link_local() && from.scope_id() != index,
            SocketAddr::V4(_) => false,
        };
        if elsewhere || !at.reaches(from.ip()) || (is_response && from.port() != PORT) {
            continue;
        }
        if heard.send((index, buffer[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

fn listen_v4(index: u32, own: Ipv4Addr) -> io::Result<(UdpSocket, SocketAddr)> {
    let socket = shared(Domain::IPV4)?;
    socket.set_multicast_if_v4(&own)?;
    socket.set_multicast_ttl_v4(255)?;
    socket.set_multicast_loop_v4(true)?;
    // Only what comes from the groups that were joined, which is what says where a packet came from.
    #[cfg(target_os = "linux")]
    socket.set_multicast_all_v4(false)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
    socket.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(index))?;
    Ok((UdpSocket::from_std(socket.into())?, (GROUP_V4, PORT).into()))
}

fn listen_v6(index: u32) -> io::Result<(UdpSocket, SocketAddr)> {
    let socket = shared(Domain::IPV6)?;
    socket.set_only_v6(true)?;
    socket.set_multicast_if_v6(index)?;
    socket.set_multicast_hops_v6(255)?;
    socket.set_multicast_loop_v6(true)?;
    #[cfg(target_os = "linux")]
    socket.set_multicast_all_v6(false)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)).into())?;
    socket.join_multicast_v6(&GROUP_V6, index)?;
    Ok((UdpSocket::from_std(socket.into())?, SocketAddrV6::new(GROUP_V6, PORT, 0, index).into()))
}

/// Other programs of the machine listen on the port, too.
fn shared(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    // Linux would give a packet of a group to only one of those who share the port in this way.
    #[cfg(not(target_os = "linux"))]
    socket.set_reuse_port(true)?;
    Ok(socket)
}
