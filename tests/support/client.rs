//! A client that sends bytes as they are and reads answers one by one.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::origin;

/// Nothing in a test takes so long unless it hangs.
pub const LONG: Duration = Duration::from_secs(10);

/// One connection to a gateway.
pub struct Client {
    pub stream: TcpStream,
    pub buffer: Vec<u8>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    pub trailers: Vec<String>,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let all = origin::headers(&self.head, name);
        assert!(all.len() <= 1, "{name} several times in {}", self.head);
        all.first().copied()
    }

    /// Why the gateway answered by itself.
    pub fn reason(&self) -> Option<&str> {
        self.header("x-witgate-reason")
    }
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends a GET and reads its answer.
    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await;
        self.answer().await
    }

    /// The next answer to a request that was no HEAD.
    pub async fn answer(&mut self) -> Answer {
        self.try_answer(false).await.expect("an answer before the connection ends")
    }

    /// The next answer to a HEAD.
    pub async fn answer_to_head(&mut self) -> Answer {
        self.try_answer(true).await.expect("an answer before the connection ends")
    }

    /// The next answer, or none if the connection ends before it is complete.
    pub async fn try_answer(&mut self, to_head: bool) -> Option<Answer> {
        tokio::time::timeout(LONG, self.read_answer(to_head)).await.expect("an answer in time")
    }

    async fn read_answer(&mut self, to_head: bool) -> Option<Answer> {
        let Self { stream, buffer } = self;
        let head = origin::read_head(stream, buffer).await?;
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        let (mut body, mut trailers) = (Vec::new(), Vec::new());
        let length = origin::headers(&head, "content-length").first().map(|length| length.parse().unwrap());
        let empty = to_head || status < 200 || status == 204 || status == 304;
        if empty {
        } else if !origin::headers(&head, "transfer-encoding").is_empty() {
            (body, trailers) = origin::read_chunked(stream, buffer).await?;
        } else if let Some(length) = length {
            body = origin::take(stream, buffer, length).await?;
        } else {
            body = std::mem::take(buffer);
            stream.read_to_end(&mut body).await.ok()?;
        }
        Some(Answer { status, head, body, trailers })
    }

    /// Everything until the gateway closes the connection.
    pub async fn rest(&mut self) -> String {
        let mut all = std::mem::take(&mut self.buffer);
        let read = self.stream.read_to_end(&mut all);
        let _ = tokio::time::timeout(LONG, read).await.expect("the connection ends");
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Waits until the gateway closes the connection, and nothing more comes.
    pub async fn closed(&mut self) {
        assert_eq!(self.rest().await, "");
    }
}

/// Waits for a fact.
pub async fn until(what: &str, mut fact: impl FnMut() -> bool) {
    let waiting = async {
        while !fact() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}
