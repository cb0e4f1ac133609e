//! Whether a service takes connections.

use std::{io, time::Duration};

use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout_at},
};

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// Waits until somebody takes a connection at `host:port`. After `wait` it says why nobody did.
pub(super) async fn answers(address: &str, wait: Duration) -> Result<(), io::Error> {
    let until = Instant::now() + wait;
    let mut why = io::Error::from(io::ErrorKind::TimedOut);
    loop {
        match timeout_at(until, connect(address)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => why = error,
            Err(_) => return Err(why),
        }
        if Instant::now() + PAUSE >= until {
            return Err(why);
        }
        sleep(PAUSE).await;
    }
}

async fn connect(address: &str) -> io::Result<()> {
    let stream = TcpStream::connect(address).await?;
    // Where nobody listens on a port that Linux gives to whoever asks, a connection may come to itself.
    match stream.local_addr()? == stream.peer_addr()? {
        true => Err(io::ErrorKind::ConnectionRefused.into()),
        false => Ok(()),
    }
}
