//! Options of TCP sockets.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// How a peer that vanished without a word is found out: after a minute of silence it is asked, every ten seconds,
/// five times. Whatever the other limits say, its connection ends then.
const KEEP_ALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(10))
    .with_retries(5);

/// Has the kernel find out whether the peer is still there.
pub fn keep_alive(socket: &TcpStream) -> io::Result<()> {
    SockRef::from(socket).set_tcp_keepalive(&KEEP_ALIVE)
}
