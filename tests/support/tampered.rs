//! What stands between the gateway and a registry that speaks HTTP: it passes everything on, until a test has it
//! change the answers.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use rustls::ClientConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    origin::{Origin, Seen, read_request},
    tls,
};

/// An answer that goes on telling is taken to be there when nothing more has come for so long.
const SILENCE: Duration = Duration::from_millis(300);

/// What becomes of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tampering {
    /// It is passed on.
    None,
    /// It ends in the middle of its body, and so does the connection.
    Cut,
    /// This is in its place, with status 200 and these lines among its headers.
    Instead(&'static str, &'static str),
    /// These lines are put to its headers.
    Headers(&'static str),
    /// This is in its place, after this status.
    Refused(&'static str, &'static str),
    /// Its head comes at once, and of its body a byte in each fifth of a second.
    Slow,
}

/// Stops when it is dropped.
pub struct Tampered {
    pub address: SocketAddr,
    plan: watch::Sender<Plan>,
    origin: Origin,
}

#[derive(Clone)]
struct Plan {
    to: Option<SocketAddr>,
    /// What is believed of the registry, where it speaks TLS.
    tls: Option<Arc<ClientConfig>>,
    tampering: Tampering,
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

impl Tampered {
    /// Passes nothing on yet: connections end at once.
    pub async fn start() -> Self {
        let plan = watch::channel(Plan { to: None, tls: None, tampering: Tampering::None }).0;
        let current = plan.clone();
        let origin = Origin::connected(move |stream, connection, seen| {
            let plan = current.subscribe();
            async move {
                // An error is the end of one side, and then of the other.
                let _ = serve(stream, connection, &seen, plan).await;
            }
        })
        .await;
        Self { address: origin.address, plan, origin }
    }

    /// Where everything goes from now on.
    pub fn to(&self, address: SocketAddr) {
        self.plan.send_modify(|plan| plan.to = Some(address));
    }

    /// The same, by TLS.
    pub fn to_tls(&self, address: SocketAddr, config: Arc<ClientConfig>) {
        self.plan.send_modify(|plan| (plan.to, plan.tls) = (Some(address), Some(config)));
    }

    /// What becomes of answers from now on, those on their way included: one that was passed on so far ends.
    pub fn does(&self, tampering: Tampering) {
        self.plan.send_modify(|plan| plan.tampering = tampering);
    }

    /// The requests that came, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.origin.seen()
    }
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    seen: &Mutex<Vec<Seen>>,
    mut plan: watch::Receiver<Plan>,
) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    let Some(request) = read_request(&mut stream, &mut buffer, connection).await else { return Ok(()) };
    let Plan { to: Some(to), tls, .. } = plan.borrow().clone() else { return Ok(()) };
    seen.lock().unwrap().push(request.clone());
    let (mut client, mut sink) = stream.split();
    let mut gone = [0];
    tokio::select! {
        passed = pass(to, tls, &request, &mut sink, &mut plan) => passed?,
        // Who asked has left, and wants no answer any more.
        _ = client.read(&mut gone) => return Ok(()),
    }
    // The registry was asked to close its connection, and that is what the answer says.
    sink.shutdown().await
}

/// Asks the registry and passes on what it says, as the plan is when the head of that is there.
async fn pass(
    to: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    request: &Seen,
    sink: &mut (impl AsyncWrite + Unpin),
    plan: &mut watch::Receiver<Plan>,
) -> std::io::Result<()> {
    let mut registry: Box<dyn Wire> = match tls {
        None => Box::new(TcpStream::connect(to).await?),
        Some(config) => Box::new(tls::connect(&config, to, "localhost").await?),
    };
    let head = request.head.trim_end_matches("\r\n").to_owned() + "\r\nconnection: close\r\n\r\n";
    registry.write_all(head.as_bytes()).await?;
    registry.write_all(&request.body).await?;
    let mut answer = Vec::new();
    let end = loop {
        if let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        if registry.read_buf(&mut answer).await? == 0 {
            break answer.len();
        }
    };
    let tampering = plan.borrow_and_update().tampering.clone();
    match tampering {
        Tampering::None => {
            sink.write_all(&answer).await?;
            rest(&mut registry, sink, plan, &Tampering::None).await
        }
        Tampering::Headers(lines) => {
            let line = answer.windows(2).position(|bytes| bytes == b"\r\n").unwrap() + 2;
            sink.write_all(&answer[..line]).await?;
            sink.write_all(lines.as_bytes()).await?;
            sink.write_all(&answer[line..]).await?;
            rest(&mut registry, sink, plan, &tampering).await
        }
        Tampering::Cut => {
            while matches!(timeout(SILENCE, registry.read_buf(&mut answer)).await, Ok(Ok(1..))) {}
            sink.write_all(&answer[..(end + answer.len()) / 2]).await
        }
        Tampering::Instead(headers, body) => {
            let length = body.len();
            let text = format!("HTTP/1.1 200 OK\r\n{headers}content-length: {length}\r\n\r\n{body}");
            sink.write_all(text.as_bytes()).await
        }
        Tampering::Refused(status, body) => {
            let length = body.len();
            let text = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
            sink.write_all(text.as_bytes()).await
        }
        Tampering::Slow => {
            sink.write_all(&answer[..end]).await?;
            let mut ahead = &answer[end..];
            loop {
                let mut byte = [0];
                match ahead.split_first() {
                    Some((first, rest)) => (byte, ahead) = ([*first], rest),
                    None if registry.read(&mut byte).await? == 0 => return Ok(()),
                    None => {}
                }
                sleep(Duration::from_millis(200)).await;
                sink.write_all(&byte).await?;
            }
        }
    }
}

/// Passes on what is left, as it comes, until another thing is to become of it.
async fn rest(
    registry: &mut (impl AsyncRead + Unpin),
    sink: &mut (impl AsyncWrite + Unpin),
    plan: &mut watch::Receiver<Plan>,
    tampering: &Tampering,
) -> std::io::Result<()> {
    tokio::select! {
        passed = tokio::io::copy(registry, sink) => passed.map(drop),
        _ = plan.wait_for(|plan| plan.tampering != *tampering) => Ok(()),
    }
}
