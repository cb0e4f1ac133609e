//! What stands between the gateway and a registry that speaks HTTP: it passes everything on, until a test has it
//! change the answers.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use super::origin::{Origin, Seen, read_request};

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
    plan: Arc<Mutex<Plan>>,
    origin: Origin,
}

struct Plan {
    to: Option<SocketAddr>,
    tampering: Tampering,
}

impl Tampered {
    /// Passes nothing on yet: connections end at once.
    pub async fn start() -> Self {
        let plan = Arc::new(Mutex::new(Plan { to: None, tampering: Tampering::None }));
        let current = plan.clone();
        let origin = Origin::connected(move |stream, connection, seen| {
            let plan = current.clone();
            async move {
                // An error is the end of one side, and then of the other.
                let _ = serve(stream, connection, &seen, &plan).await;
            }
        })
        .await;
        Self { address: origin.address, plan, origin }
    }

    /// Where everything goes from now on.
    pub fn to(&self, address: SocketAddr) {
        self.plan.lock().unwrap().to = Some(address);
    }

    /// What becomes of answers from now on, those on their way included.
    pub fn does(&self, tampering: Tampering) {
        self.plan.lock().unwrap().tampering = tampering;
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
    plan: &Mutex<Plan>,
) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    let Some(request) = read_request(&mut stream, &mut buffer, connection).await else { return Ok(()) };
    let Some(to) = plan.lock().unwrap().to else { return Ok(()) };
    seen.lock().unwrap().push(request.clone());
    let answer = {
        let mut gone = [0];
        tokio::select! {
            answer = ask(to, &request) => answer?,
            // Who asked has left, and wants no answer any more.
            _ = stream.read(&mut gone) => return Ok(()),
        }
    };
    let tampering = plan.lock().unwrap().tampering.clone();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap_or(answer.len());
    match tampering {
        Tampering::None => stream.write_all(&answer).await?,
        Tampering::Cut => stream.write_all(&answer[..(end + answer.len()) / 2 + 2]).await?,
        Tampering::Instead(headers, body) => {
            let length = body.len();
            let text = format!("HTTP/1.1 200 OK\r\n{headers}content-length: {length}\r\n\r\n{body}");
            stream.write_all(text.as_bytes()).await?;
        }
        Tampering::Refused(status, body) => {
            let length = body.len();
            let text = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
            stream.write_all(text.as_bytes()).await?;
        }
        Tampering::Slow => {
            let (head, body) = answer.split_at((end + 4).min(answer.len()));
            stream.write_all(head).await?;
            for byte in body {
                sleep(Duration::from_millis(200)).await;
                stream.write_all(&[*byte]).await?;
            }
        }
        Tampering::Headers(lines) => {
            let line = answer.windows(2).position(|bytes| bytes == b"\r\n").unwrap() + 2;
            stream.write_all(&answer[..line]).await?;
            stream.write_all(lines.as_bytes()).await?;
            stream.write_all(&answer[line..]).await?;
        }
    }
    // The registry was asked to close its connection, and that is what the answer says.
    stream.shutdown().await
}

/// The whole answer, as it comes over a connection of its own.
async fn ask(to: SocketAddr, request: &Seen) -> std::io::Result<Vec<u8>> {
    let mut registry = TcpStream::connect(to).await?;
    let head = request.head.trim_end_matches("\r\n").to_owned() + "\r\nconnection: close\r\n\r\n";
    registry.write_all(head.as_bytes()).await?;
    registry.write_all(&request.body).await?;
    let mut answer = Vec::new();
    registry.read_to_end(&mut answer).await?;
    Ok(answer)
}
