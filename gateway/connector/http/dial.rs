//! Connections to a host that is named, each of whose addresses may be a hole.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{net::TcpStream, time::timeout};

use crate::{
    net::{self, Wire},
    tls::{self, HandshakeError, Protocol},
};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("{0:?} is not resolved: {1}")]
    Unresolved(String, io::Error),
    #[error("no connection within {0:?}")]
    TimedOut(Duration),
    #[error(transparent)]
    Failed(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] HandshakeError),
}

/// Connects to a host, without brackets if it is an address: to each of its addresses in turn, until one takes it.
///
/// `limit` says how long one of so many addresses may take, TLS included. Finding them may take as long as one alone.
pub(crate) async fn dial(
    (host, port): (&str, u16),
    tls: Option<&tls::Client>,
    protocol: Protocol,
    limit: impl Fn(u32) -> Duration,
) -> Result<Box<dyn Wire>, DialError> {
    let found = timeout(limit(1), tokio::net::lookup_host((host, port))).await;
    let found = found.map_err(|_| DialError::TimedOut(limit(1)))?;
    let found: Vec<_> = found.map_err(|error| DialError::Unresolved(host.to_owned(), error))?.collect();
    let name = host.parse::<IpAddr>().is_err().then_some(host);
    let limit = limit(found.len().try_into().unwrap_or(u32::MAX).max(1));
    any(&found, name, tls, protocol, limit).await
}

async fn any(
    addresses: &[SocketAddr],
    name: Option<&str>,
    tls: Option<&tls::Client>,
    protocol: Protocol,
    limit: Duration,
) -> Result<Box<dyn Wire>, DialError> {
    let mut last = io::Error::other("the host has no address").into();
    for address in addresses {
        let connected = timeout(limit, connect(*address, name, tls, protocol)).await;
        match connected.unwrap_or(Err(DialError::TimedOut(limit))) {
            Ok(wire) => return Ok(wire),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect(
    address: SocketAddr,
    name: Option<&str>,
    tls: Option<&tls::Client>,
    protocol: Protocol,
) -> Result<Box<dyn Wire>, DialError> {
    let socket = TcpStream::connect(address).await?;
    net::prepare(&socket)?;
    let Some(tls) = tls else { return Ok(Box::new(socket)) };
    Ok(Box::new(tls.connect(socket, address.ip(), name, protocol).await?))
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_address_that_says_nothing_leaves_time_for_the_next() {
        // Its queue is full, so that no other connection is made.
        let hole = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        hole.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        hole.listen(0).unwrap();
        let silent = hole.local_addr().unwrap().as_socket().unwrap();
        let _waiting = std::net::TcpStream::connect(silent).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();

        let limit = Duration::from_millis(100);
        let addresses = [silent, good];
        let dialed = any(&addresses, None, None, Protocol::Http1, limit);
        assert!(timeout(Duration::from_secs(10), dialed).await.unwrap().is_ok());
        listener.accept().await.unwrap();
        let failed = any(&[silent], None, None, Protocol::Http1, limit).await.err();
        assert!(matches!(failed, Some(DialError::TimedOut(_))), "{failed:?}");
    }
}
