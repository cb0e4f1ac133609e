//! The links that are listened and spoken on: one for each interface, with a socket for each family of addresses.
//!
//! On Linux a socket is bound to the group. One that is bound to the port alone may be given what is sent to the port
//! of this machine, in place of whichever other program waits for that.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::Arc,
    time::Duration,
};

use if_addrs::{IfAddr, Interface};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};
use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet};

const PORT: u16 = 5353;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

/// The longest message there may be (RFC 6762, 17).
const LONGEST: usize = 9_000;

/// The pause after a socket could not be read, as when its interface has just gone. It would fail again at once.
const UNREADABLE: Duration = Duration::from_millis(100);

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

    /// Whether it is the same link, as it is now. With no address that it had it may be in any other network, and who
    /// listens there has left it meanwhile.
    pub fn is_still(&self, now: &Self) -> bool {
        self.addresses.iter().any(|address| now.addresses.contains(address))
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
    readers: JoinSet<()>,
}

impl Link {
    /// Listens on an interface. What is heard goes to `heard`; while nobody takes it, the kernel keeps what it has
    /// room for.
    pub fn open(index: u32, at: Interfaced, heard: &mpsc::Sender<Heard>) -> io::Result<Self> {
        let mut link = Self::speaking(index, at)?;
        let (mut failed, at) = (None, &link.at);
        link.sockets.retain(|(socket, group)| {
            let joined = match group {
                SocketAddr::V4(_) => SockRef::from(&**socket)
                    .join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(index)),
                SocketAddr::V6(_) => SockRef::from(&**socket).join_multicast_v6(&GROUP_V6, index),
            };
            let listens = joined.is_ok();
            match joined {
                Ok(()) => _ = link.readers.spawn(read(socket.clone(), index, at.clone(), heard.clone())),
                Err(error) => failed = Some(error),
            }
            listens
        });
        link.or(failed)
    }

    /// One that hears nothing.
    pub fn speaking(index: u32, at: Interfaced) -> io::Result<Self> {
        let v4 = at.addresses.iter().find_map(|address| match address {
            IfAddr::V4(own) => Some(own.ip),
            IfAddr::V6(_) => None,
        });
        let has_v6 = at.addresses.iter().any(|address| matches!(address, IfAddr::V6(_)));
        let mut failed = None;
        let mut link = Self { at, sockets: Vec::new(), readers: JoinSet::new() };
        for socket in [v4.map(bound_v4), has_v6.then(|| bound_v6(index))].into_iter().flatten() {
            match socket {
                Ok((socket, group)) => link.sockets.push((Arc::new(socket), group)),
                Err(error) => failed = Some(error),
            }
        }
        link.or(failed)
    }

    /// One family is enough.
    fn or(self, failed: Option<io::Error>) -> io::Result<Self> {
        match failed {
            Some(error) if self.sockets.is_empty() => Err(error),
            _ => Ok(self),
        }
    }

    /// Says it to everybody on the link. What the kernel has no room for is as good as lost on the way.
    pub fn say(&self, packet: &[u8]) {
        for (socket, group) in &self.sockets {
            // Not by way of the runtime, which does not know yet that a new socket can be written.
            let _ = SockRef::from(&**socket).send_to(packet, &(*group).into());
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
                tokio::time::sleep(UNREADABLE).await;
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

/// It hears what comes over the interface of this address, once it has joined the group.
fn bound_v4(own: Ipv4Addr) -> io::Result<(UdpSocket, SocketAddr)> {
    let socket = shared(Domain::IPV4)?;
    socket.set_multicast_if_v4(&own)?;
    socket.set_multicast_ttl_v4(255)?;
    socket.set_multicast_loop_v4(true)?;
    // Only what comes from the groups that were joined, which is what says where a packet came from.
    #[cfg(target_os = "linux")]
    socket.set_multicast_all_v4(false)?;
    let ip = if cfg!(target_os = "linux") { GROUP_V4 } else { Ipv4Addr::UNSPECIFIED };
    socket.bind(&SocketAddr::from((ip, PORT)).into())?;
    Ok((UdpSocket::from_std(socket.into())?, (GROUP_V4, PORT).into()))
}

/// It hears what comes over this interface, once it has joined the group.
fn bound_v6(index: u32) -> io::Result<(UdpSocket, SocketAddr)> {
    let socket = shared(Domain::IPV6)?;
    socket.set_only_v6(true)?;
    socket.set_multicast_if_v6(index)?;
    socket.set_multicast_hops_v6(255)?;
    socket.set_multicast_loop_v6(true)?;
    #[cfg(target_os = "linux")]
    socket.set_multicast_all_v6(false)?;
    let group = SocketAddrV6::new(GROUP_V6, PORT, 0, index);
    let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, PORT, 0, 0);
    socket.bind(&SocketAddr::from(if cfg!(target_os = "linux") { group } else { any }).into())?;
    Ok((UdpSocket::from_std(socket.into())?, group.into()))
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

#[cfg(test)]
pub mod tests {
    use std::mem::MaybeUninit;

    use tokio::time::timeout;

    use super::*;

    /// That of the machine itself, which is always there.
    pub fn loopback() -> (u32, Interfaced) {
        interfaces(&["lo".to_owned()]).unwrap().pop_first().unwrap()
    }

    #[test]
    fn a_link_is_another_when_all_its_addresses_are() {
        let at = |ips: &[&str]| {
            let address = |ip: &&str| {
                let (ip, netmask) = (ip.parse().unwrap(), Ipv4Addr::new(255, 255, 255, 0));
                IfAddr::V4(if_addrs::Ifv4Addr { ip, netmask, prefixlen: 24, broadcast: None })
            };
            Interfaced { name: "eth0".to_owned(), addresses: ips.iter().map(address).collect() }
        };
        let before = at(&["10.0.0.1", "10.1.0.1"]);
        for (now, is) in [
            (&["10.0.0.1"][..], true),
            (&["10.0.0.1", "10.1.0.1", "10.2.0.1"], true),
            (&["10.1.0.1", "10.2.0.1"], true),
            (&["10.0.0.2"], false),
        ] {
            assert_eq!(before.is_still(&at(now)), is, "{now:?}");
        }
    }

    /// Reads until this comes: others may speak here, too.
    async fn reads(mut next: impl AsyncFnMut() -> Vec<u8>, wanted: &[u8]) {
        let read = async { while next().await != wanted {} };
        timeout(Duration::from_secs(20), read).await.expect("it does not come");
    }

    /// What is sent to the port of this machine is for other programs.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_is_sent_to_the_port_alone_goes_to_another() {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let other = shared(Domain::IPV4).unwrap();
        other.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into()).unwrap();
        let other = UdpSocket::from_std(other.into()).unwrap();
        let (heard, mut packets) = mpsc::channel(1);
        let (index, at) = loopback();
        // The last that was bound would have it.
        let _listens = Link::open(index, at.clone(), &heard).unwrap();
        let _speaks = Link::speaking(index, at).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        sender.send_to(b"to the port", address).await.unwrap();
        let next = async || {
            let mut packet = vec![0; 100];
            let length = other.recv(&mut packet).await.unwrap();
            packet.truncate(length);
            packet
        };
        reads(next, b"to the port").await;
        assert!(packets.try_recv().is_err());
    }

    #[tokio::test]
    async fn only_a_link_that_listens_hears_what_is_said_there() {
        let ((heard, mut packets), (index, at)) = (mpsc::channel(100), loopback());
        let listens = Link::open(index, at.clone(), &heard).unwrap();
        let speaks = Link::speaking(index, at).unwrap();
        speaks.say(b"?? to everybody");
        let mut next = async || {
            let (from, packet) = packets.recv().await.unwrap();
            assert_eq!(from, index);
            packet
        };
        reads(&mut next, b"?? to everybody").await;
        listens.say(b"?? and again");
        reads(&mut next, b"?? and again").await;
        for (socket, _) in &speaks.sockets {
            let read = SockRef::from(&**socket).recv(&mut [MaybeUninit::uninit(); 100]);
            assert_eq!(read.map_err(|error| error.kind()), Err(io::ErrorKind::WouldBlock));
        }
    }
}
