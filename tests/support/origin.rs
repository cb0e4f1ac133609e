//! Backends that record what they saw and misbehave on request.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A request as it came over the wire.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Which connection it came over, from 0.
    pub connection: usize,
    /// First line and headers, with their line ends.
    pub head: String,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// Trailer lines of a chunked body.
    pub trailers: Vec<String>,
}

impl Seen {
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or("")
    }

    pub fn path(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or("")
    }

    /// All values of a header, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        headers(&self.head, name)
    }

    /// The one value of a header; panics if there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} several times in {}", self.head);
        all.first().copied()
    }
}

/// What to do with a request.
pub enum Reply {
    /// These bytes, and keep the connection.
    Bytes(Vec<u8>),
    /// These bytes, and close it.
    Close(Vec<u8>),
    /// Nothing, for ever.
    Hang,
}

impl Reply {
    pub fn text(body: &str) -> Self {
        Self::Bytes(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes())
    }

    pub fn status(status: u16) -> Self {
        Self::Bytes(format!("HTTP/1.1 {status} Some\r\ncontent-length: 0\r\n\r\n").into_bytes())
    }

    pub fn raw(bytes: &str) -> Self {
        Self::Bytes(bytes.as_bytes().to_vec())
    }
}

/// A backend on a port of its own. Stops when it is dropped.
pub struct Origin {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Origin {
    /// Answers every request with its name.
    pub async fn start(name: &'static str) -> Self {
        Self::replying(move |_| Reply::text(name)).await
    }

    /// Answers every request as the function says.
    pub async fn replying(reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let reply = Arc::new(reply);
        Self::connected(move |mut stream, connection, seen| {
            let reply = reply.clone();
            async move {
                let mut buffer = Vec::new();
                while let Some(request) = read_request(&mut stream, &mut buffer, connection).await {
                    let answer = reply(&request);
                    seen.lock().unwrap().push(request);
                    match answer {
                        Reply::Bytes(bytes) => stream.write_all(&bytes).await.unwrap_or(()),
                        Reply::Close(bytes) => return stream.write_all(&bytes).await.unwrap_or(()),
                        Reply::Hang => std::future::pending().await,
                    }
                }
            }
        })
        .await
    }

    /// Hands every connection to the function.
    pub async fn connected<F, R>(serve: F) -> Self
    where
        F: Fn(TcpStream, usize, Arc<Mutex<Vec<Seen>>>) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, connections) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::<AtomicUsize>::default());
        let (record, count) = (seen.clone(), connections.clone());
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                open.spawn(serve(stream, count.fetch_add(1, SeqCst), record.clone()));
            }
        });
        Self { address, seen, connections, task }
    }

    /// The requests that came, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

/// All values of a header in a head.
pub fn headers<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
}

/// Reads a request; none at the end of the connection. What was read too far stays in the buffer.
pub async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>, connection: usize) -> Option<Seen> {
    let head = read_head(stream, buffer).await?;
    let (body, trailers) = if !headers(&head, "transfer-encoding").is_empty() {
        read_chunked(stream, buffer).await?
    } else {
        let length = headers(&head, "content-length").first().map_or(0, |length| length.parse().unwrap());
        (take(stream, buffer, length).await?, Vec::new())
    };
    Some(Seen { connection, head, body, trailers })
}

pub async fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = buffer.drain(..end + 4).collect();
            return Some(String::from_utf8(head).unwrap());
        }
        more(stream, buffer).await?;
    }
}

pub async fn read_chunked(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(Vec<u8>, Vec<String>)> {
    let mut body = Vec::new();
    loop {
        let size = line(stream, buffer).await?;
        let size = usize::from_str_radix(size.split(';').next().unwrap(), 16).unwrap();
        if size == 0 {
            break;
        }
        body.extend(take(stream, buffer, size).await?);
        assert_eq!(line(stream, buffer).await?, "");
    }
    let mut trailers = Vec::new();
    loop {
        match line(stream, buffer).await? {
            line if line.is_empty() => return Some((body, trailers)),
            line => trailers.push(line),
        }
    }
}

pub async fn take(stream: &mut TcpStream, buffer: &mut Vec<u8>, length: usize) -> Option<Vec<u8>> {
    while buffer.len() < length {
        more(stream, buffer).await?;
    }
    Some(buffer.drain(..length).collect())
}

async fn line(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(2).position(|bytes| bytes == b"\r\n") {
            let line: Vec<u8> = buffer.drain(..end + 2).collect();
            return Some(String::from_utf8(line[..end].to_vec()).unwrap());
        }
        more(stream, buffer).await?;
    }
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    match stream.read_buf(buffer).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(()),
    }
}

/// An address whose queue of connections is full, so that no other is made while what is beside it lives.
pub fn full() -> (SocketAddr, impl Sized) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let waiting = std::net::TcpStream::connect(address).unwrap();
    (address, (socket, waiting))
}
