//! Options of TCP sockets.

use std::{io, os::fd::AsFd, time::Duration};

use socket2::{SockRef, TcpKeepalive};

/// How a peer that vanished without a word is found out: after a minute of silence it is asked, every ten seconds,
/// five times. Whatever the other limits say, its connection ends then.
const KEEP_ALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(10))
    .with_retries(5);

/// What is written goes out at once, and the kernel finds out whether the peer is still there. Connections that are accepted
/// have what their listening socket has.
pub fn prepare(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEP_ALIVE)
}
