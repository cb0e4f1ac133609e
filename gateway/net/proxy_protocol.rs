//! The header by which a proxy in front tells of the client behind it, at the beginning of a connection: PROXY protocol,
//! versions 1 and 2 (HAProxy's `doc/proxy-protocol.txt`). Pure.

use std::net::{IpAddr, SocketAddr};

/// How version 2 begins.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// How version 1 begins.
const WORD: &[u8] = b"PROXY ";

/// The longest line of version 1, with its end.
const LONGEST_LINE: usize = 107;

/// The longest header of version 2 that is taken, without its first 16 bytes. Addresses take 36; the rest is what else a
/// proxy tells, which says nothing here.
const LONGEST_REST: usize = 8192;

/// How a header is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl ProxyVersion {
    pub const ALL: [Self; 2] = [Self::V1, Self::V2];

    /// As the configuration names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }

    /// The header of who speaks for itself.
    pub fn own_header(self) -> Vec<u8> {
        match self {
            Self::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
            Self::V2 => [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat(),
        }
    }
}

/// The two ends of the connection that a proxy has from its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Proxied {
    pub client: SocketAddr,
    /// Where the client connected to.
    pub server: SocketAddr,
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeader {
    /// Nothing of a client: the proxy speaks for itself, as when it checks whether somebody answers, or it knows of the
    /// client what is no address of TCP.
    Own,
    Client(Proxied),
}

/// Why what came is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    #[error("it does not begin with a PROXY header")]
    Missing,
    #[error("the PROXY header makes no sense")]
    Invalid,
    #[error("the PROXY header is longer than {LONGEST_REST} bytes")]
    TooLong,
}

/// Reads the header at the beginning of what came, and says how long it is. None: more has to come.
pub fn parse(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyError> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(came, expected)| came == expected);
    if begins(&SIGNATURE) {
        binary(bytes)
    } else if begins(WORD) {
        line(bytes)
    } else {
        Err(ProxyError::Missing)
    }
}

fn binary(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyError> {
    let Some(([command, family, high, low], rest)) =
        bytes.get(SIGNATURE.len()..).and_then(|rest| rest.split_first_chunk())
    else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length > LONGEST_REST {
        return Err(ProxyError::TooLong);
    }
    let Some(rest) = rest.get(..length) else { return Ok(None) };
    let header = match (command, family) {
        // Whatever addresses are there mean nothing.
        (0x20, _) => ProxyHeader::Own,
        (0x21, 0x11) => ProxyHeader::Client(addresses::<4>(rest)?),
        (0x21, 0x21) => ProxyHeader::Client(addresses::<16>(rest)?),
        (0x21, _) => ProxyHeader::Own,
        _ => return Err(ProxyError::Invalid),
    };
    Ok(Some((header, SIGNATURE.len() + 4 + length)))
}

/// Two addresses of N bytes each, and two ports. What comes behind them is nothing that is asked for.
fn addresses<const N: usize>(bytes: &[u8]) -> Result<Proxied, ProxyError>
where
    IpAddr: From<[u8; N]>,
{
    let invalid = ProxyError::Invalid;
    let (client, rest) = bytes.split_first_chunk::<N>().ok_or(invalid)?;
    let (server, rest) = rest.split_first_chunk::<N>().ok_or(invalid)?;
    let (ports, _) = rest.split_first_chunk::<4>().ok_or(invalid)?;
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Ok(Proxied { client: (*client, port(0)).into(), server: (*server, port(2)).into() })
}

fn line(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyError> {
    let Some(end) = bytes.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n') else {
        return if bytes.len() < LONGEST_LINE { Ok(None) } else { Err(ProxyError::Invalid) };
    };
    let line = bytes[..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
    let said = line.and_then(|line| line.strip_prefix("PROXY ")).ok_or(ProxyError::Invalid)?;
    let header = if said == "UNKNOWN" || said.starts_with("UNKNOWN ") {
        // Behind it may be anything.
        ProxyHeader::Own
    } else {
        ProxyHeader::Client(words(said).ok_or(ProxyError::Invalid)?)
    };
    Ok(Some((header, end + 1)))
}

/// `TCP4 192.0.2.1 192.0.2.2 40000 443`.
fn words(said: &str) -> Option<Proxied> {
    let mut words = said.split(' ');
    let mut next = || words.next();
    let (family, client, server) = (next()?, next()?, next()?);
    let address = |text: &str| match family {
        "TCP4" => text.parse().ok().map(IpAddr::V4),
        "TCP6" => text.parse().ok().map(IpAddr::V6),
        _ => None,
    };
    let port = |text: &str| {
        let is_plain =
            text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse::<u16>().ok().filter(|_| is_plain)
    };
    let (from, to) = (port(next()?)?, port(next()?)?);
    let proxied = Proxied { client: (address(client)?, from).into(), server: (address(server)?, to).into() };
    next().is_none().then_some(proxied)
}

impl Proxied {
    /// The header that tells of these. The two ends are of one family, or both become IPv6.
    pub fn header(&self, version: ProxyVersion) -> Vec<u8> {
        let (client, server) = (self.client.ip().to_canonical(), self.server.ip().to_canonical());
        let ports = (self.client.port(), self.server.port());
        match (client, server) {
            (IpAddr::V4(client), IpAddr::V4(server)) => match version {
                ProxyVersion::V1 => text("TCP4", client, server, ports),
                ProxyVersion::V2 => bytes(0x11, &client.octets(), &server.octets(), ports),
            },
            (client, server) => {
                let whole = |address| match address {
                    IpAddr::V4(address) => std::net::Ipv4Addr::to_ipv6_mapped(&address),
                    IpAddr::V6(address) => address,
                };
                let (client, server) = (whole(client), whole(server));
                match version {
                    ProxyVersion::V1 => text("TCP6", client, server, ports),
                    ProxyVersion::V2 => bytes(0x21, &client.octets(), &server.octets(), ports),
                }
            }
        }
    }
}

fn text(
    family: &str,
    client: impl std::fmt::Display,
    server: impl std::fmt::Display,
    (from, to): (u16, u16),
) -> Vec<u8> {
    format!("PROXY {family} {client} {server} {from} {to}\r\n").into_bytes()
}

fn bytes(family: u8, client: &[u8], server: &[u8], (from, to): (u16, u16)) -> Vec<u8> {
    let length = (client.len() + server.len() + 4) as u16;
    let rest: [&[u8]; 6] =
        [&[0x21, family], &length.to_be_bytes(), client, server, &from.to_be_bytes(), &to.to_be_bytes()];
    [&SIGNATURE[..], &rest.concat()].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(client: &str, server: &str) -> ProxyHeader {
        ProxyHeader::Client(Proxied { client: client.parse().unwrap(), server: server.parse().unwrap() })
    }

    /// A header of version 2 with a byte of the client's behind it.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = (rest.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest, b"G"].concat()
    }

    #[test]
    fn lines_are_read_to_the_letter() {
        let read = |text: &str| parse(text.as_bytes()).map(|read| read.map(|(header, _)| header));
        assert_eq!(
            read("PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\nGET"),
            Ok(Some(client("192.0.2.1:40000", "192.0.2.2:443")))
        );
        assert_eq!(
            read("PROXY TCP6 2001:db8::1 2001:db8::2 1 0\r\n"),
            Ok(Some(client("[2001:db8::1]:1", "[2001:db8::2]:0")))
        );
        for own in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN whatever it says\r\n"] {
            assert_eq!(read(own), Ok(Some(ProxyHeader::Own)));
        }
        for invalid in [
            "PROXY \r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
            "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
            "PROXY TCP4 ::1 ::2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        ] {
            assert_eq!(read(invalid), Err(ProxyError::Invalid), "{invalid:?}");
        }
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(LONGEST_LINE));
        assert_eq!(read(&endless), Err(ProxyError::Invalid));
    }

    #[test]
    fn what_is_no_header_is_told_at_its_first_byte() {
        for other in ["GET / HTTP/1.1\r\n", "PROXI", "\r\n\r\n\0\r\nQUIX", "\x16\x03\x01"] {
            assert_eq!(parse(other.as_bytes()), Err(ProxyError::Missing), "{other:?}");
        }
        for begun in ["", "P", "PROXY", "\r\n\r", "\r\n\r\n\0\r\nQUIT\n"] {
            assert_eq!(parse(begun.as_bytes()), Ok(None), "{begun:?}");
        }
    }

    #[test]
    fn a_proxy_that_speaks_for_itself_has_no_client_whatever_it_says() {
        let addresses = [192, 0, 2, 1, 192, 0, 2, 2, 0, 1, 0, 2];
        let own = |bytes: &[u8]| assert_eq!(parse(bytes), Ok(Some((ProxyHeader::Own, bytes.len() - 1))));
        own(&v2(0x20, 0x11, &addresses));
        own(&v2(0x20, 0x00, &[]));
        for version in ProxyVersion::ALL {
            let header = version.own_header();
            assert_eq!(parse(&header), Ok(Some((ProxyHeader::Own, header.len()))));
        }
        // Families that are none of TCP: unspecified, datagrams, sockets of Unix, unknown ones.
        for family in [0x00, 0x01, 0x12, 0x22, 0x31, 0x32, 0x41, 0xff] {
            own(&v2(0x21, family, &[7; 300]));
        }
    }

    #[test]
    fn what_a_proxy_tells_beside_addresses_is_skipped() {
        let told = [192, 0, 2, 1, 192, 0, 2, 2, 156, 64, 1, 187, 0xe0, 0, 2, 9, 9, 4, 0, 0];
        let header = v2(0x21, 0x11, &told);
        assert_eq!(parse(&header), Ok(Some((client("192.0.2.1:40000", "192.0.2.2:443"), header.len() - 1))));
    }

    #[test]
    fn headers_that_make_no_sense_are_refused() {
        for (command, family, length) in
            [(0x11, 0x11, 12), (0x22, 0x11, 12), (0x2f, 0, 0), (0x21, 0x11, 11), (0x21, 0x21, 35)]
        {
            let header = v2(command, family, &vec![1; length]);
            assert_eq!(parse(&header), Err(ProxyError::Invalid), "{command:x} {family:x} {length}");
        }
        assert_eq!(parse(&v2(0x21, 0x11, &[0; LONGEST_REST + 1])), Err(ProxyError::TooLong));
    }

    fn address() -> impl Strategy<Value = SocketAddr> {
        let ip =
            prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)];
        (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(client in address(), server in address(), binary: bool, rest: Vec<u8>) {
            let version = if binary { ProxyVersion::V2 } else { ProxyVersion::V1 };
            let mut header = Proxied { client, server }.header(version);
            let length = header.len();
            header.extend(rest);
            let (read, read_to) = parse(&header).unwrap().unwrap();
            prop_assert_eq!(read_to, length);
            let ProxyHeader::Client(read) = read else { panic!("it has a client") };
            let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
            prop_assert_eq!((canonical(read.client), canonical(read.server)), (client, server));
            for cut in 0..length {
                prop_assert_eq!(parse(&header[..cut]), Ok(None));
            }
        }

        #[test]
        fn nothing_that_comes_is_too_much(begin in 0..3_usize, rest: Vec<u8>) {
            let begins: [&[u8]; 3] = [b"", WORD, &SIGNATURE];
            let bytes = [begins[begin], &rest].concat();
            if let Ok(Some((_, length))) = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
